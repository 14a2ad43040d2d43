"""A worker of `benchmarks.two_sites`: trains on its share of scikit-learn's handwritten digits, once a way and seed.

Reads RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and OFFERFLOW_SITE as a worker that was launched would; the ways come
as JSON, name → the environment that a plan would have set. The first worker prints one line of JSON a run.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits

from agents.training.ddp import distributed
from agents.training.settings import from_environment

WIDTH, BATCH, RATE, MOMENTUM = 512, 32, 0.05, 0.9
N_TEST = 360
SENT = Path("/sys/class/net/v0/statistics/tx_bytes")


def main(ways: dict[str, dict[str, str]], n_epochs: int, n_seeds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = load_digits()
    order = torch.randperm(len(found.data), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(found.data / 16.0, dtype=torch.float32)[order]
    digits = torch.tensor(found.target)[order]
    for seed in range(1, n_seeds + 1):  # Ways side by side, so that a busier minute hits all alike.
        for way, env in ways.items():
            told = train(os.environ | env, images, digits, n_epochs, seed)
            if dist.get_rank() == 0:
                print(json.dumps({"way": way, "seed": seed, **told}), flush=True)
    dist.destroy_process_group()


def train(
    env: dict[str, str], images: torch.Tensor, digits: torch.Tensor, n_epochs: int, seed: int
) -> dict[str, float]:
    torch.manual_seed(seed)  # The same start and the same order of samples on every worker.
    rank, n_workers = dist.get_rank(), dist.get_world_size()
    module = torch.nn.Sequential(
        torch.nn.Linear(64, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(),
        torch.nn.Linear(WIDTH, 10),
    )  # fmt: skip
    settings = from_environment(env)
    model, optimizer = distributed(module, torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM), settings)
    train_images, train_digits = images[N_TEST:], digits[N_TEST:]
    dist.barrier()
    began, sent, n_steps = time.perf_counter(), int(SENT.read_text()), 0
    for _ in range(n_epochs):
        shuffled = torch.randperm(len(train_images))
        for first in range(0, len(shuffled) - BATCH * n_workers + 1, BATCH * n_workers):
            mine = shuffled[first + rank * BATCH : first + (rank + 1) * BATCH]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(train_images[mine]), train_digits[mine]).backward()
            optimizer.step()
            n_steps += 1
    dist.barrier()
    took_s, sent = time.perf_counter() - began, int(SENT.read_text()) - sent
    for parameter in module.parameters():  # Between two synchronisations workers differ: the model is their mean.
        dist.all_reduce(parameter.data)
        parameter.data /= n_workers
    with torch.no_grad():
        right = (module(images[:N_TEST]).argmax(dim=1) == digits[:N_TEST]).float().mean()
    return {"accuracy": float(right), "took_s": took_s, "uplink_bytes": sent, "n_steps": n_steps}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

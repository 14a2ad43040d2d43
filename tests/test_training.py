"""The helper in `agents.training`: what workers were told, and that PyTorch then communicates so."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.training.settings import Settings, from_environment, wait_us

ROOT = Path(__file__).parents[1]
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed (extra `torch`)"
)


def test_settings_are_read_from_the_environment() -> None:
    assert from_environment({}) == Settings()
    told = {
        "OFFERFLOW_COMM_AGGREGATE": "site", "OFFERFLOW_COMM_COMPRESSION": "fp16", "OFFERFLOW_COMM_LOCAL_STEPS": "8",
        "OFFERFLOW_COMM_GROUP": "plant/r1", "OFFERFLOW_SITE": "plant", "OFFERFLOW_COMM_SHIFT_US": "0",
        "OFFERFLOW_COMM_ITERATION_US": "100000", "OFFERFLOW_BATCH_PER_WORKER": "64",
    }  # fmt: skip
    assert from_environment(told) == Settings(
        aggregate="site", compression="fp16", local_steps=8, group="plant/r1", shift_us=0, iteration_us=100_000,
        batch_per_worker=64,
    )  # fmt: skip
    assert from_environment({"OFFERFLOW_SITE": "plant"}).group == "plant"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OFFERFLOW_COMM_AGGREGATE", "planet"),
        ("OFFERFLOW_COMM_COMPRESSION", "zip"),
        ("OFFERFLOW_COMM_LOCAL_STEPS", "-1"),
    ],
)
def test_what_cannot_be_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        from_environment({name: value})


def test_steps_begin_at_their_shift() -> None:
    told = Settings(shift_us=30, iteration_us=100)
    assert [wait_us(told, at) for at in (1000, 1030, 1031, 1099)] == [30, 0, 99, 31]
    assert wait_us(Settings(), 1234) == 0


WORKER = """
import json, os, sys
import torch
import torch.distributed as dist
from agents.training.ddp import distributed
from agents.training.settings import from_environment

torch.set_num_threads(1)
dist.init_process_group("gloo")
out = {}
for way, env in json.loads(sys.argv[1]).items():
    torch.manual_seed(1)
    module = torch.nn.Linear(8, 4)
    start = module.weight.detach().clone()
    model, optimizer = distributed(
        module, torch.optim.SGD(module.parameters(), lr=0.1), from_environment(os.environ | env), exact_steps=2
    )
    means = []
    for step in range(5):
        torch.manual_seed(100 * step + dist.get_rank())
        optimizer.zero_grad()
        model(torch.randn(3, 8)).square().sum().backward()
        optimizer.step()
        total = module.weight.detach().clone()
        dist.all_reduce(total)
        means.append((total / dist.get_world_size()).flatten().tolist())
    out[way] = {"means": means, "own": module.weight.flatten().tolist()}
print(json.dumps(out))
dist.destroy_process_group()
"""

WAYS: dict[str, dict[str, str]] = {
    "plain": {},
    "site": {"OFFERFLOW_COMM_AGGREGATE": "site"},
    "site, fp16": {"OFFERFLOW_COMM_AGGREGATE": "site", "OFFERFLOW_COMM_COMPRESSION": "fp16"},
    "fp16": {"OFFERFLOW_COMM_COMPRESSION": "fp16"},
    "powersgd": {"OFFERFLOW_COMM_COMPRESSION": "powersgd"},
    "local": {"OFFERFLOW_COMM_LOCAL_STEPS": "3"},
}


@pytest.fixture(scope="module")
def trained() -> list[dict[str, Any]]:
    """What each of four workers, two at each of two sites, ends with, by way."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(WAYS)], stdout=subprocess.PIPE, text=True,
            env={**common, "RANK": str(rank), "OFFERFLOW_SITE": f"site-{rank // 2}"},
        )
        for rank in range(4)
    ]  # fmt: skip
    said = [worker.communicate(timeout=240)[0] for worker in workers]
    assert not any(worker.returncode for worker in workers)
    return [json.loads(text) for text in said]


@needs_torch
@pytest.mark.slow
def test_what_only_changes_the_path_changes_no_result(trained: list[dict[str, Any]]) -> None:
    plain = trained[0]["plain"]["own"]
    assert trained[0]["site"]["own"] == pytest.approx(plain, abs=1e-6)
    for way in ("fp16", "site, fp16"):
        assert trained[0][way]["own"] == pytest.approx(plain, abs=2e-2)
        assert trained[0][way]["own"] != plain


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("way", ["plain", "site", "site, fp16", "fp16", "powersgd"])
def test_all_workers_have_the_same_model_after_each_step(trained: list[dict[str, Any]], way: str) -> None:
    for worker in trained[1:]:
        assert worker[way]["own"] == pytest.approx(trained[0][way]["own"], abs=1e-6)


@needs_torch
@pytest.mark.slow
def test_with_local_steps_sites_part_and_meet_again(trained: list[dict[str, Any]]) -> None:
    local = [worker["local"]["own"] for worker in trained]
    assert local[0] == pytest.approx(local[1], abs=1e-6) and local[2] == pytest.approx(local[3], abs=1e-6)
    assert local[0] != pytest.approx(local[2], abs=1e-4), "between two synchronisations each site goes its way"
    assert trained[0]["local"]["means"][1] == pytest.approx(trained[0]["plain"]["means"][1], abs=1e-6), "exact first"


@needs_torch
@pytest.mark.slow
def test_over_a_real_link_savings_send_less_at_equal_accuracy() -> None:
    from benchmarks import two_sites

    lacking = two_sites.missing()
    if lacking:
        pytest.skip(lacking)
    ways = {name: two_sites.WAYS[name] for name in ("plain", "site aggregation", "PowerSGD")}
    found = {each.way: each for each in two_sites.run(ways, n_epochs=4, n_seeds=1, rate_bps=200_000_000)}
    plain, aggregated, lowrank = (found[name] for name in ways)
    assert aggregated.uplink_bytes < 0.75 * plain.uplink_bytes and lowrank.uplink_bytes < 0.5 * plain.uplink_bytes
    assert min(aggregated.accuracy, lowrank.accuracy) > plain.accuracy - 0.03

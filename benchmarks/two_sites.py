"""`python -m benchmarks.two_sites`: one training job over two sites, with and without the savings a plan may choose.

Two hosts (network namespaces, real packets) with two workers each, a shaped link between them; gloo, CPU. Every way
runs the same epochs from the same start on the same data. Bytes are those that the first host's device sent during the
training loop, headers included; time is that of the loop; accuracy that of the mean model on digits nobody trained on.
Needs root, iproute2, PyTorch (extra `torch`) and scikit-learn.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.netns import ADDRESSES, ROOT, pair, why_not
from policies.model import Record

WORKERS_PER_SITE = 2
WAYS: dict[str, dict[str, str]] = {
    "plain": {},
    "site aggregation": {"OFFERFLOW_COMM_AGGREGATE": "site"},
    "fp16": {"OFFERFLOW_COMM_COMPRESSION": "fp16"},
    "site aggregation + fp16": {"OFFERFLOW_COMM_AGGREGATE": "site", "OFFERFLOW_COMM_COMPRESSION": "fp16"},
    "PowerSGD": {"OFFERFLOW_COMM_COMPRESSION": "powersgd"},
    "8 local steps": {"OFFERFLOW_COMM_LOCAL_STEPS": "8"},
}


class Run(Record, frozen=True, kw_only=True, omit_defaults=False):
    way: str
    seed: int
    uplink_bytes: int
    took_s: float
    n_steps: int
    accuracy: float


def missing() -> str:
    """What keeps this machine from running it; "" for nothing."""
    for name in ("torch", "sklearn"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    return why_not()


def run(ways: dict[str, dict[str, str]], n_epochs: int, n_seeds: int, rate_bps: int) -> Iterator[Run]:
    """Each run as it ends. Raises RuntimeError where a worker failed."""
    with pair((rate_bps, rate_bps)) as hosts:
        arguments = ("-P", "-m", "benchmarks.two_sites_worker", json.dumps(ways), str(n_epochs), str(n_seeds))
        common = {
            **os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": str(2 * WORKERS_PER_SITE),
            "MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "v0", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        workers = []
        try:
            for rank in range(2 * WORKERS_PER_SITE):
                host = rank // WORKERS_PER_SITE
                env = {**common, "RANK": str(rank), "OFFERFLOW_SITE": f"site-{host}"}
                workers.append(hosts.popen(host, sys.executable, *arguments, env=env))
            assert workers[0].stdout is not None, "piped"
            for line in workers[0].stdout:
                yield msgspec.json.decode(line, type=Run)
            if any(worker.wait(timeout=60) for worker in workers):
                raise RuntimeError("a worker failed")
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_sites", description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each way")
    parser.add_argument("--mbit", type=int, default=50, help="the link's rate, each direction")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    lacking = missing()
    if lacking:
        print(f"cannot run: {lacking}", file=sys.stderr)
        return 1
    runs: list[Run] = []
    print(f"{'way':24} {'seed':>4} {'MB over the link':>17} {'time':>8} {'accuracy':>9}")
    for each in run(WAYS, given.epochs, given.seeds, given.mbit * 1_000_000):
        runs.append(each)
        megabytes = each.uplink_bytes / 1e6
        print(
            f"{each.way:24} {each.seed:>4} {megabytes:>17.1f} {each.took_s:>6.1f} s {each.accuracy:>9.4f}", flush=True
        )
    print(f"\nmedians of {given.seeds}, against plain:")
    for way in WAYS:
        size, took, right = _medians(runs, way)
        base_size, base_took, base_right = _medians(runs, "plain")
        print(
            f"{way:24} {size / 1e6:8.1f} MB ({base_size / size:4.1f}x fewer), {took:6.1f} s ({base_took / took:4.1f}x "
            f"faster), accuracy {right:.4f} ({100 * (right - base_right):+.1f} points)"
        )
    if given.json:
        rows = msgspec.to_builtins(runs)
        given.json.write_text(json.dumps({"mbit": given.mbit, "epochs": given.epochs, "runs": rows}, indent=2))
    return 0


def _medians(runs: list[Run], way: str) -> tuple[float, float, float]:
    own = [each for each in runs if each.way == way]
    return (
        statistics.median(each.uplink_bytes for each in own),
        statistics.median(each.took_s for each in own),
        statistics.median(each.accuracy for each in own),
    )


if __name__ == "__main__":
    sys.exit(main())

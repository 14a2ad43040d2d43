"""How much training the policy `learned` varies from seed to seed.

    python -m benchmarks.learning_seeds --data TRACES/deeprm --keep FOLDER [--decisions 250000] [--seeds 1 2 3 4 5]

Each seed trains a network (`offerflow policy train`), kept in the folder and used again, and is judged on the published
sequences, none of which it was trained on, as `benchmarks.truth deeprm` judges the one that ships. Printed: mean
slowdown over seeds with the 95 % interval (Student's t) beside every heuristic of the reference file. Needs the extra
`learn`. Exit code 1 unless the whole interval is below the best heuristic at every rate.
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

from benchmarks.truth.deeprm import learned_slowdown
from policies.learned import Network
from scenarios.learning import Training, save, train

T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # by number of seeds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_seeds", description="Training, over seeds.")
    parser.add_argument("--data", type=Path, required=True, help="the folder of DeepRM's published sequences")
    parser.add_argument("--keep", type=Path, required=True, help="the folder of the networks made so far")
    parser.add_argument("--decisions", type=int, default=250_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    given = parser.parse_args()
    if not 2 <= len(given.seeds) <= max(T_95):
        parser.error(f"--seeds: 2 to {max(T_95)}")
    reference = json.loads((given.data / "heuristics_reference.json").read_text())
    rates = sorted({row["rate"] for row in reference})
    slowdowns: dict[float, list[float]] = {rate: [] for rate in rates}
    for seed in given.seeds:
        network = _network(given.keep / f"{given.decisions}-{seed}.npz", given.decisions, seed)
        for rate in rates:
            slowdowns[rate].append(learned_slowdown(network, given.data, rate, None))
        print(f"seed {seed}: " + ", ".join(f"{slowdowns[rate][-1]:.4f}" for rate in rates), flush=True)
    is_below = True
    for rate in rates:
        mean = statistics.fmean(slowdowns[rate])
        half = T_95[len(given.seeds)] * statistics.stdev(slowdowns[rate]) / math.sqrt(len(given.seeds))
        others = {row["policy"]: row["slowdown"] for row in reference if row["rate"] == rate}
        is_below &= mean + half < min(others.values())
        print(f"rate {rate}: learned {mean:.4f} ± {half:.4f}; " + ", ".join(f"{k} {v:.4f}" for k, v in others.items()))
    return 0 if is_below else 1


def _network(path: Path, n_decisions: int, seed: int) -> Network:
    """Read, or trained and kept."""
    if not path.exists():
        began_s = time.process_time()
        save(train(Training(n_decisions=n_decisions, seed=seed)), path)
        print(f"seed {seed} trained in {time.process_time() - began_s:.0f} s of CPU time", flush=True)
    return Network.load(path)


if __name__ == "__main__":
    sys.exit(main())

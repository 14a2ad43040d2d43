"""`python -m benchmarks.truth deeprm|openb --data FOLDER --json PATH`: policy, measured, reference, error.

Exit code 1 when a number is outside its tolerance. Data and licences: see docs/results.md.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from benchmarks.truth import deeprm, openb
from benchmarks.truth.result import Result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth", description="Published results, reproduced.")
    parser.add_argument("experiment", choices=("deeprm", "openb"))
    parser.add_argument("--data", type=Path, required=True, help="the folder with files of that experiment's format")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--limit", type=int, help="deeprm: sequences a rate; openb: seeds (default: all, and 10)")
    given = parser.parse_args()
    results = (deeprm.run if given.experiment == "deeprm" else openb.run)(given.data, given.limit)
    print(f"{'experiment':18} {'policy':16} {'measure':18} {'measured':>10} {'reference':>10} {'error':>9}  within")
    for each in results:
        print(_line(each))
    if given.json:
        rows = [msgspec.to_builtins(each) | {"error": each.error, "within": each.is_within} for each in results]
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode({"results": rows}), indent=2))
    return 0 if all(each.is_within for each in results) else 1


def _line(each: Result) -> str:
    within = "yes" if each.is_within else f"NO (±{each.tolerance:.3f})"
    return (
        f"{each.experiment:18} {each.policy:16} {each.measure:18} {each.measured:10.4f} {each.reference:10.4f} "
        f"{each.error:+9.4f}  {within}"
    )


if __name__ == "__main__":
    sys.exit(main())

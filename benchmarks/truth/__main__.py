"""`python -m benchmarks.truth deeprm|gavel|openb --data FOLDER --json PATH`: policy, measured, reference, error.

Exit code 1 when a number is outside its tolerance, 2 where the folder holds other files. Data and licences:
see docs/results.md.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from benchmarks.truth import deeprm, gavel, openb
from benchmarks.truth.result import Result

_RUNS = {"deeprm": deeprm.run, "gavel": gavel.run, "openb": openb.run}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth", description="Published results, reproduced.")
    parser.add_argument("experiment", choices=tuple(_RUNS))
    parser.add_argument("--data", type=Path, required=True, help="the folder with files of that experiment's format")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    limit = "deeprm: sequences a rate; gavel: runs; openb: seeds (default: all, all, 10)"
    parser.add_argument("--limit", type=int, help=limit)
    given = parser.parse_args()
    try:
        results = _RUNS[given.experiment](given.data, given.limit)
    except OSError as error:
        own = f"--data is the folder with the files of {given.experiment} itself, such as TRACES/{given.experiment}"
        parser.error(f"{error.filename}: {error.strerror}; {own}")
    except (ValueError, KeyError) as error:
        parser.error(f"{given.data} holds a file that is not of the format of {given.experiment}: {error!r}")
    print(f"{'experiment':18} {'policy':25} {'measure':18} {'measured':>10} {'reference':>10} {'error':>9}  within")
    for each in results:
        print(_line(each))
    if given.json:
        rows = [msgspec.to_builtins(each) | {"error": each.error, "within": each.is_within} for each in results]
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode({"results": rows}), indent=2))
    return 0 if all(each.is_within for each in results) else 1


def _line(each: Result) -> str:
    within = "yes" if each.is_within else f"NO (±{each.tolerance:.3f})"
    return (
        f"{each.experiment:18} {each.policy:25} {each.measure:18} {each.measured:10.4f} {each.reference:10.4f} "
        f"{each.error:+9.4f}  {within}"
    )


if __name__ == "__main__":
    sys.exit(main())

"""Each shipped scenario keeps its laws, its expectations and its digest. `pytest --bless` writes the digests anew, on
purpose only: a changed digest means that some decision, message or fact of the product changed. What takes hours as
shipped is played smaller (`benchmarks.comparison.smaller`)."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.comparison.smaller import parameters_of
from federation.errors import ConfigError
from scenarios.runs import Case, cases_of, compare, run_case

ROOT = Path(__file__).parents[1]
TRACES = ROOT.parent / "shared" / "traces"
GOLDEN = ROOT / "tests" / "golden"
# Seconds each; the others take ten and more, and run with `-m slow`.
QUICK = ("quickstart", "federated-learning", "poison-job")
SCENARIOS = sorted((ROOT / "scenarios").glob("*.yaml"))


@pytest.mark.parametrize(
    "path",
    [path if path.stem in QUICK else pytest.param(path, marks=pytest.mark.slow) for path in SCENARIOS],
    ids=lambda path: path.stem,
)
def test_a_shipped_scenario_plays_as_it_did(path: Path, bless: bool) -> None:
    try:
        scenario, cases = cases_of(path, parameters=parameters_of(path.stem), traces=TRACES)
    except ConfigError as error:
        if TRACES.is_dir():
            raise
        pytest.skip(f"published traces are not shipped: {error}")
    results = compare([run_case(case) for case in cases], scenario.expect.slo)
    for result in results:
        assert not result.summary.broken_laws, (*result.summary.broken_laws, *result.summary.tail)
        assert [verdict for verdict in result.verdicts if not verdict.ok] == []
    digests = {name_of(result.case, parameters_of(path.stem)): result.summary.digest for result in results}
    assert len(digests) == len(results), "each run has a digest of its own"
    file = GOLDEN / f"{path.stem}.json"
    if bless:
        file.write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n")
    assert json.loads(file.read_text()) == digests, f"{file.name}: re-bless with pytest --bless if this is meant"


def name_of(case: Case, given: Mapping[str, str]) -> str:
    """Its policy, and the parameters that tell it from the scenario's other runs: a baseline may be the same policy."""
    own = [f"{key}={value}" for key, value in sorted(dict(case.parameters).items()) if given.get(key) != value]
    return " ".join([case.policy, *own])


def test_there_are_enough_scenarios_and_each_says_what_it_is_for() -> None:
    assert len(SCENARIOS) >= 15
    for path in SCENARIOS:
        assert path.read_text().startswith("# "), path


def test_a_case_is_the_same_in_another_process(tmp_path: Path) -> None:
    from concurrent.futures import ProcessPoolExecutor

    case = Case(path=str(ROOT / "scenarios" / "quickstart.yaml"), policy="fifo")
    with ProcessPoolExecutor(1) as pool:
        there = pool.submit(run_case, case).result()
    assert there.summary.digest == run_case(case).summary.digest

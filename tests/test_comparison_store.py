"""The runs of the policy comparison outlive builds: they are read back as written, and changed code is noticed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.comparison.measure import MEASURES, Run, run
from benchmarks.comparison.store import Code, Store
from benchmarks.comparison.table import table_of
from policies import registry

SCENARIOS = Path(__file__).parents[1] / "scenarios"
VALUES = st.none() | st.integers(-999_999, 999_999).map(lambda each: each / 1000)


def run_of(policy: str = "flow", seed: int = 3, **changed: object) -> Run:
    given = {"build": "b", "values": {measure.name: 1.5 for measure in MEASURES}, **changed}
    return Run(scenario="s", scenario_digest="d", policy=policy, seed=seed, rounds=7, broken_laws=(), cpu_s=1.25,
               code="c", outcome="o", **given)  # type: ignore[arg-type]  # fmt: skip


@given(values=st.lists(VALUES, min_size=len(MEASURES), max_size=len(MEASURES)))
def test_a_run_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, values: list[float | None]) -> None:
    store = Store(tmp_path_factory.mktemp("runs"))
    run = run_of(values={measure.name: value for measure, value in zip(MEASURES, values, strict=True)})
    store.add(2, run)
    assert store.read() == [(("s", "flow", 2), run)]
    store.tidy("flow")
    assert store.read() == [(("s", "flow", 2), run)]


def test_the_newest_line_of_a_run_counts_and_half_a_line_does_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(0, run_of(seed=3))
    store.add(0, run_of(seed=4))
    store.add(1, run_of(policy="fifo"))
    file = tmp_path / "s.jsonl"
    file.write_bytes(file.read_bytes()[:-9])  # Stopped while it wrote.
    assert {key: run.seed for key, run in store.read()} == {("s", "flow", 0): 4}
    store.add(2, run_of())
    assert [key[2] for key, _ in store.read()] == [0, 0, 2], "the next line is not spoilt by it"
    store.tidy("flow")
    assert len(file.read_text().splitlines()) == 2


def test_a_run_made_before_a_measure_has_no_value_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(0, run_of())
    file = tmp_path / "s.jsonl"
    file.write_text(file.read_text().replace(",1.5]", "]"))
    ((_, run),) = store.read()
    assert [run.values[measure.name] for measure in MEASURES] == [*[1.5] * (len(MEASURES) - 1), None]


def test_what_others_are_held_against_is_of_their_build(tmp_path: Path) -> None:
    """flow is played anew on a newer build, and changes at two of three seeds: that is no difference of policies."""
    store = Store(tmp_path)
    for policy, mean in (("flow", 10.0), ("fifo", 20.0)):
        for nth in range(3):
            store.add(nth, run_of(policy, nth, build="old", values={"makespan": mean + nth}))
    for policy, nth, mean in (("flow", 0, 10.0), ("flow", 1, 101.0), ("flow", 2, 102.0), ("fifo", 1, 121.0)):
        store.add(nth, run_of(policy, nth, build="new", values={"makespan": mean}))
    for _ in range(2):
        cell = table_of([run for _, run in store.read()], "flow")["s"]["fifo"]["makespan"]
        assert (cell.mean, cell.against) == ((20 + 121 + 22) / 3, (10 + 20) / 2), "at seed 2 nobody knows"
        store.tidy("flow")
    kept = sorted((key[1], key[2], run.build) for key, run in store.read())
    assert kept == [
        ("fifo", 0, "old"), ("fifo", 1, "new"), ("fifo", 2, "old"), ("flow", 0, "new"), ("flow", 0, "old"),
        ("flow", 1, "new"), ("flow", 2, "new"), ("flow", 2, "old"),
    ]  # fmt: skip


def test_policies_are_held_against_each_other_where_the_same_code_played_them(tmp_path: Path) -> None:
    """flow alone is changed and played anew: fifo would do as it did, so it need not be."""
    store = Store(tmp_path)
    for nth in range(2):
        store.add(nth, run_of("fifo", nth, build="old", player="p", values={"makespan": 20.0}))
        store.add(nth, run_of("flow", nth, build="old", player="p", values={"makespan": 15.0}))
        store.add(nth, run_of("flow", nth, build="new", player="p", values={"makespan": 10.0}))
        store.add(nth, run_of("sjf", nth, build="new", player="q", values={"makespan": 5.0}))
    store.tidy("flow")
    cells = table_of([run for _, run in store.read()], "flow")["s"]
    assert cells["fifo"]["makespan"].against == 10.0
    assert cells["sjf"]["makespan"].against is None, "another player"
    assert len(store.read()) == 6, "of flow what it does now"


def test_code_that_decides_changes_the_digest_and_prose_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a_decider"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "policy.py").write_text("import json\nfrom a_decider import part\nfrom a_decider.part import A\n")
    (folder / "unused.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    def digest(text: str, unused: str = "") -> str:
        (folder / "part.py").write_text(text)
        (folder / "unused.py").write_text(unused)
        return Code().digest(["a_decider.policy"], {"a_decider"})

    first = digest("A = 1\n")
    assert digest('"""What it is."""\nA = 1  # because\n"""One."""\n', "B = 2\n") == first
    assert digest("A = 2\n") != first
    before = digest('A = "weights.npz"\n')
    (folder / "weights.npz").write_bytes(b"trained")
    assert digest('A = "weights.npz"\n') != before


def test_every_policy_of_one_module_has_one_code() -> None:
    assert registry.entry("gavel").module == registry.entry("gavel-makespan").module
    gavel, makespan, flow, fifo = map(Code().of_policy, ("gavel", "gavel-makespan", "flow", "fifo"))
    assert gavel == makespan
    assert len({gavel, flow, fifo}) == 3


def test_a_service_is_not_a_task_that_did_not_finish() -> None:
    assert run(SCENARIOS / "swinging-link.yaml", "random", 0, "c", "p", "b").values["unfinished"] == 0

"""Sweeps of a matrix, here and elsewhere, what is written of them, how they are compared, how a failure shrinks."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from federation.broker import free_port
from federation.errors import ConfigError
from scenarios.cli import app, exit_code
from scenarios.difference import compare_results
from scenarios.junit import junit
from scenarios.page import page
from scenarios.report import table, verdict_table
from scenarios.runs import Case, Result, cases_of, run_all, run_case
from scenarios.shrinking import failure_of, shrink
from tests.scenario_world import SMALL, written

BROKEN = SMALL.replace(
    "faults:\n  - {at: 3s, kill: {agents: gw-1}, restart: 2s}",
    """faults:
  - {at: 2s, for: 1s, pause: {agents: gw-1}}
  - {at: 2s, for: 2s, link: [plant, rack], set: {bandwidth: 1Mbit}}
  - {at: 3s, power_off: {agents: "*"}}
  - {at: 4s, for: 1s, partition: [plant, rack]}
  - {at: 5s, for: 1s, messages: {from: agents, duplicate: 50%}}""",
)


PLOTS = (
    "Completion of tasks", "Bytes moved between sites", "Tasks by agent", "Queue by reason", "Link utilisation",
    "Bytes moved by link", "Share against entitlement, while all wanted more",
)  # fmt: skip


def done(_: Result) -> None: ...


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """Two policies, two seeds; arrivals by chance, so that seeds differ; one expectation is missed."""
    text = SMALL.replace("{every: 500ms}", "{poisson: 2/s}").replace("run: 700ms}", "run: 700ms, reads: {size: 1MiB}}")
    text = text.replace("{role: vision,", "{role: vision, at: plant,").replace("roles: {", "roles: {batch: {}, ")
    text = text.replace(
        "faults:",
        "    - {role: batch, arrivals: {bursts: {every: 3s, size: 30, within: 1s}}, to: 6s, "
        "task: {cpu: 1, memory: 64MiB, run: 2s}}\nfaults:",
    )
    text = text.replace("recovery.missing == 0]", "recovery.missing == 0, vision.latency.p99 < 1ms]")
    path = written(tmp_path_factory.mktemp("sweep"), text)
    scenario, cases = cases_of(path, policies=["flow", "fifo"], seeds=[1, 2])
    return run_all(cases, scenario.expect.slo, 2, done)


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_runs_in_other_processes_are_the_same_runs_in_the_same_order(results: list[Result]) -> None:
    assert [(each.summary.policy, each.summary.seed) for each in results] == [
        ("flow", 1), ("fifo", 1), ("flow", 2), ("fifo", 2),
    ]  # fmt: skip
    assert run_case(results[3].case).summary.digest == results[3].summary.digest


@pytest.mark.slow
def test_runs_on_a_ray_cluster_are_the_same_runs(results: list[Result]) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    there = run_all([each.case for each in results], (), 1, done, "ray")
    assert [each.summary.digest for each in there] == [each.summary.digest for each in results]


@pytest.mark.slow
def test_a_cluster_elsewhere_needs_neither_scenario_nor_traces(results: list[Result], tmp_path: Path) -> None:
    """A Ray client server on the loopback, reached by its address as a cluster of others would be."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    port = free_port()
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    ray = str(Path(sys.executable).with_name("ray"))
    node = ["--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--ray-client-server-port={port}"]
    small = ["--num-cpus=2", "--include-dashboard=false", "--object-store-memory=100000000"]
    head = subprocess.Popen(
        [ray, "start", "--head", "--block", *node, *small, f"--temp-dir={tempfile.mkdtemp(prefix='of-ray-')}"],
        env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(port, 60.0)
        case = results[0].case
        command = [sys.executable, "-m", "federation.cli.main", "scenario", "run", case.path, "--policy", "flow"]
        command += ["--seed", "1", "--seed", "2", "--on", f"ray://127.0.0.1:{port}", "-o", "json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 3, done.stderr  # One expectation is missed there, too.
        there = [run["digest"] for run in json.loads(done.stdout)["runs"]]
        assert there == [each.summary.digest for each in results if each.summary.policy == "flow"]
    finally:
        head.terminate()
        head.wait(60.0)


def wait_for_port(port: int, within_s: float) -> None:
    until_s = time.monotonic() + within_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            assert time.monotonic() < until_s, "the cluster does not come up"
            time.sleep(0.2)
        else:
            return


def test_an_address_that_is_no_clusters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ray://HOST"):
        run_all([Case(path=str(written(tmp_path, SMALL)), policy="flow")], (), 1, done, "localhost")


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--on ray needs Ray: pip install 'offerflow\[ray\]'"):
        run_all([Case(path=str(written(tmp_path, SMALL)), policy="flow")], (), 1, done, "ray")


def test_chosen_faults_alone_are_played(tmp_path: Path) -> None:
    path = written(tmp_path, BROKEN)
    result = run_case(Case(path=str(path), policy="flow", faults=(2, 5)))
    assert [each.what.split()[0] for each in result.summary.incidents] == ["change", "harm"]
    with pytest.raises(ConfigError, match="there is no fault 6; it has 5"):
        run_case(Case(path=str(path), policy="flow", faults=(6,)))


# --- what is written -------------------------------------------------------------------------------------------------


def test_junit_has_a_case_for_each_run_and_expectation(results: list[Result]) -> None:
    suites = list(ET.fromstring(junit(results)).iter("testsuite"))
    assert len(suites) == 4
    for suite in suites:
        assert int(suite.attrib["failures"]) == 1
        failed = [case.attrib["name"] for case in suite.iter("testcase") if case.find("failure") is not None]
        assert failed == ["vision.latency.p99 < 1ms"]


def test_the_page_holds_every_plot_with_data_and_loads_nothing(results: list[Result]) -> None:
    text = page("small", "a purpose with <angle> & ampersand", results)
    assert "&lt;angle&gt; &amp;" in text
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", text) and "@import" not in text
    plots = dict(re.findall(r"<h3>([^<]+)</h3>\s*(<svg.*?</svg>)", text, re.S))
    for title in PLOTS:
        assert re.search(r"<(path|rect|polyline)\b", plots[title]), title


def test_many_runs_are_told_by_policy(results: list[Result]) -> None:
    """Eight runs: no column for each, but means over seeds, and the seeds that missed an expectation."""
    many = [*results, *(msgspec.structs.replace(each) for each in results)]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table([each.summary for each in many]))
    console.print(verdict_table(many))
    text = console.export_text()
    assert "8 runs, means over seeds" in text and len(re.findall(r"│ (?:flow|fifo) +│ +4 │", text)) == 2
    assert len(re.findall(r"vision.latency.p99 < 1ms +│ 0 of 4 │ 1, 2, 1, 2", text)) == 2


def test_of_a_run_that_others_are_held_to_nothing_is_expected(results: list[Result]) -> None:
    def as_baseline(each: Result) -> Result:
        return msgspec.structs.replace(each, case=msgspec.structs.replace(each.case, is_baseline=True))

    some = [*of(results, "flow"), *map(as_baseline, of(results, "fifo"))]
    suites = list(ET.fromstring(junit(some)).iter("testsuite"))
    assert [suite.attrib["failures"] for suite in suites] == ["1", "1", "0", "0"]
    assert [len(suite.findall("testcase")) for suite in suites[2:]] == [1, 1], "the laws alone"
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(verdict_table(some))
    assert console.export_text().count("missed") == 2
    console.print(verdict_table([*some, *some]))
    assert "fifo" not in console.export_text()
    assert page("small", "", some).count('class="missed"') == 2


# --- comparison ------------------------------------------------------------------------------------------------------


def of(results: list[Result], policy: str) -> list[Result]:
    return [each for each in results if each.summary.policy == policy]


def test_equal_sets_do_not_differ(results: list[Result]) -> None:
    found = compare_results(results, results)
    assert (found.n_equal, found.partings, found.unpaired) == (4, (), ())
    assert all(each.change == 0 for each in found.changes)


def test_a_change_is_paired_by_seed_and_has_an_interval_over_seeds(results: list[Result]) -> None:
    later = []
    for number, each in enumerate(of(results, "flow")):
        seconds = each.summary.completion_s
        assert seconds is not None
        summary = msgspec.structs.replace(each.summary, completion_s=seconds + 1 + number, digest="other")
        later.append(msgspec.structs.replace(each, summary=summary))
    found = compare_results(of(results, "flow"), later)
    change = next(each for each in found.changes if each.what == "completion")
    assert (change.n_pairs, change.change) == (2, pytest.approx(1.5e6))
    assert change.margin == pytest.approx(12.706 * 0.5e6)  # Student's t with one degree of freedom; s/√n is 0.5 s
    assert not change.is_sure


def test_each_set_of_parameters_has_an_interval_of_its_own(results: list[Result]) -> None:
    def with_load(each: Result, load: str) -> Result:
        return msgspec.structs.replace(each, case=msgspec.structs.replace(each.case, parameters={"load": load}))

    some = [with_load(each, load) for load in ("1", "2") for each in of(results, "flow")]
    found = [each for each in compare_results(some, some).changes if each.what == "completion"]
    assert [(each.policy, each.n_pairs) for each in found] == [("flow load=1", 2), ("flow load=2", 2)]


def test_the_first_decision_in_which_runs_part_is_told() -> None:
    path = str(Path(__file__).parents[1] / "scenarios" / "quickstart.yaml")
    flow, fifo = (run_case(Case(path=path, policy=policy)) for policy in ("flow", "fifo"))
    found = compare_results([flow], [fifo])
    assert found.n_equal == 0 and len(found.partings) == 1
    before, after = next(pair for pair in zip(flow.decisions, fifo.decisions, strict=False) if pair[0] != pair[1])
    assert found.partings[0].at_s == min(before[0], after[0]) / 1e6
    assert f"{before[1]} attempt {before[3]} on {before[2]}" in found.partings[0].sentence


def test_sets_without_a_common_run_are_refused(results: list[Result]) -> None:
    with pytest.raises(ConfigError, match="no run in common"):
        compare_results(results[:1], results[2:3])


# --- shrinking -------------------------------------------------------------------------------------------------------


def test_a_failure_shrinks_to_the_fault_that_makes_it(tmp_path: Path) -> None:
    """Of five faults one leaves the work undone: the power goes and does not return."""
    case = Case(path=str(written(tmp_path, BROKEN)), policy="flow")
    tried: list[Case] = []
    found = shrink(case, lambda each, _: tried.append(each))
    assert found.case.faults == (3,) and found.faults[0].startswith("3: power off")
    assert (found.n_faults_before, found.n_runs) == (5, len(tried) + 1)
    assert found.case.seed == 0  # Arrivals are even: any seed fails.
    assert failure_of(run_case(found.case)) == failure_of(run_case(case)) == "tasks.open == 0"


def test_what_does_not_fail_cannot_shrink(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing fails"):
        shrink(Case(path=str(written(tmp_path, SMALL)), policy="flow"))


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--json", "--junit", "--html"])
def test_results_that_could_not_be_kept_are_refused_before_anything_runs(tmp_path: Path, option: str) -> None:
    done = CliRunner().invoke(app, ["run", str(written(tmp_path, SMALL)), option, str(tmp_path / "no" / "such")])
    assert done.exit_code == 2 and "cannot be written" in re.sub(r"[\s│]+", " ", done.output)


def test_a_run_that_cannot_begin_leaves_no_empty_results_and_keeps_those_that_are_there(tmp_path: Path) -> None:
    kept, fresh = tmp_path / "kept.json", tmp_path / "fresh.xml"
    kept.write_text("an hour's work")
    done = CliRunner().invoke(app, ["run", str(tmp_path / "nowhere"), "--json", str(kept), "--junit", str(fresh)])
    assert isinstance(done.exception, ConfigError)
    assert kept.read_text() == "an hour's work" and not fresh.exists()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("matrix: {policy: [flw]}", r':\d+:19: there is no policy .flw. .did you mean "flow"'),
        ("matrix: {seed: [1, -2]}", "-2 is out of range"),
        ("matrix: {polcy: [flow]}", r':\d+:10: .*"polcy", which is no parameter .* .did you mean "policy"'),
        ("matrix: {load: [2, no]}", '"no" is out of range|"no" is not a whole number'),
    ],
)
def test_a_matrix_is_validated_with_its_file(tmp_path: Path, lines: str, reason: str) -> None:
    text = SMALL.replace("count: 2", "count: $load").replace("duration: 60s", "duration: 60s\nparameters: {load: 2}")
    done = CliRunner().invoke(app, ["validate", str(written(tmp_path, f"{text}{lines}\n"))])
    assert done.exit_code == 2 and re.search(reason, done.output), done.output


def test_exit_codes_tell_missed_from_met(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["run", str(written(tmp_path, SMALL)), "-o", "json"]).exit_code == 0
    assert run(app, ["run", str(written(tmp_path, BROKEN)), "-o", "json"]).exit_code == 3
    assert run(app, ["validate", str(written(tmp_path, "schema: other", "bad.yaml"))]).exit_code == 2


def test_a_broken_law_has_an_exit_code_of_its_own(results: list[Result]) -> None:
    """No shipped scenario breaks one: the result is made to say so."""
    summary = msgspec.structs.replace(results[0].summary, broken_laws=("L4 cpu of agent a: 2 allocated of 1",))
    assert exit_code(results) == 3
    assert exit_code([*results, msgspec.structs.replace(results[0], summary=summary)]) == 4


def test_results_are_written_and_compared(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    run = CliRunner().invoke
    files = {name: tmp_path / name for name in ("a.json", "b.json", "x.xml", "p.html")}
    options = ["--json", str(files["a.json"]), "--junit", str(files["x.xml"]), "--html", str(files["p.html"])]
    assert run(app, ["run", str(path), "--policy", "flow", *options]).exit_code == 0
    assert run(app, ["run", str(path), "--policy", "fifo", "--json", str(files["b.json"])]).exit_code == 0
    assert all(file.stat().st_size > 500 for file in files.values())
    told = run(app, ["diff", str(files["a.json"]), str(files["b.json"]), "-o", "json"])
    assert told.exit_code == 0
    assert {each["policy"] for each in json.loads(told.stdout)["changes"]} == {"flow → fifo"}
    assert run(app, ["run", str(path), "--seed", "3", "--seed", "4", "--json", str(files["b.json"])]).exit_code == 0
    told = run(app, ["diff", str(files["a.json"]), str(files["b.json"])])
    assert "the same in every event: 1 of 1 pairs" in told.stdout
    assert "in one of the two only: small flow seed 4" in told.stdout


def test_measured_solve_times_are_played_again_to_the_same_digest(tmp_path: Path) -> None:
    path = str(written(tmp_path, f"{SMALL}model: {{solve: measured}}\n"))
    run = CliRunner().invoke
    first, again = tmp_path / "first.json", tmp_path / "again.json"
    assert run(app, ["run", path, "--json", str(first)]).exit_code == 0
    assert run(app, ["run", path, "--json", str(again), "--solve-times", str(first)]).exit_code == 0
    before, after = (json.loads(file.read_text())["results"][0] for file in (first, again))
    assert before["summary"]["digest"] == after["summary"]["digest"]
    assert before["solve_us"] == after["solve_us"] and len(before["solve_us"]) == before["summary"]["rounds"] > 0
    slower = [each + 40_000 for each in before["solve_us"]]
    late = run_case(Case(path=path, policy="flow", solve_us=tuple(slower)))
    assert late.summary.digest != before["summary"]["digest"]  # They are what a round takes, and not only told.
    assert late.summary.task_p50_s is not None and late.summary.task_p50_s > before["summary"]["task_p50_s"]
    done = run(app, ["run", path, "--policy", "fifo", "--solve-times", str(first)])
    assert done.exit_code != 0 and "no measured solve times of fifo seed 3" in str(done.exception)

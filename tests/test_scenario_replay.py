"""Recordings: replayed they lead to the same decisions and facts, they make scenarios, and live runs make them."""

from pathlib import Path

import msgspec
import pytest

from federation import events
from federation.config import MasterConfig
from federation.errors import ConfigError
from federation.facts import Fact
from federation.jobfile import read_job
from federation.jobs import Artifact
from federation.master import Master
from federation.recording import FORMAT, Header, Recorder, read
from federation.saved import encode_saved
from federation.strictyaml import Node, load
from policies import registry
from policies.model import GpuNeed, LatencyTarget, LinkNeed, Needs, Where
from scenarios.faults import sentence
from scenarios.format import load_scenario, load_world
from scenarios.live import live_job, refusals
from scenarios.player import Outcome, Player, play
from scenarios.recorded import job_document, scenario_of
from scenarios.replay import laws_of_recording, replay
from scenarios.report import summarise
from scenarios.runs import Case, run_case, run_live
from tests.scenario_world import SMALL, written

ROOT = Path(__file__).parents[1]


class Recorded(Player):
    """Writes what its master hears, as the live driver does."""

    def record(self, recorder: Recorder) -> Outcome:
        self._recorder = recorder
        return self.run()

    def _note(self, now_us: int, value: events.Event | Fact) -> None:
        super()._note(now_us, value)
        if isinstance(value, events.Event):
            self._recorder.add(value, now_us)


def recorded(tmp_path: Path, scenario: Path, policy: str = "flow") -> tuple[Path, Outcome]:
    header = Header(format=FORMAT, version="1", policy=policy, config=MasterConfig(), state=None)
    recorder = Recorder(tmp_path / "run.rec", header, 2**30)
    outcome = Recorded(load_world(scenario), registry.load(policy), policy, MasterConfig(), None).record(recorder)
    recorder.close()
    return tmp_path / "run.rec", outcome


def test_a_replay_decides_the_same_and_comes_to_the_same_facts(tmp_path: Path) -> None:
    path, outcome = recorded(tmp_path, ROOT / "scenarios" / "quickstart.yaml")
    found = replay(path)
    assert (found.n_equal, found.parting, found.broken_laws) == (found.n_rounds, "", ())
    assert found.n_rounds == outcome.n_rounds and found.n_facts == len(outcome.facts)
    assert found.laws_checked


def test_another_policy_parts_where_it_would_have_decided_otherwise(tmp_path: Path) -> None:
    path, _ = recorded(tmp_path, ROOT / "scenarios" / "quickstart.yaml")
    found = replay(path, "fifo")
    assert found.n_equal < found.n_rounds
    assert found.parting.startswith("round ") and "it placed" in found.parting


def test_the_laws_are_checked_on_a_recording(tmp_path: Path) -> None:
    path, outcome = recorded(tmp_path, written(tmp_path, SMALL))
    checked = laws_of_recording(path)
    assert (checked.broken, checked.n_rounds) == ((), outcome.n_rounds)


def test_a_recording_makes_a_scenario_of_the_same_world(tmp_path: Path) -> None:
    path, outcome = recorded(tmp_path, written(tmp_path, SMALL))
    text, notes = scenario_of([path], tmp_path)
    made = tmp_path / "made.yaml"
    made.write_text(text)
    before, after = outcome.world, load_scenario(made).world
    assert [(spec.agent_id, spec.site, spec.tier, spec.total.cpu_milli) for spec in after.agents] == [
        (spec.agent_id, spec.site, spec.tier, spec.total.cpu_milli) for spec in before.agents
    ]
    assert [group.simulated_run_us for arrival in after.arrivals for group in arrival.job.tasks] == [
        group.simulated_run_us for arrival in before.arrivals for group in arrival.job.tasks
    ]
    assert [sentence(fault) for fault in after.faults] == ["kill gw-1"]
    rtts = {(first, second): spec.rtt_us for first, second, spec in after.links}
    assert rtts["plant", "rack"] == pytest.approx(20_000, rel=0.2)
    assert all("bandwidth" in note for note in notes)
    again = summarise(play(after, registry.load("flow"), "flow"))
    assert (again.tasks_finished, again.broken_laws) == (summarise(outcome).tasks_finished, ())


def test_a_recorded_scenario_repeats_the_run_and_its_decisions(tmp_path: Path) -> None:
    path, outcome = recorded(tmp_path, written(tmp_path, SMALL))
    text, _ = scenario_of([path], tmp_path)
    made = written(tmp_path, text, "made.yaml")
    result = run_case(Case(path=str(made), policy="flow"))
    assert [(verdict.text, verdict.ok, verdict.value) for verdict in result.verdicts] == [
        ("decisions.changed == 0", True, 0.0)
    ]
    assert result.summary.replayed and result.summary.broken_laws == ()
    first = run_case(Case(path=str(tmp_path / "small.yaml"), policy="flow"))
    shift_us = first.decisions[0][0] - result.decisions[0][0]  # The recording begins with its first event.
    assert [(at_us + shift_us, *rest) for at_us, *rest in result.decisions] == list(first.decisions)
    assert result.summary.rounds == outcome.n_rounds > 5
    assert (result.summary.tasks_finished, result.summary.task_p50_s) == (10, first.summary.task_p50_s)


def test_a_recorded_scenario_is_a_world_for_other_policies_and_seeds(tmp_path: Path) -> None:
    path, _ = recorded(tmp_path, written(tmp_path, SMALL))
    made = written(tmp_path, scenario_of([path], tmp_path)[0], "made.yaml")
    for case in (Case(path=str(made), policy="fifo"), Case(path=str(made), policy="flow", seed=5)):
        result = run_case(case)
        assert not result.summary.replayed and result.summary.tasks_finished == 10
        assert [(verdict.ok, verdict.why) for verdict in result.verdicts] == [(True, "simulated, not replayed")]


def test_a_policy_that_decides_otherwise_than_was_recorded_is_told(tmp_path: Path) -> None:
    """What `fifo` decided, in a recording that says it was `flow`."""
    path, _ = recorded(tmp_path, ROOT / "scenarios" / "quickstart.yaml", "fifo")
    header, events_of = read(path)
    other = Recorder(tmp_path / "other.rec", msgspec.structs.replace(header, policy="flow"), 2**30)
    for each in events_of:
        other.add(each.event, each.at_us)
    other.close()
    made = written(tmp_path, scenario_of([tmp_path / "other.rec"], tmp_path)[0], "made.yaml")
    (verdict,) = run_case(Case(path=str(made), policy="flow")).verdicts
    assert not verdict.ok and (verdict.value or 0) > 0 and verdict.why.startswith("round ")


def test_recordings_of_a_master_that_restarted_are_one_run(tmp_path: Path) -> None:
    """Cut in two, as when a master starts again: the second begins with what the first left."""
    path, _ = recorded(tmp_path, written(tmp_path, SMALL))
    header, recorded_events = read(path)
    each = list(recorded_events)
    cut = next(n for n, one in enumerate(each) if isinstance(one.event, events.PlanReady)) + 1
    driven = Master(header.config, header.policy)
    first, second = tmp_path / "1.rec", tmp_path / "2.rec"
    recorder = Recorder(first, header, 2**30)
    for one in each[:cut]:
        recorder.add(one.event, one.at_us)
        driven.handle(one.event, one.at_us)
    recorder.close()
    state = encode_saved(each[cut].at_us, driven.durable())
    recorder = Recorder(second, msgspec.structs.replace(header, state=state), 2**30)
    recorder.add(events.Started(term=2), each[cut].at_us)
    recorder.add(events.BrokerFound(), each[cut].at_us)
    recorder.close()
    made = written(tmp_path, scenario_of([first, second], tmp_path)[0], "made.yaml")
    assert [sentence(fault) for fault in load_scenario(made).world.faults] == ["kill master"]
    result = run_case(Case(path=str(made), policy="flow"))
    assert result.summary.replayed and [verdict.ok for verdict in result.verdicts] == [True]
    with pytest.raises(ConfigError, match="does not follow the recording before it"):
        scenario_of([second, first], tmp_path)


def test_another_recording_than_the_scenarios_is_refused(tmp_path: Path) -> None:
    path, _ = recorded(tmp_path, written(tmp_path, SMALL))
    made = written(tmp_path, scenario_of([path], tmp_path)[0], "made.yaml")
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ConfigError, match="is not the recording that the scenario was made from"):
        run_case(Case(path=str(made), policy="flow"))
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        run_case(Case(path=str(made), policy="flow"))


def any_artifact(node: Node) -> Artifact:
    return Artifact(shard_id="0" * 64, size_bytes=0)


def test_a_job_is_written_as_its_file_would_say_it(tmp_path: Path) -> None:
    path = ROOT / "scenarios" / "demo" / "job.yaml"
    job = read_job(load(path), any_artifact)
    groups = tuple(msgspec.structs.replace(group, artifact=None) for group in job.tasks)
    needs = Needs(
        cpu_milli=500,
        memory_bytes=2**30,
        disk_bytes=2**20,
        gpu=GpuNeed(count=2, model="a100"),
        links=(LinkNeed(site="rack", rtt_us_max=5000, bandwidth_bps_min=10**7),),
    )
    first = msgspec.structs.replace(
        groups[0], needs=needs, where=Where(tiers=("edge",), sites=("a", "b")), deadline_us=10**6, time_limit_us=10**7,
        latency=(LatencyTarget(site="rack", rtt_us=5000, weight=3),),
    )  # fmt: skip
    job = msgspec.structs.replace(job, tasks=(first, *groups[1:]))
    (tmp_path / "job.yaml").write_bytes(msgspec.json.encode(job_document(job)))
    assert read_job(load(tmp_path / "job.yaml"), any_artifact) == job


# --- live ------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_done_live_is_named(tmp_path: Path) -> None:
    chaos = load_scenario(ROOT / "scenarios" / "split-brain.yaml")
    named = refusals(chaos)
    assert any("cut core → north" in line or "cut north → core" in line for line in named)
    assert any("clock of master" in line for line in named)
    assert any("harm messages" in line for line in named)
    assert not any("the GPUs" in line for line in named)
    assert refusals(load_scenario(written(tmp_path, SMALL))) == ()
    many = SMALL.replace("disk: 256MiB, count: 2", "gpus: {t4: {count: 1, memory: 16GiB}}, count: 12")
    assert refusals(load_scenario(written(tmp_path, many))) == ("the GPUs of gw-1, gw-2, gw-3 and 9 more",)
    starving = refusals(load_scenario(ROOT / "scenarios" / "starvation.yaml"))
    assert {"the framework silent", "the framework small", "the framework left"} <= set(starving)


def test_a_live_task_sleeps_and_writes_what_the_file_says() -> None:
    world = load_world(ROOT / "scenarios" / "quickstart.yaml")
    group = live_job(world.arrivals[0].job).tasks[0]
    assert group.simulated_run_us is None and group.artifact is None
    assert group.command[:2] == ("sh", "-c")
    assert group.command[2].startswith("sleep 1.000000; head -c ")


@pytest.mark.slow
def test_a_scenario_runs_live_and_its_recording_replays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker, a master and three agents; an agent is killed and returns. The folder is named from where one is."""
    monkeypatch.chdir(tmp_path)
    case = Case(path=str(written(tmp_path, SMALL)), policy="flow")
    result = run_live(case, Path("kept"), lambda *_: None)
    assert result.summary.live and result.summary.broken_laws == ()
    assert [verdict.text for verdict in result.verdicts if not verdict.ok] == []
    assert result.summary.tasks_finished == 10
    assert [incident.what for incident in result.summary.incidents] == ["kill gw-1"]
    recording = tmp_path / "kept" / "flow" / "master-1.rec"
    made = written(tmp_path, scenario_of([recording], tmp_path)[0], "made.yaml")
    again = run_case(Case(path=str(made), policy="flow"))
    assert [(verdict.ok, verdict.value) for verdict in again.verdicts] == [(True, 0.0)]
    assert [each[1:] for each in again.decisions] == [each[1:] for each in result.decisions] != []
    assert again.summary.tasks_finished == 10
    found = replay(recording)
    assert found.n_rounds > 0 and (found.n_equal, found.parting) == (found.n_rounds, "")

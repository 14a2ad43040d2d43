"""Scenario files: what is read, and what is refused with its place."""

from pathlib import Path

import jsonschema
import pytest

from federation.errors import ConfigError
from federation.strictyaml import load, to_plain
from scenarios.fabric import Fabric
from scenarios.faults import CutFault
from scenarios.format import load_scenario, load_world
from scenarios.runs import Case, run_case
from scenarios.schema import scenario_schema
from scenarios.transport import LinkSpec
from scenarios.world import World
from tests.scenario_world import written

ROOT = Path(__file__).parents[1]

SMALL = """\
schema: offerflow/scenario/v1
name: small
purpose: one plant and one rack
seed: 7
duration: 5m
topology:
  master: rack
  sites:
    plant: {tier: edge, agents: {gw: {count: 2, cpu: 0.5, memory: 1GiB, uplink: 2Mbit}}}
    rack: {tier: cloud, region: eu, agents: {vm: {cpu: 8, memory: 32GiB, gpus: {a100: {count: 2, memory: 40GiB}}}}}
  links:
    - {between: [plant, rack], rtt: 50ms, bandwidth: 100Mbit, loss: 0.2%}
    - {within: plant, rtt: 1ms, bandwidth: 1Gbit}
data:
  images: {at: plant, count: 3, size: 4MiB}
workload:
  jobs:
    - at: 1s
      job:
        job: train
        tasks:
          fit: {command: [fit], for_each: {shard: "images-*"}, run: 2s}
      actual_run: {fit: 3s}
"""

WORK = "workload:\n  generate: [{{arrivals: {{poisson: 1/s}}, task: {}}}]"
SERVICE = "workload:\n  services: {{web: {{clients: [{{to: plant, rtt: 9ms}}], task: {{cpu: 1, {}}}}}}}"
EXPECT = "expect:\n  slo:\n    - {}\nworkload:"


def read(tmp_path: Path, text: str) -> World:
    path = tmp_path / "world.yaml"
    path.write_text(text)
    return load_world(path)


def test_a_small_world(tmp_path: Path) -> None:
    world = read(tmp_path, SMALL)
    assert [spec.agent_id for spec in world.agents] == ["gw-1", "gw-2", "vm"]
    assert world.agents[0].uplink == (LinkSpec(rtt_us=0, bandwidth_bps=2_000_000),) * 2
    assert world.agents[0].total.cpu_milli == 500
    assert [gpu.uuid for gpu in world.agents[2].total.gpus] == ["vm-a100-0", "vm-a100-1"]
    assert [(a, b, spec.loss_ppm) for a, b, spec in world.links] == [
        ("plant", "rack", 2000), ("rack", "plant", 2000), ("plant", "plant", 0),
    ]  # fmt: skip
    assert [(shard.name, shard.agent_id) for shard in world.shards] == [
        ("images-0", "gw-1"), ("images-1", "gw-2"), ("images-2", "gw-1"),
    ]  # fmt: skip
    group = world.arrivals[0].job.tasks[0]
    assert (group.run_us, group.simulated_run_us) == (2_000_000, 3_000_000)


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_scenarios_can_be_read(path: Path) -> None:
    traces = ROOT.parent / "shared" / "traces"
    try:
        assert load_scenario(path, traces=traces).world.purpose
    except ConfigError as error:
        if traces.is_dir():
            raise
        pytest.skip(f"published traces are not shipped: {error}")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("seed: 7\n", "", '1:1: a scenario needs the key "seed"'),
        ("duration: 5m", "duration: 5", "5:11: '5' has no unit: write a duration such as"),
        ("duration: 5m", "durration: 5m", '5:1: unknown key "durration" in a scenario (did you mean "duration"?)'),
        ("seed: 7", "seed: 7\nseed: 8", "duplicate key"),
        ("master: rack", "master: moon", '7:11: no site is called "moon"; the file has plant, rack'),
        ("between: [plant, rack]", "between: [plant, plant]", '"between" names two different sites'),
        ("{within: plant, rtt", "{between: [rack, plant], rtt", "is given twice"),
        ("at: plant, count: 3", "at: plan, count: 3", 'no site is called "plan"'),
        ("actual_run: {fit", "actual_run: {fat", 'the job has no task group "fat"'),
        ("vm: {cpu", "gw-1: {cpu", 'agent "gw-1" is there twice'),
        ("tier: edge", "tier: fog", "fog"),
        ("size: 4MiB", "size: 4", "4"),
        ("cpu: 0.5", "cpu: 0", '9:54: "0" is nothing: write a number of cores such as 2 or 0.5'),
        (
            "uplink: 2Mbit",
            "uplink: 0Mbit",
            '"0Mbit" is nothing: write a bandwidth such as 5Mbit; where no bytes pass, leave',
        ),
        ("bandwidth: 100Mbit", "bandwidth: 0Mbit", '"0Mbit" is nothing'),
        ("uplink: 2Mbit", "speed: 0", '"0" is nothing: a core of speed 1 is the reference core'),
        ("uplink: 2Mbit", "uplink: {bandwidth: {up: 2Mbit}}", '"bandwidth" needs the key "down"'),
        (
            "between: [plant, rack]",
            "between: [tier:edeg, rack]",
            'no site is of the tier "edeg" (did you mean "edge"?)',
        ),
        ("between: [plant, rack]", "between: [region:us, rack]", 'no site is of the region "us"; the file has eu'),
        ("between: [plant, rack]", "between: [plan*x, rack]", 'no site is called "plan*x"'),
        ("loss: 0.2%", "loss: 120%", '12:69: "120%" is more than all: the most is 100%'),
        ("gw: {count: 2, cpu: 0.5, memory: 1GiB, uplink: 2Mbit}", "", 'site "plant" has no agents, so nobody there'),
        ("workload:", WORK.format("{cpu: 1, run: 1s, reads: {size: 1MB}}"), "say which by at: beside it"),
        ("workload:", WORK.format("{cpu: 1, run: 1s, where: here}"), "say which by at: beside it"),
        ("workload:", WORK.format("{cpu: 1, run: 1s, fails: 101%}"), '"101%" is more than all'),
        ("workload:", SERVICE.format("reads: {at: rack, size: 1MB}"), '"reads" is not of a service'),
        ("workload:", SERVICE.format("where: here"), "a service arises at no site"),
        ("- at: 1s", "- at: 5m", "18:11: it would begin at 5 m, and the run ends at 5 m"),
        ("workload:", "faults: [{at: 6m, kill: master}]\nworkload:", "it would begin at 6 m, and the run ends at 5 m"),
        (
            "workload:",
            WORK.format("{cpu: 1, run: 1s}").replace("arrivals", "from: 5m, arrivals"),
            "it would begin at 5 m, and",
        ),
        ("workload:", "faults: [{at: 1s, kill: mster}]\nworkload:", 'called "mster" (did you mean "master"?)'),
        ("workload:", "faults: [{at: 1s, for: 1s, messages: {from: all, drop: 200%}}]\nworkload:", "more than all"),
        ("workload:", EXPECT.format("baseline(fif).completion.p50 ratio < 1"), "18:7: there is no policy 'fif' (did"),
        ("workload:", EXPECT.format("baseline(n=2).completion.p50 ratio < 1"), "18:7: baseline(n=2) names no param"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, old: str, new: str, error: str) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, SMALL.replace(old, new, 1))
    assert error in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'world.yaml'}:")


def test_a_scenario_that_ships_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_scenario(Path("quickstart")).world == load_scenario(Path("quickstart.yaml")).world
    with pytest.raises(ConfigError, match=r'quickstrat \(did you mean "quickstart"\?\); these scenarios ship: '):
        load_scenario(Path("quickstrat"))
    with pytest.raises(ConfigError, match="cannot read here/quickstart"):
        load_scenario(Path("here/quickstart.yaml"))
    (tmp_path / "quickstart.yaml").write_text("one of my own")
    with pytest.raises(ConfigError, match=r"quickstart.yaml:1"):
        load_scenario(Path("quickstart.yaml"))


def test_the_schema_takes_every_shipped_file_and_refuses_a_slip() -> None:
    validator = jsonschema.Draft202012Validator(scenario_schema())
    for path in sorted((ROOT / "scenarios").glob("*.yaml")):
        errors = [error.message for error in validator.iter_errors(to_plain(load(path)))]
        assert not errors, (path.name, errors[:3])
    wrong = to_plain(load(ROOT / "scenarios" / "chaos.yaml"))
    wrong["faults"][0]["kil"] = "master"
    assert not validator.is_valid(wrong)


def test_includes_parameters_and_templates(tmp_path: Path) -> None:
    (tmp_path / "lib.yaml").write_text("topology: {templates: {small: {cpu: 1, memory: 1GiB, speed: 0.5}}}\n")
    text = SMALL.replace("seed: 7", "seed: 7\nparameters: {n: 3}\ninclude: lib.yaml")
    text = text.replace("{count: 2, cpu: 0.5, memory: 1GiB, uplink: 2Mbit}", "{like: small, count: $n, cpu: 2}")
    path = tmp_path / "world.yaml"
    path.write_text(text)
    gateways = [spec for spec in load_world(path).agents if spec.site == "plant"]
    assert [(spec.total.cpu_milli, spec.speed_milli) for spec in gateways] == [(2000, 500)] * 3
    assert len(load_scenario(path, parameters={"n": "5"}).world.agents) == 6
    with pytest.raises(ConfigError, match=r"no parameter 'm'"):
        load_scenario(path, parameters={"m": "5"})
    path.write_text(text.replace("$n", "$nn"))
    with pytest.raises(ConfigError, match=r'no parameter is called "nn" \(did you mean "n"\?\)'):
        load_scenario(path)


def test_racks_trees_and_directions(tmp_path: Path) -> None:
    text = SMALL.replace(
        "{tier: edge, agents: {gw: {count: 2, cpu: 0.5, memory: 1GiB, uplink: 2Mbit}}}",
        "{tier: edge, racks: {count: 2, bandwidth: 10Gbit, agents: {gw: {count: 2, cpu: 1, memory: 1GiB}}}}",
    ).replace("bandwidth: 100Mbit", "bandwidth: {to rack: 20Mbit, to plant: 100Mbit}")
    world = read(tmp_path, text)
    assert [(spec.agent_id, spec.access) for spec in world.agents[:3]] == [
        ("plant-r1-gw-1", ("plant-r1",)), ("plant-r1-gw-2", ("plant-r1",)), ("plant-r2-gw-1", ("plant-r2",)),
    ]  # fmt: skip
    assert {(a, b): spec.bandwidth_bps for a, b, spec in world.links}["plant", "rack"] == 20_000_000
    tree = "{tier: edge, network: {fat_tree: {k: 4, bandwidth: 1Gbit}}, agents: {gw: {count: 4, cpu: 1, memory: 1GiB}}}"
    old = "{tier: edge, agents: {gw: {count: 2, cpu: 0.5, memory: 1GiB, uplink: 2Mbit}}}"
    agents = read(tmp_path, SMALL.replace(old, tree)).agents
    assert agents[0].access == ("plant.1.1.1", "plant.1.1", "plant.1")
    assert agents[2].access == ("plant.1.2.1", "plant.1.2", "plant.1")


def test_the_seed_changes_the_workload_and_nothing_else_does(tmp_path: Path) -> None:
    chaos = ROOT / "scenarios" / "chaos.yaml"
    first, again, other = load_scenario(chaos), load_scenario(chaos), load_scenario(chaos, seed=2)
    assert first.world == again.world
    assert [each.at_us for each in first.world.arrivals] != [each.at_us for each in other.world.arrivals]
    assert first.world.faults != other.world.faults


MANY = """\
schema: offerflow/scenario/v1
name: many
purpose: links by pattern, tier and region, lines of their own, prices
seed: 1
duration: 1m
topology:
  master: core-eu
  templates:
    big: {cpu: 8, memory: 32GiB, price: 0.4/h, gpus: {a100: {count: 2, memory: 40GiB, price: 2.5/h}}}
  sites:
    edge-1: {tier: edge, region: eu, agents: {one: {cpu: 1, memory: 1GiB}}}
    edge-2:
      tier: edge
      region: us
      agents:
        two: {cpu: 1, memory: 1GiB, uplink: {bandwidth: {up: 10Mbit, down: 50Mbit}, rtt: 20ms, jitter: 4ms, loss: 0.1%}}
    core-eu: {tier: cloud, region: eu, agents: {eu: {like: big}}}
    core-us: {tier: cloud, region: us, agents: {us: {like: big}}}
  links:
    - {between: [tier:edge, tier:cloud], rtt: 40ms, bandwidth: {to tier:cloud: 20Mbit, to tier:edge: 80Mbit}}
    - {between: [core-*, core-*], rtt: 90ms, bandwidth: 10Gbit}
    - {from: edge-1, to: core-eu, rtt: 8ms, bandwidth: 100Mbit}
    - {within: tier:cloud, rtt: 100us, bandwidth: 40Gbit}
  egress:
    - {from: tier:cloud, to: "*", price: 0.09/GB}
    - {from: core-eu, to: region:eu, price: 0.02/GB}
workload: {}
"""


def test_links_by_pattern_tier_and_region(tmp_path: Path) -> None:
    world = read(tmp_path, MANY)
    links = {(first, second): (spec.rtt_us, spec.bandwidth_bps) for first, second, spec in world.links}
    assert len(links) == 8 + 2 + 2
    assert links["edge-2", "core-eu"] == links["edge-2", "core-us"] == (40_000, 20_000_000)
    assert links["core-us", "edge-1"] == (40_000, 80_000_000)
    assert links["edge-1", "core-eu"] == (8_000, 100_000_000), "who names both sites wins"
    assert links["core-eu", "edge-1"] == (40_000, 80_000_000), "and only in the direction that it names"
    assert links["core-us", "core-eu"] == (90_000, 10_000_000_000)
    assert links["core-us", "core-us"] == (100, 40_000_000_000)
    with pytest.raises(ConfigError, match="is given twice"):
        read(tmp_path, MANY.replace("{within: tier:cloud,", "{from: region:*, to: tier:cloud,"))
    faults = 'faults: [{at: 5s, for: 5s, partition: ["region:us", "tier:edge"]}]'
    cut = load_scenario(written(tmp_path, MANY + faults)).world.faults[0]
    assert isinstance(cut, CutFault)
    assert cut.ways == (("core-us", "edge-1"), ("core-us", "edge-2"), ("edge-1", "core-us"), ("edge-2", "core-us"))


def test_lines_by_direction_and_prices(tmp_path: Path) -> None:
    world = read(tmp_path, MANY)
    line = {spec.agent_id: spec.uplink for spec in world.agents}["two"]
    assert line is not None
    assert [spec.bandwidth_bps for spec in line] == [10_000_000, 50_000_000]
    assert {(spec.rtt_us, spec.jitter_us, spec.loss_ppm) for spec in line} == {(20_000, 4_000, 1_000)}
    assert {spec.agent_id: spec.gpu_prices for spec in world.agents}["us"] == (("a100", 2_500_000),)
    prices = {(first, second): price for first, second, price in world.egress}
    assert prices["core-us", "edge-1"] == 90_000 and prices["core-eu", "edge-1"] == 20_000
    assert ("edge-1", "core-eu") not in prices
    fabric = Fabric(world)
    assert fabric.path("two", "eu") == ("two:out", "edge-2→core-eu")
    assert fabric.network.link("two:out").bandwidth_bps == 10_000_000
    delays_us = [fabric.control_delay_us("two") or 0 for _ in range(50)]
    assert 30_000 <= min(delays_us) < max(delays_us) < 34_000, "half of both round trips, and the line's jitter"


def test_any_wiring_between_the_agents_of_a_site(tmp_path: Path) -> None:
    links = "{leaf: {bandwidth: {up: 1Gbit, down: 2Gbit}}, spine: {bandwidth: 4Gbit}}"
    network = f"{{wiring: {{links: {links}, hosts: [[leaf, spine], [spine]]}}}}"
    wired = f"{{tier: edge, network: {network}, agents: {{gw: {{count: 2, cpu: 1, memory: 1GiB}}}}}}"
    old = "{tier: edge, agents: {gw: {count: 2, cpu: 0.5, memory: 1GiB, uplink: 2Mbit}}}"
    world = read(tmp_path, SMALL.replace(old, wired))
    assert Fabric(world).path("gw-1", "gw-2") == ("leaf:out",), "they meet below the core"
    assert Fabric(world).path("vm", "gw-1") == ("rack→plant", "spine:in", "leaf:in")
    for broken, reason in (
        (", [spine]]", "1 hosts are wired and the site has 2 agents"),
        ("spine: {", 'called "spine"'),
    ):
        text = wired.replace(broken, {", [spine]]": "]", "spine: {": "spin: {"}[broken], 1)
        with pytest.raises(ConfigError, match=reason):
            read(tmp_path, SMALL.replace(old, text))


def test_gpus_cost_what_their_model_costs(tmp_path: Path) -> None:
    jobs = """
  jobs:
    - {at: 1s, job: {job: fit, tasks: {fit: {command: [fit], run: 36s, needs: {cpu: 1, memory: 1GiB, gpu: 2}}}}}
expect: {slo: [cost > 0, egress > 0, egress < 0.5]}
"""
    path = written(tmp_path, MANY.replace("workload: {}\n", "workload:" + jobs).replace("duration: 1m", "duration: 5m"))
    result = run_case(Case(path=str(path), policy="flow"))
    hours = (result.curves.spans[0][2] - result.curves.spans[0][1]) / 3600
    assert result.values["cost > 0"] == pytest.approx(hours * (0.4 + 2 * 2.5), rel=1e-6)
    assert all(verdict.ok for verdict in result.verdicts)

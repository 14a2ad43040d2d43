"""Scenario files: what is read, and what is refused with its place."""

from pathlib import Path

import jsonschema
import pytest

from federation.errors import ConfigError
from federation.strictyaml import load, to_plain
from scenarios.format import load_scenario, load_world
from scenarios.schema import scenario_schema
from scenarios.world import World

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


def read(tmp_path: Path, text: str) -> World:
    path = tmp_path / "world.yaml"
    path.write_text(text)
    return load_world(path)


def test_a_small_world(tmp_path: Path) -> None:
    world = read(tmp_path, SMALL)
    assert [spec.agent_id for spec in world.agents] == ["gw-1", "gw-2", "vm"]
    assert world.agents[0].uplink_bps == 2_000_000 and world.agents[0].total.cpu_milli == 500
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
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, old: str, new: str, error: str) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, SMALL.replace(old, new, 1))
    assert error in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'world.yaml'}:")


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

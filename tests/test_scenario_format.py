"""Scenario files: what is read, and what is refused with its place."""

from pathlib import Path

import pytest

from federation.errors import ConfigError
from scenarios.format import load_world
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
def test_shipped_scenarios_say_what_they_are_for(path: Path) -> None:
    assert load_world(path).purpose
    assert path.read_text().startswith("# ")


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

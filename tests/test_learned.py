"""The learned policy: what it sees, that it starves nobody, the environment it learns in, and that it pays."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.learned import SHIPPED, Learned, Network, Seen, Slot, View, observe
from policies.model import Node, Release, Running
from tests.policy_worlds import demand, node, snapshot, where

SECOND_US = 1_000_000


class Eager:
    """A brain that remembers what it was shown and always takes the same kind of action."""

    def __init__(self, action: int) -> None:
        self.action = action
        self.seen: list[Seen] = []

    def __call__(self, seen: Seen) -> int:
        self.seen.append(seen)
        return self.action if seen.mask[self.action] else int(seen.mask.argmax())


def machine(cpu: int = 4, free: int = 4, ends_s: tuple[int, ...] = ()) -> Node:
    """An agent where so many tasks of one core each run and end."""
    needs = demand("x").needs
    return node(
        "m", "site", cpu=cpu,
        free=node("m", "site", cpu=free).free,
        releases=tuple(Release(in_us=end * SECOND_US, needs=needs) for end in ends_s),
        running=tuple(Running(task_id=f"r/{n}", role="default", needs=needs, since_us=0) for n in range(len(ends_s))),
    )  # fmt: skip


def test_the_network_sees_when_the_cluster_is_free_and_who_waits_longest() -> None:
    brain = Eager(5)
    view = View(horizon=4, kinds=("cpu",))
    world = snapshot(
        [machine(4, 2, ends_s=(1, 3))],
        [demand(f"d{n}", run_us=(7 - n) * SECOND_US, oldest_us=n) for n in range(7)],
    )
    Learned(brain=brain, view=view).plan(world)
    seen = brain.seen[0]
    assert [slot.c for slot in seen.slots] == [4, 3, 2, 1, 0], "the five oldest, the shortest first"
    assert seen.vector[:4].tolist() == [0.5, 0.25, 0.25, 0.0], "the share that is taken in each step"
    assert seen.vector[4:8].tolist() == [1.0, 3 / 4, 1.0, 0.25], "there, its length, that it fits, its share"
    assert seen.vector[-1] == pytest.approx(2 / 60) and len(seen.vector) == view.size
    assert seen.mask.all(), "something runs, so it may also wait"


def test_the_picture_says_the_same_in_cells() -> None:
    view = View(horizon=3, units=4, slots=2, kinds=("cpu",), form="image")
    used = np.array([[0.5, 0.25, 0.0]], np.float32)
    drawn = observe(view, used, (Slot(0, 2.0, (1.0,), True),), 30)
    assert drawn[:12].tolist() == [1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert drawn[12:24].tolist() == [1] * 8 + [0] * 4 and drawn[24:36].sum() == 0
    assert drawn[-1] == 0.5 and len(drawn) == view.size


def test_it_starts_what_is_named_until_it_waits_and_what_it_started_counts() -> None:
    brain = Eager(0)
    world = snapshot([machine(2, 2)], [demand("long", run_us=9 * SECOND_US), demand("short", 2, run_us=SECOND_US)])
    plan = Learned(brain=brain, view=View(kinds=("cpu",))).plan(world)
    assert where(plan) == {"short": {"m": 2}}, "the shortest of the open ones, twice"
    assert brain.seen[0].vector[0] == 0.0 and brain.seen[1].vector[0] == 0.5
    assert not brain.seen[0].mask[5] and brain.seen[1].mask[5], "an idle cluster is no reason to wait"


def test_nobody_is_kept_waiting_for_ever() -> None:
    idle = Learned(brain=Eager(5), view=View())
    young = snapshot([machine(4, 3, ends_s=(99,))], [demand("d", oldest_us=0)], now_us=5 * SECOND_US)
    assert not idle.plan(young).placements
    old = snapshot([machine(4, 3, ends_s=(99,))], [demand("d", oldest_us=0)], now_us=21 * SECOND_US)
    assert where(idle.plan(old)) == {"d": {"m": 1}}, "twenty times its run are enough"


def test_what_nobody_can_run_takes_no_slot() -> None:
    brain = Eager(0)
    huge = [demand(f"huge{n}", cpu_milli=99_000, oldest_us=0) for n in range(9)]
    plan = Learned(brain=brain, view=View()).plan(snapshot([machine()], [*huge, demand("d", oldest_us=5)]))
    assert where(plan) == {"d": {"m": 1}}


def test_a_network_is_written_and_read(tmp_path: Path) -> None:
    view = View(slots=2, horizon=3)
    draw = np.random.Generator(np.random.PCG64(1))
    layers = [
        (draw.standard_normal((8, view.size)).astype(np.float16).astype(np.float32), np.zeros(8, np.float32)),
        (draw.standard_normal((3, 8)).astype(np.float16).astype(np.float32), np.ones(3, np.float32)),
    ]
    network = Network(view, layers, "made by hand")
    network.save(tmp_path / "net.npz")
    again = Network.load(tmp_path / "net.npz")
    assert again.view == view and again.note == "made by hand"
    assert all(
        (a == b).all() for one, two in zip(again.layers, layers, strict=True) for a, b in zip(one, two, strict=True)
    )
    with pytest.raises(ValueError, match="do not lead from"):
        Network(View(), layers)
    (tmp_path / "other.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="no network"):
        Network.load(tmp_path / "other.npz")


def test_the_shipped_network_is_small_and_needs_no_library_for_learning() -> None:
    assert SHIPPED.stat().st_size < 200_000
    code = (
        "import sys; from policies.learned import Learned; Learned(); print({'torch', 'gymnasium'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


TRACES = Path(__file__).parents[1].parent / "shared" / "traces" / "deeprm"


@pytest.mark.skipif(not TRACES.exists(), reason="the published sequences are not shipped: ../shared/traces/deeprm")
def test_it_beats_the_heuristics_on_sequences_it_never_saw() -> None:
    from benchmarks.truth.deeprm import Cluster, by_learned, by_policy
    from policies.sjf import Sjf

    found = json.loads((TRACES / "seq_rate0.7.json").read_text())
    totals = {"learned": 0.0, "sjf": 0.0}
    for lengths, sizes in list(zip(found["len"], found["size"], strict=True))[:8]:
        for name, choose in (("learned", by_learned(Learned())), ("sjf", by_policy(Sjf()))):
            done = Cluster(lengths, sizes).run(choose)
            totals[name] += sum((each.ended - each.arrived) / each.length for each in done)
    assert totals["learned"] < 0.95 * totals["sjf"]


# --- the environment -------------------------------------------------------------------------------------------------


@pytest.fixture
def gym() -> Any:
    pytest.importorskip("gymnasium", reason="needs the extra `learn`")
    import offerflow.gym

    return offerflow.gym


def episode(env: Any, seed: int, action: int = 0) -> tuple[float, float, int]:
    """Total reward, mean slowdown and decisions of an episode that takes one action wherever it is open."""
    env.reset(seed=seed)
    total, n, done, info = 0.0, 0, False, {}
    while not done:
        mask = env.action_masks()
        _, reward, done, _, info = env.step(action if mask[action] else int(mask.argmax()))
        total, n = total + reward, n + 1
    env.close()
    return total, info["slowdown"], n


def test_the_environment_keeps_gymnasiums_contract(gym: Any) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(gym.BareEnv((0.7,)), skip_render_check=True)
    env = gym.SchedulingEnv(lambda seed: gym.deeprm_world(seed, 0.7, 8))
    check_env(env, skip_render_check=True)
    env.close()


def test_an_episode_is_a_run_of_the_engine_and_loses_its_slowdowns(gym: Any) -> None:
    env = gym.SchedulingEnv(lambda seed: gym.deeprm_world(seed, 0.7, 20))
    one, again = episode(env, 3), episode(env, 3)
    assert one == again, "the same seed, the same episode"
    assert episode(env, 4) != one
    bare = episode(gym.BareEnv((0.7,), 20), 3)
    assert bare[2] == pytest.approx(one[2], abs=2), "the bare cluster asks the same things …"
    assert bare[0] == pytest.approx(one[0], rel=0.1), "… and takes as much for the answers"


def test_what_waits_costs_more_than_what_is_started(gym: Any) -> None:
    env = gym.SchedulingEnv(lambda seed: gym.deeprm_world(seed, 0.7, 12))
    assert episode(env, 5, action=env.view.slots)[0] < episode(env, 5)[0]


def test_an_abandoned_episode_leaves_no_thread(gym: Any) -> None:
    import threading

    env = gym.SchedulingEnv(lambda seed: gym.deeprm_world(seed, 0.7, 12))
    before = threading.active_count()
    env.reset(seed=1)
    assert threading.active_count() == before + 1
    env.close()
    assert threading.active_count() == before


def test_the_example_of_the_page_runs(gym: Any, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "gymnasium.make" in block]
    exec(compile(example, "docs/training.md", "exec"), {})
    assert float(capsys.readouterr().out) > 1


def test_a_scenario_file_is_an_environment_too(gym: Any) -> None:
    import gymnasium

    path = Path(__file__).parents[1] / "scenarios" / "quickstart.yaml"
    env = gymnasium.make("offerflow/Scenario-v0", path=str(path), disable_env_checker=True)
    vector, _ = env.reset(seed=1)
    assert vector.shape == env.observation_space.shape
    _, reward, _, _, _ = env.step(0)
    assert float(reward) <= 0.0
    env.close()


@pytest.mark.slow
def test_the_same_seed_trains_the_same_network(gym: Any, tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib", reason="needs the extra `learn`")
    from scenarios.learning import Training, train

    made = [train(Training(n_decisions=2048, seed=3)) for _ in range(2)]
    for one, two in zip(made[0].layers, made[1].layers, strict=True):
        assert (one[0] == two[0]).all() and (one[1] == two[1]).all()

"""A Gymnasium environment over the scenario engine: an agent decides what a policy decides, one task at a time.

An episode is a run of the player: the production master and agents in simulated time. Whenever the master asks its
policy and there is something to decide, the environment shows what `policies.learned.View` makes of the snapshot and
takes the slot to start next, or the last action: wait. So what is learned here runs unchanged as the policy `learned`.
`action_masks()` says which actions are open, as sb3-contrib wants it; a closed one counts as waiting, and where waiting
itself is closed the first open one is taken.

The player runs in a thread of its own and stands still while the learner thinks; no two of its steps overlap. Needs
`gymnasium` (extra `learn`). Importable as `offerflow.gym`.
"""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt

from federation.config import MasterConfig
from policies.learned import Learned, Seen, View
from policies.model import Plan, Snapshot
from scenarios.deeprm import deeprm_world
from scenarios.format import load_scenario
from scenarios.player import play
from scenarios.world import World

Reward = Literal["slowdown", "completion"]
MakeWorld = Callable[[int], World]

SEED_MAX = 2**31


class SchedulingEnv(gymnasium.Env[npt.NDArray[np.float32], int]):
    """One run of a world an episode; `reset(seed=…)` makes the runs that follow repeatable.

    The reward of an action is what passed until the next decision: "slowdown" loses 1 ÷ run time for every task in the
    system and step of `view.step_us` (DeepRM's; undiscounted, an episode loses the sum of all slowdowns), "completion"
    loses one for each. `info` of the last step has `slowdown`, the mean over the tasks that ended.
    """

    def __init__(
        self, make_world: MakeWorld, view: View | None = None, reward: Reward = "slowdown",
        config: MasterConfig | None = None,
    ) -> None:  # fmt: skip
        """`make_world(seed)`: the world of an episode. `config`: None asks once a step of the view, as DeepRM does."""
        self.view = view or View()
        every_us = self.view.step_us
        self._config = config or MasterConfig(round_every_us=every_us, round_idle_us=every_us)
        self._make_world, self._reward = make_world, reward
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (self.view.size,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(self.view.n_actions)  # type: ignore[assignment]
        self._run: _Run | None = None
        self._seen: Seen | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.close()
        while self._seen is None:  # A world in which nothing is ever to be decided is passed over.
            world = self._make_world(int(self.np_random.integers(SEED_MAX)))
            self._run = _Run(world, self.view, self._reward, self._config)
            self._seen = self._run.next_question()
        self._run_of_now().take_reward()  # What passed before the first decision was nobody's doing.
        return self._seen.vector, {}

    def step(self, action: int) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        run = self._run_of_now()
        assert self._seen is not None, "reset comes first"
        mask = self._seen.mask
        chosen = int(action) if mask[action] else self.view.slots if mask[self.view.slots] else int(mask.argmax())
        run.answer(chosen)
        self._seen = run.next_question()
        if self._seen is None:
            return np.zeros(self.view.size, np.float32), run.take_reward(), True, False, {"slowdown": run.slowdown}
        return self._seen.vector, run.take_reward(), False, False, {}

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """[actions] which are open now; all of them once the episode is over."""
        return self._seen.mask if self._seen is not None else np.ones(self.view.n_actions, np.bool_)

    def close(self) -> None:
        if self._run is not None:
            self._run.abandon()
        self._run = self._seen = None

    def _run_of_now(self) -> "_Run":
        assert self._run is not None, "reset comes first"
        return self._run


class _Abandoned(BaseException):
    """Ends a run from within: nobody wants to know how it goes on."""


class _Run:
    """A run of the player in its thread, which waits whenever its policy is to decide."""

    def __init__(self, world: World, view: View, reward: Reward, config: MasterConfig) -> None:
        self.slowdown = 0.0
        self._world, self._config = world, config
        self._policy = _Asking(world, view, reward, self._ask)
        self._questions: queue.SimpleQueue[Seen | BaseException | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._play, name="episode", daemon=True)
        self._thread.start()

    def next_question(self) -> Seen | None:
        """None: the run is over. What the player raised is raised here."""
        question = self._questions.get()
        if isinstance(question, BaseException):
            raise question
        return question

    def answer(self, action: int) -> None:
        self._answers.put(action)

    def take_reward(self) -> float:
        reward, self._policy.reward = self._policy.reward, 0.0
        return reward

    def abandon(self) -> None:
        self._answers.put(None)
        self._thread.join()

    def _ask(self, seen: Seen) -> int:
        self._questions.put(seen)
        action = self._answers.get()
        if action is None:
            raise _Abandoned
        return action

    def _play(self) -> None:
        try:
            outcome = play(self._world, self._policy, "learned", config=self._config)
            self._policy.settle(None)
            slowdowns = [
                (task.ended_us - job.submitted_us) / group.spec.run_us
                for job in outcome.master.core.tasks.jobs.values()
                for group in job.groups.values()
                for task in group.tasks
                if task.ended_us is not None
            ]
            self.slowdown = float(np.mean(slowdowns)) if slowdowns else 0.0
            self._questions.put(None)
        except _Abandoned:
            return
        except BaseException as error:
            self._questions.put(error)


class _Asking:
    """The policy of an episode: decides as the learner says, and counts what the tasks in the system lose meanwhile."""

    def __init__(self, world: World, view: View, reward: Reward, ask: Callable[[Seen], int]) -> None:
        self.reward = 0.0
        self._learned = Learned(brain=ask, view=view)
        self._step_us = view.step_us
        self._by_count = reward == "completion"
        self._speed = {agent.agent_id: max(1, agent.speed_milli) for agent in world.agents}
        self._told_us = {
            (arrival.job.name, group.name): (group.run_us, group.simulated_run_us or group.run_us)
            for arrival in world.arrivals
            for group in arrival.job.tasks
        }
        self._now_us: int | None = None
        self._present: list[tuple[float, int | None]] = []  # weight and expected end of each task in the system

    def plan(self, snapshot: Snapshot) -> Plan:
        self.settle(snapshot.now_us)
        plan = self._learned.plan(snapshot)
        self._present = self._pending(snapshot, plan) + self._running(snapshot)
        return plan

    def settle(self, now_us: int | None) -> None:
        """Count what the tasks lost since the last round; None: until the end of what runs."""
        since_us = self._now_us if self._now_us is not None else now_us
        for weight, end_us in self._present:
            until_us = end_us if now_us is None else now_us if end_us is None else min(now_us, end_us)
            if until_us is not None and since_us is not None:
                self.reward -= weight * max(0, until_us - since_us) / self._step_us
        self._now_us, self._present = now_us, []

    def _weight(self, run_us: int) -> float:
        return 1.0 if self._by_count else self._step_us / max(1, run_us)

    def _pending(self, snapshot: Snapshot, plan: Plan) -> list[tuple[float, int | None]]:
        out: list[tuple[float, int | None]] = []
        left = {demand.demand_id: demand.count for demand in snapshot.demands}
        run_us = {demand.demand_id: demand.run_us for demand in snapshot.demands}
        for placement in plan.placements:
            left[placement.demand_id] -= placement.count
            each_us = run_us[placement.demand_id]
            end_us = snapshot.now_us + each_us * 1000 // self._speed[placement.agent_id]
            out += [(self._weight(each_us), end_us)] * placement.count
        return out + [(self._weight(run_us[key]), None) for key, count in left.items() for _ in range(count)]

    def _running(self, snapshot: Snapshot) -> list[tuple[float, int | None]]:
        out: list[tuple[float, int | None]] = []
        for node in snapshot.nodes:
            for task in node.running:
                job_id, group, _ = task.task_id.rsplit("/", 2)
                told_us, true_us = self._told_us.get((job_id, group), (self._step_us, self._step_us))
                out.append((self._weight(told_us), task.since_us + true_us * 1000 // self._speed[node.agent_id]))
        return out


def make_scenario(path: str, **rest: Any) -> SchedulingEnv:
    """The worlds of a scenario file, each episode with another seed."""

    def make_world(seed: int) -> World:
        return load_scenario(Path(path), seed=seed).world

    return SchedulingEnv(make_world, config=MasterConfig(), **rest)


def make_deeprm(rates: tuple[float, ...] = (0.3, 0.5, 0.7), n_steps: int = 50, **rest: Any) -> SchedulingEnv:
    """DeepRM's cluster in the engine; the rate of an episode is drawn from `rates` by its seed."""
    return SchedulingEnv(lambda seed: deeprm_world(seed, rates[seed % len(rates)], n_steps), **rest)


gymnasium.register("offerflow/DeepRM-v0", entry_point="scenarios.gym:make_deeprm")
gymnasium.register("offerflow/BareDeepRM-v0", entry_point="scenarios.deeprm:BareEnv")
gymnasium.register("offerflow/Scenario-v0", entry_point="scenarios.gym:make_scenario")

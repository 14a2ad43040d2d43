"""Gangs that talk: their steps are flows on the same links as everyone's transfers, and the slowest flow holds all up.

While every worker of a gang runs, computing and communicating take turns (side by side where the job says that it is
not synchronous). Steps go in at most `TURNS_MAX` turns of several at once, with their bytes together: a flow a step
would be millions, and a flow-level network has no use for them. A worker that is gone stops the others where they are.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from policies.communication import FP16_RATIO, POWERSGD_RATIO
from policies.model import Communication
from scenarios.broker import Timetable
from scenarios.fabric import Fabric

TURNS_MAX = 16
STEP_US = 1_000_000  # of a job that does not say how long its steps are


class Talk(NamedTuple):
    """What the job file says of a gang."""

    gang: str  # job id and group
    n_workers: int
    said: Communication


class _Worker(NamedTuple):
    attempt: int
    agent_id: str
    site: str
    run_us: int
    done: Callable[[int], None]


class _Gang:
    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.workers: dict[str, _Worker] = {}  # by task id: the newest attempt of each
        self.env: Mapping[str, str] = {}
        self.n_turns_done = 0
        self.turn = 0  # counts begun turns: what an earlier one scheduled is void
        self.flows: set[int] = set()
        self.is_computing = False


class Gangs:
    def __init__(self, fabric: Fabric, timetable: Timetable) -> None:
        self._fabric = fabric
        self._timetable = timetable
        self._gangs: dict[str, _Gang] = {}
        self.n_bytes = 0  # handed to the network

    def join(
        self,
        talk: Talk,
        task_id: str,
        attempt: int,
        agent_id: str,
        site: str,
        run_us: int,
        env: Mapping[str, str],
        done: Callable[[int], None],
        now_us: int,
    ) -> None:
        """A worker's process runs. `run_us` is what it computes in all; `done` is told when the gang has finished."""
        gang = self._gangs.setdefault(talk.gang, _Gang(talk))
        if task_id in gang.workers:  # Cut off and given up, it may run on, but the others talk to the new one.
            self._stop(gang, now_us)
        gang.workers[task_id] = _Worker(attempt, agent_id, site, run_us, done)
        gang.env = env
        if len(gang.workers) == talk.n_workers:
            self._turn(gang, now_us)

    def leave(self, talk: Talk, task_id: str, attempt: int, now_us: int) -> None:
        """Its process is gone; steps that were not finished are done again. One whose place another attempt took by now
        is nobody's loss."""
        gang = self._gangs.get(talk.gang)
        worker = gang.workers.get(task_id) if gang is not None else None
        if gang is None or worker is None or worker.attempt != attempt:
            return
        del gang.workers[task_id]
        self._stop(gang, now_us)
        if not gang.workers:
            del self._gangs[talk.gang]

    def _stop(self, gang: _Gang, now_us: int) -> None:
        """The turn that was begun is void."""
        gang.turn += 1
        for flow_id in sorted(gang.flows):
            self._fabric.cancel(flow_id, now_us)
        gang.flows.clear()

    def _turn(self, gang: _Gang, now_us: int) -> None:
        n_steps, n_turns = _steps(gang)
        if gang.n_turns_done == n_turns:
            self._finish(gang, now_us)
            return
        gang.turn += 1
        begun = n_steps * gang.n_turns_done // n_turns
        steps = n_steps * (gang.n_turns_done + 1) // n_turns - begun
        compute_us = max(worker.run_us for worker in gang.workers.values()) * steps // n_steps
        gang.is_computing = True
        self._timetable.call(now_us + compute_us, partial(self._computed, gang, gang.turn, steps))
        if not gang.talk.said.synchronous:
            self._send(gang, steps, now_us)

    def _computed(self, gang: _Gang, turn: int, steps: int, now_us: int) -> None:
        if turn != gang.turn:
            return
        gang.is_computing = False
        if gang.talk.said.synchronous:
            self._send(gang, steps, now_us)
        self._go_on(gang, now_us)

    def _send(self, gang: _Gang, steps: int, now_us: int) -> None:
        turn = gang.turn
        for sender, receiver, n_bytes in exchanges(gang.talk.said, _places(gang), gang.env):
            size_bytes = n_bytes * steps
            holder: list[int] = []

            def ended(at_us: int, *_: object, holder: list[int] = holder) -> None:
                if turn == gang.turn:
                    gang.flows.discard(holder[0])
                    self._go_on(gang, at_us)

            flow_id = self._fabric.transfer(sender, receiver, size_bytes, now_us, ended)
            holder.append(-1 if flow_id is None else flow_id)
            gang.flows.add(holder[0])  # Without a path it never ends, and the gang waits as a real one would.
            self.n_bytes += size_bytes if flow_id is not None else 0

    def _go_on(self, gang: _Gang, now_us: int) -> None:
        if not gang.is_computing and not gang.flows:
            gang.n_turns_done += 1
            self._turn(gang, now_us)

    def _finish(self, gang: _Gang, now_us: int) -> None:
        del self._gangs[gang.talk.gang]
        for task_id in sorted(gang.workers):
            gang.workers[task_id].done(now_us)


def _steps(gang: _Gang) -> tuple[int, int]:
    """How many steps with a synchronisation it has, and in how many turns."""
    run_us = max(worker.run_us for worker in gang.workers.values())
    local_steps = max(1, int(gang.env.get("OFFERFLOW_COMM_LOCAL_STEPS", "1")))
    n_steps = max(1, run_us // ((gang.talk.said.iteration_us or STEP_US) * local_steps))
    return n_steps, min(n_steps, TURNS_MAX)


def _places(gang: _Gang) -> list[tuple[str, str]]:
    """Agent and group of each worker, in the order of their numbers."""
    by_number = sorted(gang.workers, key=lambda task_id: int(task_id.rpartition("/")[2]))
    return [(gang.workers[task_id].agent_id, gang.workers[task_id].site) for task_id in by_number]


def exchanges(said: Communication, places: list[tuple[str, str]], env: Mapping[str, str]) -> list[tuple[str, str, int]]:
    """Sender, receiver and bytes of one step, between agents; what stays on one agent takes no network. A plan's tuning
    in `env` compresses, sums up within a site first, and says at which site a parameter server is."""
    n_bytes = said.bytes_per_step
    match env.get("OFFERFLOW_COMM_COMPRESSION", ""):
        case "fp16":
            n_bytes //= FP16_RATIO
        case "powersgd":
            n_bytes //= POWERSGD_RATIO
    agents = [agent_id for agent_id, _ in places]
    found: list[tuple[str, str, int]] = []
    if env.get("OFFERFLOW_COMM_AGGREGATE", "") and said.pattern != "all_to_all":
        leaders: dict[str, str] = {}
        for agent_id, site in places:
            leader = leaders.setdefault(site, agent_id)
            found += [(agent_id, leader, n_bytes), (leader, agent_id, n_bytes)] if agent_id != leader else []
        agents = list(leaders.values())
    match said.pattern:
        case "allreduce" if len(agents) > 1:  # a ring
            found += [(agent, agents[(at + 1) % len(agents)], n_bytes) for at, agent in enumerate(agents)]
        case "parameter_server":
            meet_at = env.get("OFFERFLOW_COMM_MEET_AT", "")
            server = next((agent_id for agent_id, site in places if site == meet_at), agents[0])
            found += [way for agent in agents for way in ((agent, server, n_bytes), (server, agent, n_bytes))]
        case "all_to_all":
            each = n_bytes // max(1, len(agents) - 1)
            found += [(first, second, each) for at, first in enumerate(agents)
                      for to, second in enumerate(agents) if at != to]  # fmt: skip
        case _:
            pass
    return [(sender, receiver, size) for sender, receiver, size in found if sender != receiver and size]

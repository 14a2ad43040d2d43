"""A recording of a live master, replayed: the same events to the same core, and the policy asked again.

What a master decides is a function of its state and its events, and a recording holds both. So a replay proves two
things: that the core comes to the same state, and that the policy, given the snapshots of then, decides as it did.
With another policy it shows the first round in which that one would have decided otherwise.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from federation import commands, events
from federation.facts import Fact
from federation.master import Master
from federation.recording import read
from federation.saved import decode_saved
from policies import registry
from policies.api import Policy
from policies.model import Plan, Record, Snapshot
from scenarios.laws import Laws


class Checked(Record, frozen=True, kw_only=True):
    """The laws on one recording."""

    broken: tuple[str, ...]
    n_events: int
    n_rounds: int


class Replayed(Record, frozen=True, kw_only=True, omit_defaults=False):
    """`parting` tells of the first round in which the policy decides otherwise; "" where it never does. The laws cannot
    be checked where the recording begins amid the life of jobs (`laws_checked`)."""

    recorded_policy: str
    policy: str
    n_events: int
    n_facts: int
    n_rounds: int
    n_equal: int
    parting: str
    laws_checked: bool
    broken_laws: tuple[str, ...]


def laws_of_recording(path: Path, known: Iterable[Fact] = ()) -> Checked:
    """`known` are the facts of a journal, as far as they are older than the recording: what its master began with."""
    n_rounds = 0

    def solve(round_id: int, snapshot: Snapshot, now_us: int) -> None:
        nonlocal n_rounds
        n_rounds += 1

    driven = drive(path, tuple(known), solve, lambda *_: None)
    return Checked(broken=driven.broken, n_events=driven.n_events, n_rounds=n_rounds)


class Asking:
    """A policy that is asked again in each round, and held against the plan of then."""

    def __init__(self, policy: Policy) -> None:
        self.n_rounds = self.n_equal = 0
        self.parting = ""  # of the first round in which it decides otherwise
        self._policy = policy
        self._snapshots: dict[int, Snapshot] = {}
        self._begun_us: int | None = None

    def solve(self, round_id: int, snapshot: Snapshot, now_us: int) -> None:
        self._begun_us = now_us if self._begun_us is None else self._begun_us
        self._snapshots[round_id] = snapshot

    def planned(self, round_id: int, theirs: Plan, now_us: int) -> None:
        snapshot = self._snapshots.pop(round_id, None)
        if snapshot is None:
            return  # The recording begins in the middle of a round.
        self.n_rounds += 1
        ours = self._policy.plan(snapshot)
        if decisions(ours) == decisions(theirs):
            self.n_equal += 1
        elif not self.parting:
            at_s = (now_us - (self._begun_us or 0)) / 1e6
            self.parting = f"round {self.n_rounds}, {at_s:.3f} s after the first: {_difference(theirs, ours)}"


def replay(path: Path, policy_name: str | None = None) -> Replayed:
    """Raises `ConfigError` for what is no recording, or a policy that is not known."""
    header, _ = read(path)
    name = policy_name or header.policy
    asking = Asking(registry.load(name))
    driven = drive(path, (), asking.solve, asking.planned)
    return Replayed(
        recorded_policy=header.policy,
        policy=name,
        n_events=driven.n_events,
        n_facts=len(driven.facts),
        n_rounds=asking.n_rounds,
        n_equal=asking.n_equal,
        parting=asking.parting,
        laws_checked=driven.laws is not None,
        broken_laws=driven.broken,
    )


class Driven(NamedTuple):
    """A core that went through a recording, and the facts that this led to. `laws` None: they do not know what was
    before."""

    master: Master
    laws: Laws | None
    n_events: int
    facts: tuple[Fact, ...]

    @property
    def broken(self) -> tuple[str, ...]:
        return tuple(self.laws.broken) if self.laws is not None else ()


def drive(
    path: Path,
    known: tuple[Fact, ...],
    solve: Callable[[int, Snapshot, int], None],
    planned: Callable[[int, Plan, int], None],
    hear: Callable[[events.Event, int], None] = lambda *_: None,
) -> Driven:
    """Give its events to a core that begins where it began. `known` are facts, as far as they are older."""
    header, recorded = read(path)
    if header.state is None:
        master = Master(header.config, header.policy)
    else:
        master = Master.restore(header.config, decode_saved(header.state).durable, header.policy)
    laws = Laws(header.config, header.policy) if known or not master.core.tasks.jobs else None
    n_events = 0
    facts: list[Fact] = []
    for each in recorded:
        if laws is not None and not n_events:
            laws.remember(fact for fact in known if fact.at_us < each.at_us)
        n_events += 1
        hear(each.event, each.at_us)
        wanted = master.handle(each.event, each.at_us)
        if laws is not None:
            laws.after_step(each.event, wanted, each.at_us)
        for command in wanted:
            if isinstance(command, commands.Persist):
                facts.append(command.fact)
            elif isinstance(command, commands.Solve) and command.round_id >= 0:  # Dry runs are no decisions.
                solve(command.round_id, command.snapshot, each.at_us)
        if isinstance(each.event, events.PlanReady) and not each.event.policy:  # Else the fallback made it.
            planned(each.event.round_id, each.event.plan, each.at_us)
    return Driven(master, laws, n_events, tuple(facts))


def decisions(plan: Plan) -> tuple[object, ...]:
    """What a plan does to the world; terms and next-best choices are commentary."""
    return _placed(plan), plan.moves, plan.evictions, plan.relocations, plan.tunings


def _placed(plan: Plan) -> tuple[tuple[str, str, int], ...]:
    return tuple((each.demand_id, each.agent_id, each.count) for each in plan.placements)


def _difference(theirs: Plan, ours: Plan) -> str:
    for before, after in zip(_placed(theirs), _placed(ours), strict=False):
        if before != after:
            then, now = (f"{count} of {demand} on {agent}" for demand, agent, count in (before, after))
            return f"it placed {then}; now {now}"
    sizes = [f"{len(plan.placements)} placements, {len(plan.moves)} moves, {len(plan.evictions)} evictions"
             for plan in (theirs, ours)]  # fmt: skip
    return f"it made {sizes[0]}; now {sizes[1]}"

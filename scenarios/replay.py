"""A recording of a live master, replayed: the same events to the same core, and the policy asked again.

What a master decides is a function of its state and its events, and a recording holds both. So a replay proves two
things: that the core comes to the same state, and that the policy, given the snapshots of then, decides as it did.
With another policy it shows the first round in which that one would have decided otherwise.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from federation import commands, events
from federation.facts import Fact
from federation.master import Master
from federation.recording import read
from federation.saved import decode_saved
from policies import registry
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

    laws, n_events, _ = _drive(path, tuple(known), solve, lambda *_: None)
    return Checked(broken=tuple(laws.broken) if laws else (), n_events=n_events, n_rounds=n_rounds)


def replay(path: Path, policy_name: str | None = None) -> Replayed:
    """Raises `ConfigError` for what is no recording, or a policy that is not known."""
    header, _ = read(path)
    name = policy_name or header.policy
    policy = registry.load(name)
    snapshots: dict[int, Snapshot] = {}
    begun_us: list[int] = []
    n_rounds = n_equal = 0
    parting = ""

    def solve(round_id: int, snapshot: Snapshot, now_us: int) -> None:
        begun_us.append(now_us)
        snapshots[round_id] = snapshot

    def planned(round_id: int, theirs: Plan, now_us: int) -> None:
        nonlocal n_rounds, n_equal, parting
        snapshot = snapshots.pop(round_id, None)
        if snapshot is None:
            return  # The recording begins in the middle of a round.
        n_rounds += 1
        ours = policy.plan(snapshot)
        if decisions(ours) == decisions(theirs):
            n_equal += 1
        elif not parting:
            at_s = (now_us - begun_us[0]) / 1e6
            parting = f"round {n_rounds}, {at_s:.3f} s after the first: {_difference(theirs, ours)}"

    laws, n_events, n_facts = _drive(path, (), solve, planned)
    return Replayed(
        recorded_policy=header.policy,
        policy=name,
        n_events=n_events,
        n_facts=n_facts,
        n_rounds=n_rounds,
        n_equal=n_equal,
        parting=parting,
        laws_checked=laws is not None,
        broken_laws=tuple(laws.broken) if laws else (),
    )


def _drive(
    path: Path,
    known: tuple[Fact, ...],
    solve: Callable[[int, Snapshot, int], None],
    planned: Callable[[int, Plan, int], None],
) -> tuple[Laws | None, int, int]:
    """The laws, where they know what was before; how many events there were, and how many facts they led to."""
    header, recorded = read(path)
    if header.state is None:
        master = Master(header.config, header.policy)
    else:
        master = Master.restore(header.config, decode_saved(header.state).durable, header.policy)
    laws = Laws(header.config, header.policy) if known or not master.core.tasks.jobs else None
    n_events = n_facts = 0
    for each in recorded:
        if laws is not None and not n_events:
            laws.remember(fact for fact in known if fact.at_us < each.at_us)
        n_events += 1
        wanted = master.handle(each.event, each.at_us)
        if laws is not None:
            laws.after_step(each.event, wanted, each.at_us)
        n_facts += sum(isinstance(command, commands.Persist) for command in wanted)
        for command in wanted:
            if isinstance(command, commands.Solve) and command.round_id >= 0:  # Dry runs are no decisions.
                solve(command.round_id, command.snapshot, each.at_us)
        if isinstance(each.event, events.PlanReady) and not each.event.policy:  # Else the fallback made it.
            planned(each.event.round_id, each.event.plan, each.at_us)
    return laws, n_events, n_facts


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

"""Work moves because a link changed: what runs is looked at again whenever its links may be others than were planned.

A transfer goes on from another replica by Range where that is faster by a margin; nothing of it is lost. A task that
waits for data that is late, or answers clients whose round trip is now too long, is put before the policy as a
continuation: beside everywhere it could go, staying costs what is left. It is moved only if going is cheaper by a
margin and by what moving costs. What was moved is left alone for a while, and all moves together have a budget: nothing
flaps.

Gangs stay where they are: to move one member is to stop them all. Of this term only; a new term holds everything down
as if it had just been moved.
"""

from collections.abc import Iterable

import msgspec

from federation.agents_book import AgentEntry
from federation.core import Core
from federation.demands import demand_id_of
from federation.launches import kill, redirect
from federation.link_track import RATE_BPS_MIN
from federation.moves import room
from federation.offers import expected_run_us, free_of, is_offered, may_live
from federation.states import TaskState
from federation.task_entries import TaskEntry
from federation.transfers import RunningFetch
from policies.cost import SERVICE_ANSWERS, SERVICE_US
from policies.model import Continuation, Demand, Relocation
from policies.resources import copies

CONTINUATIONS_MAX = 32  # before the policy at once, those that are latest first: a round must stay short
LATE_US = 2_000_000  # Data later than planned by less than this is no reason to think again.
# All transfers of one bottleneck get about the same; what gets twice as much does not share it.
FAR = 2
# A transfer that gets less than an eighth of its share meets something the map does not know. Smaller errors are the
# map's own, and it would make them anywhere else too.
STUCK = 8
SLOW_LOOKS = 3  # after so many looks at that: a link that fell is known as such by then, and all is reckoned by it
LAN_BPS = 1_000_000_000  # between agents of one site that nobody measured


def look(core: Core) -> None:
    """Redirect transfers, and find out what the next round is to think about again."""
    book, config = core.rescheduling, core.config
    if not config.moves_per_minute_max:
        return
    fetches = list(core.transfers.running(core.tasks.tasks, core.moves))
    serving = [task for task in core.tasks.facing_clients() if task.state is TaskState.RUNNING]
    book.continuing = ()
    if not fetches and not serving:
        return  # The next launch sees to it that we look again.
    core.deadlines.set("reschedule", core.now_us + config.move_look_us)
    if core.recovering or not core.broker_found:
        return
    loads = _Loads(fetch for fetch in fetches if fetch.is_moving(core.now_us))
    _learn_sums(core, fetches)
    _watch_rates(core, fetches, loads)
    for fetch in sorted(fetches, key=lambda fetch: not fetch.tasks):  # what someone waits for first
        if room(book.transfers_us, config.moves_per_minute_max, core.now_us) > 0:
            _redirect(core, fetch, loads)
    if room(book.tasks_us, config.moves_per_minute_max, core.now_us) <= 0:
        return
    late = _late(core, fetches, loads) + [
        (late_us, task, 0) for task in serving if (late_us := _client_wait_us(core, task)) > 0
    ]
    late.sort(key=lambda each: (-each[0], each[1].task_id))
    found = [_continuation(core, task, fetch_us) for _, task, fetch_us in late[:CONTINUATIONS_MAX]]
    book.continuing = tuple(sorted((each for each in found if each is not None), key=lambda each: each.task_id))
    if book.continuing:
        core.rounds.changed = True


# --- transfers -------------------------------------------------------------------------------------------------------


class _Loads:
    """Transfers that move, by the sites between which they do."""

    def __init__(self, fetches: Iterable[RunningFetch]) -> None:
        self._moving: dict[tuple[str, str], list[RunningFetch]] = {}
        for fetch in fetches:
            self._moving.setdefault((fetch.from_site, fetch.to_site), []).append(fetch)

    def count(self, from_site: str, to_site: str) -> int:
        return len(self._moving.get((from_site, to_site), ()))

    def bytes_until(self, fetch: RunningFetch, from_site: str) -> int:
        """What moves between the sites until a fetch from there is through, its own bytes and those of others. All get
        equal parts (processor sharing), so that who has less left takes no more than that from it, and who has more
        takes as much as it has itself. Time O(transfers there)."""
        left_bytes = fetch.left_bytes
        others = self._moving.get((from_site, fetch.to_site), ())
        return left_bytes + sum(min(other.left_bytes, left_bytes) for other in others if other is not fetch)

    def come_from(self, fetch: RunningFetch, source: str, from_site: str) -> None:
        """The fetch goes on from another source."""
        here = self._moving.get((fetch.from_site, fetch.to_site), [])
        if fetch in here:
            here.remove(fetch)
        for other in here:  # It leaves them its part: how slow they were says nothing of what they will be.
            other.slow_looks = 0
        fetch.come_from(source, from_site)
        self._moving.setdefault((from_site, fetch.to_site), []).append(fetch)


def _left_us(core: Core, fetch: RunningFetch, loads: _Loads) -> int | None:
    """How long a fetch will still take from where it comes: by its share of what the link is forecast to give, or by
    its own rate where that is far from it for long. None where nobody measured either."""
    share_us, own_us = _share_us(core, fetch, loads), _own_us(fetch)
    if own_us is None or (share_us is not None and fetch.slow_looks < SLOW_LOOKS):
        return share_us
    return own_us


def _share_us(core: Core, fetch: RunningFetch, loads: _Loads) -> int | None:
    n_bytes = loads.bytes_until(fetch, fetch.from_site)
    bps = core.network.transfer_bps(fetch.source, fetch.agent_id, n_bytes, core.now_us)
    return None if not bps else n_bytes * 8_000_000 // bps


def _own_us(fetch: RunningFetch) -> int | None:
    return None if fetch.rate_bps is None else fetch.left_bytes * 8_000_000 // max(RATE_BPS_MIN, fetch.rate_bps)


def _watch_rates(core: Core, fetches: list[RunningFetch], loads: _Loads) -> None:
    for fetch in fetches:
        n_sharing = max(1, loads.count(fetch.from_site, fetch.to_site))
        bps = core.network.transfer_bps(fetch.source, fetch.agent_id, fetch.left_bytes * n_sharing, core.now_us)
        is_slow = False
        if bps and fetch.rate_bps is not None:
            is_slow = bps > STUCK * n_sharing * max(RATE_BPS_MIN, fetch.rate_bps)
        fetch.slow_looks = fetch.slow_looks + 1 if is_slow else 0


def _learn_sums(core: Core, fetches: list[RunningFetch]) -> None:
    """What all transfers between two sites come to together is what the way between them gives, though each of them saw
    a share and could only tell a lower bound.

    Unless something else holds them up: an uplink, which they share with transfers of another pair. There all get about
    the same (max-min fairness), so where the others get far more, or there are none, it is the way itself.
    """
    fresh_us = core.now_us - 2 * core.config.move_look_us
    of_pair: dict[tuple[str, str], list[int]] = {}
    for fetch in fetches:
        if fetch.rate_bps is not None and fetch.from_site and fetch.told_us is not None and fetch.told_us >= fresh_us:
            of_pair.setdefault((fetch.from_site, fetch.to_site), []).append(fetch.rate_bps)
    for pair, rates in of_pair.items():
        others = [max(some) for other, some in of_pair.items() if other != pair and (set(other) & set(pair))]
        if len(rates) > 1 or others:  # Else its agent has told of it as what it is.
            is_held_up = any(other <= FAR * max(rates) for other in others)
            core.network.learn_sum(*pair, sum(rates), core.now_us, is_lower_bound=is_held_up)


def _redirect(core: Core, fetch: RunningFetch, loads: _Loads) -> None:
    """Let it go on from the replica with the best way, if that is better enough."""
    name = f"{fetch.agent_id}/{fetch.shard_id}"
    shard, entry = core.shards.entries.get(fetch.shard_id), core.agents.get(fetch.agent_id)
    left_us = _left_us(core, fetch, loads)
    if left_us is None or shard is None or entry is None or core.rescheduling.is_held(name, core.now_us):
        return
    best: tuple[int, str] | None = None
    for agent_id in core.shards.live_replicas(shard):
        other = core.agents[agent_id]
        if agent_id in (fetch.agent_id, fetch.source) or not other.enrolled.data_url:
            continue
        n_bytes = loads.bytes_until(fetch, other.site)
        bps = core.network.transfer_bps(agent_id, fetch.agent_id, n_bytes, core.now_us)
        bps = bps or (LAN_BPS if other.site == entry.site else 0)
        if bps:
            best = min(best or (2**62, ""), (n_bytes * 8_000_000 // bps, agent_id))
    if best is None:
        return
    there_us, agent_id = best
    if left_us * 1000 <= (there_us + core.config.redirect_us) * (1000 + core.config.move_margin_milli):
        return
    redirect(core, entry, fetch.shard_id, agent_id)
    loads.come_from(fetch, agent_id, core.agents[agent_id].site)
    core.rescheduling.moved(name, core.rescheduling.transfers_us, core.now_us, core.config.move_hold_us)
    core.count("transfers_redirected")


def _late(core: Core, fetches: list[RunningFetch], loads: _Loads) -> list[tuple[int, TaskEntry, int]]:
    """Tasks whose data comes later than was planned: by how much, and how long it still takes."""
    still_us: dict[str, int] = {}
    for fetch in fetches:
        left_us = _left_us(core, fetch, loads)
        for task_id in fetch.tasks:
            still_us[task_id] = still_us.get(task_id, 0) + (left_us or 0)
    found: list[tuple[int, TaskEntry, int]] = []
    for task_id, fetch_us in still_us.items():
        task = core.tasks.tasks[task_id]
        terms = task.explanation.terms if task.explanation is not None else None
        if terms is None or task.launched_us is None or task.group.spec.replicas is not None:
            continue
        planned_us = terms.transfer_us + terms.congestion_us
        late_us = core.now_us - task.launched_us + fetch_us - planned_us
        if late_us > LATE_US + planned_us * core.config.move_margin_milli // 1000:
            found.append((late_us, task, fetch_us))
    return found


# --- continuations ---------------------------------------------------------------------------------------------------


def _client_wait_us(core: Core, task: TaskEntry) -> int:
    """By how much its clients' round trips are over their targets, weighted as a minute of requests."""
    own = core.agents[task.agent_id]
    over_us = 0
    for target in task.group.spec.latency:
        rtt_us = core.network.rtt_us(f"site:{target.site}", f"site:{own.site}") if target.site != own.site else None
        over_us += max(0, (rtt_us or 0) - target.rtt_us) * target.weight
    return over_us * SERVICE_ANSWERS


def _continuation(core: Core, task: TaskEntry, fetch_us: int) -> Continuation | None:
    """None for what may not be moved now."""
    entry = core.agents[task.agent_id]
    if (
        task.group.spec.gang
        or task.state in (TaskState.KILLING, TaskState.UNKNOWN)
        or not is_offered(entry, core.now_us)
        or entry.agent_id in core.market.held
        or core.rescheduling.is_held(task.task_id, core.now_us)
        or (task.task_id in core.rescheduling.held and core.now_us - (task.launched_us or 0) < core.config.move_hold_us)
        or core.now_us - core.term_begun_us < core.config.move_hold_us
    ):
        return None
    demand = core.tasks.template_of(task)
    # A service has no less left to do for having run: it costs here what it would cost anywhere, and its clients.
    run_us = SERVICE_US if demand.is_service else _run_left_us(core, task, entry)
    where = msgspec.structs.replace(
        demand.where, agents_avoided=tuple(sorted({*demand.where.agents_avoided, task.agent_id}))
    )
    bare: Demand = msgspec.structs.replace(demand, demand_id="", where=where)
    return Continuation(
        task_id=task.task_id,
        agent_id=task.agent_id,
        # After all ids of classes, so that both together stay sorted.
        demand=msgspec.structs.replace(
            bare, demand_id=f"~{demand_id_of(bare)}/{task.task_id}", count=1, oldest_us=core.now_us
        ),
        left_us=fetch_us + run_us,
        move_us=core.config.move_us,
        margin_milli=core.config.move_margin_milli,
    )


def _run_left_us(core: Core, task: TaskEntry, entry: AgentEntry) -> int:
    run_us = expected_run_us(task, entry, core.profiles)
    return run_us if task.started_us is None else max(0, task.started_us + run_us - core.now_us)


# --- what the policy says --------------------------------------------------------------------------------------------


def relocate(core: Core, relocations: tuple[Relocation, ...]) -> None:
    """Stop the tasks that are to move, if all is still as the policy saw it; the next rounds place them."""
    book, config = core.rescheduling, core.config
    asked = {each.task_id: each for each in book.continuing}
    for each in relocations:
        task, target = core.tasks.tasks.get(each.task_id), core.agents.get(each.to_agent)
        known = asked.get(each.task_id)
        if task is None or target is None or known is None or task.agent_id != each.from_agent:
            continue
        if task.state not in (TaskState.ASSIGNED, TaskState.STAGING, TaskState.RUNNING):
            continue
        if book.is_held(task.task_id, core.now_us) or not _takes(core, target, task):
            continue
        if room(book.tasks_us, config.moves_per_minute_max, core.now_us) <= 0:
            core.count("moves_over_budget")
            return
        book.moved(task.task_id, book.tasks_us, core.now_us, config.move_hold_us)
        core.count("tasks_moved")
        stay_s, there_s = each.stay_us / 1e6, each.terms.total_us() / 1e6
        kill(core, task, "moved", f"about {there_s:.0f} s on {each.to_agent} instead of {stay_s:.0f} s more here")
    book.continuing = ()


def _takes(core: Core, target: AgentEntry, task: TaskEntry) -> bool:
    free = free_of(target)
    return (
        free is not None
        and is_offered(target, core.now_us)
        and target.agent_id not in core.market.held
        and may_live(task.group.spec.where, target.agent_id, target.enrolled)
        and copies(task.group.spec.needs, free, 1) == 1
    )

"""Placement rounds: what the policy is asked, and what of its answer still holds when it comes.

A snapshot is built from parts that stay the same objects until they change, so a round costs O(classes + nodes). The
book moves on while the policy thinks: every placement is checked again before it is applied.
"""

import msgspec

from federation import topology
from federation.api import PlanView, Problem
from federation.application import Application
from federation.commands import Reply, Solve
from federation.core import Core
from federation.demands import demand_id_of
from federation.events import PlanFailed, PlanReady
from federation.market import allocation, wants
from federation.offers import may_live
from federation.services import services_of
from policies.model import Demand, Link, Node, Plan, Profile, Shard, Snapshot
from policies.resources import fits

WATCHED_MAX = 1024  # shards beyond those that tasks read: a snapshot stays small

# --- asking ----------------------------------------------------------------------------------------------------------


def open_round(core: Core) -> None:
    """Start a round if there is a reason to and none is in flight; else see to it that one starts in time."""
    rounds, now_us = core.rounds, core.now_us
    if rounds.in_flight is not None or core.recovering or not core.started or not core.broker_found:
        return
    continues = bool(core.rescheduling.continuing)
    waits = core.tasks.demands.classes or core.shards.lacking() or wants.are_open(core)
    is_idle = not (waits or continues or core.tasks.services)
    if is_idle and not rounds.watches:
        return
    due_us = max(rounds.begun_us + core.config.round_every_us, rounds.not_before_us)
    if is_idle:
        due_us = max(due_us, rounds.begun_us + core.config.round_watch_us)
    elif not rounds.changed:
        due_us = max(due_us, rounds.begun_us + core.config.round_idle_us)
    if now_us < due_us:
        core.deadlines.set_earlier("round", due_us)
        return
    core.deadlines.cancel("round")
    snapshot, aliases = make_snapshot(core)
    rounds.last_id = max(rounds.last_id, core.last_round_id) + 1
    rounds.in_flight = rounds.last_id
    rounds.begun_us = now_us
    rounds.changed = False
    rounds.n_nodes = len(snapshot.nodes)
    rounds.aliases = aliases
    core.deadlines.set("round_timeout", now_us + core.config.round_timeout_us)
    core.count("rounds")
    core.out.append(Solve(round_id=rounds.in_flight, snapshot=snapshot))


def make_snapshot(core: Core, extra: dict[str, Demand] | None = None) -> tuple[Snapshot, dict[str, tuple[str, ...]]]:
    """All a policy may know now, and which classes stand behind a demand id that is not a class's own."""
    elsewhere = core.market.held.keys() | allocation.awaited(core)
    nodes = core.nodes.nodes(elsewhere, core.tasks.tasks, core.profiles, core.now_us)
    demands, aliases = _demands(core, nodes, extra or {})
    continuing = core.rescheduling.continuing if extra is None else ()
    services = services_of(core) if extra is None else ()
    asked = (*demands, *(each.demand for each in continuing), *(each.demand for each in services))
    shard_ids = {shard_id for demand in asked for shard_id in demand.reads} | set(core.shards.wanting)
    shard_ids.update(_watched(core))
    shards: list[Shard] = [s for shard_id in sorted(shard_ids) if (s := core.shards.snapshot_of(shard_id)) is not None]
    if extra is None:
        core.network.ask(_asked_bytes(core, shards))
    profiles: list[Profile] = []
    for profile in sorted({demand.profile for demand in asked if demand.profile}):
        profiles += core.profiles.of(profile)
    snapshot = Snapshot(
        now_us=core.now_us,
        demands=demands,
        nodes=nodes,
        links=_links(core, asked, shards),
        shards=tuple(shards),
        roles=wants.entitled_roles(core, demands, nodes),
        profiles=tuple(profiles),
        transfers=core.transfers.snapshot(core.tasks.tasks, core.moves),
        bottlenecks=topology.bottlenecks(core.network),
        continuing=continuing,
        services=services,
        measured=core.steps.snapshot(core.tasks),
    )
    return snapshot, aliases


def _asked_bytes(core: Core, shards: list[Shard]) -> dict[str, tuple[int, int]]:
    """By site, the sizes of the least and the largest of these shards that lie there."""
    found: dict[str, tuple[int, int]] = {}
    for shard in shards:
        for agent_id in shard.replicas:
            entry = core.agents.get(agent_id)
            if entry is not None:
                least, most = found.get(entry.site, (shard.size_bytes, shard.size_bytes))
                found[entry.site] = min(least, shard.size_bytes), max(most, shard.size_bytes)
    return found


def _links(core: Core, asked: tuple[Demand, ...], shards: list[Shard]) -> tuple[Link, ...]:
    """Of agents' own ways those from and to the holders of what is read: nothing else comes over them, but for what
    workers say to each other."""
    if any(demand.gang is not None for demand in asked):
        return core.network.links(core.now_us)
    return core.network.links_near({agent_id for shard in shards for agent_id in shard.replicas}, core.now_us)


def _watched(core: Core) -> tuple[str, ...]:
    """The shards that the policy watches, looked up again every so often. Cost then O(watches × shards)."""
    rounds = core.rounds
    if not rounds.watches:
        return ()
    if core.now_us - rounds.watched_us >= core.config.round_watch_us:
        found = {shard_id for glob in rounds.watches for shard_id, _ in core.shards.matching(glob)}
        rounds.watched, rounds.watched_us = tuple(sorted(found))[:WATCHED_MAX], core.now_us
    return rounds.watched


def _demands(
    core: Core, nodes: tuple[Node, ...], extra: dict[str, Demand]
) -> tuple[tuple[Demand, ...], dict[str, tuple[str, ...]]]:
    classes = core.tasks.demands.classes
    aliases: dict[str, tuple[str, ...]] = {}
    found: dict[str, Demand] = {}
    members: dict[str, int] = {}
    for found_class in core.tasks.demands.gangs.values():
        gang = found_class.template.gang
        if gang is not None:
            members[gang.gang_id] = members.get(gang.gang_id, 0) + len(found_class.tasks)
    for demand_id in core.tasks.demands.ids_sorted():
        demand = classes[demand_id].demand()
        if demand.gang is not None and members[demand.gang.gang_id] < demand.gang.size:
            continue  # Its other members are still being stopped: there is nothing to decide yet.
        if demand.where.agents_avoided:
            demand = _if_others_exist(demand, nodes)
        _merge(found, aliases, demand, demand_id)
    for demand in wants.demands(core):
        found[demand.demand_id] = demand
    for demand_id, demand in extra.items():
        _merge(found, aliases, demand, demand_id)
    return tuple(found[demand_id] for demand_id in sorted(found)), {
        demand_id: ids for demand_id, ids in aliases.items() if ids != (demand_id,)
    }


def _merge(found: dict[str, Demand], aliases: dict[str, tuple[str, ...]], demand: Demand, class_id: str) -> None:
    known = found.get(demand.demand_id)
    if known is not None:
        demand = msgspec.structs.replace(
            known, count=known.count + demand.count, oldest_us=min(known.oldest_us, demand.oldest_us)
        )
    found[demand.demand_id] = demand
    aliases[demand.demand_id] = (*aliases.get(demand.demand_id, ()), class_id)


def _if_others_exist(demand: Demand, nodes: tuple[Node, ...]) -> Demand:
    """Where it failed is avoided only while another agent could ever take it."""
    where = demand.where
    for node in nodes:
        if (
            node.agent_id not in where.agents_avoided
            and may_live(demand.where, node.agent_id, node)
            and fits(demand.needs, node.total)
        ):
            return demand
    bare = msgspec.structs.replace(
        demand, demand_id="", count=0, oldest_us=0, where=msgspec.structs.replace(where, agents_avoided=())
    )
    return msgspec.structs.replace(bare, demand_id=demand_id_of(bare), count=demand.count, oldest_us=demand.oldest_us)


# --- answering -------------------------------------------------------------------------------------------------------


def plan_ready(core: Core, event: PlanReady) -> None:
    if event.round_id < 0:
        _answer_dry_run(core, event.round_id, event.plan, event.policy or core.policy_name)
        return
    rounds = core.rounds
    if event.round_id != rounds.in_flight:
        core.count("plans_unasked")
        return
    _round_over(core)
    rounds.failure, rounds.contained = "", event.failure
    rounds.n_solved += 1
    if event.failure:
        core.count("plans_failed")
        core.count("plans_by_fallback")
    core.count("solve_us", event.solve_us)
    if core.recovering or not core.broker_found:
        rounds.changed = True
        return
    Application(core, event.round_id, event.policy or core.policy_name).apply(event.plan)


def plan_failed(core: Core, event: PlanFailed) -> None:
    """The policy failed: its plan is refused whole, everything stays pending, and it is asked again a little later."""
    if event.round_id < 0:
        _fail_dry_run(core, event.round_id, event.detail)
        return
    if event.round_id != core.rounds.in_flight:
        core.count("plans_unasked")
        return
    _round_over(core)
    core.count("plans_failed")
    core.rounds.failure = event.detail
    core.rounds.changed = True
    core.rounds.not_before_us = core.now_us + core.config.round_retry_us


def round_timed_out(core: Core) -> None:
    if core.rounds.in_flight is not None:
        plan_failed(core, PlanFailed(round_id=core.rounds.in_flight, detail="the policy did not answer in time"))


def _round_over(core: Core) -> None:
    core.rounds.in_flight = None
    core.deadlines.cancel("round_timeout")


def _answer_dry_run(core: Core, round_id: int, plan: Plan, policy: str) -> None:
    run = core.rounds.dry_runs.pop(round_id, None)
    if run is None:
        core.count("plans_unasked")
        return
    mine = Plan(
        placements=tuple(p for p in plan.placements if p.demand_id in run.groups),
        refusals=tuple(r for r in plan.refusals if r.demand_id in run.groups),
        objective=plan.objective,
        kernel=plan.kernel,
    )
    answer = PlanView(policy=policy, plan=mine, groups=run.groups)
    core.out.append(Reply(request_id=run.request_id, answer=answer))


def _fail_dry_run(core: Core, round_id: int, detail: str) -> None:
    run = core.rounds.dry_runs.pop(round_id, None)
    if run is None:
        core.count("plans_unasked")
        return
    problem = Problem(status=500, code="policy_failed", title="The policy could not plan this job", detail=detail)
    core.out.append(Reply(request_id=run.request_id, answer=problem))

"""Allocation cycles: what is free on agents that changed goes, by weighted DRF, to the frameworks that want it.

The arithmetic is `policies.kernels.drf`; here books become its arrays and its grants become leases. A cycle looks only
at agents of which more became free, or whose filters ended, since the last. Built-in jobs take part: a role's pending
tasks are one more client of it, and agents whose turn is theirs are left to the placement rounds for a moment.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec.structs import astuple

from federation.agents_book import AgentEntry
from federation.core import Core
from federation.market import wants
from federation.market.book import Filter, FrameworkEntry
from federation.market.constraints import admits
from federation.market.gpu_classes import class_of, gpu_classes_of, gpus_allocated
from federation.market.holdings import OPEN, Pool, Standing
from federation.market.leasing import Grant, constraints_of, emit, gpu_order, lease, links_at, links_of, rescind
from federation.market.protocol import FrameworkOffer, Offers, Portion
from federation.market.running import kill_task
from federation.offers import free_of, is_offered, unused_of
from policies.gpus import WHOLE, milli_of
from policies.kernels import drf
from policies.kernels.jit import Int64s
from policies.model import Amount, Gpu, Resources
from policies.resources import amount_from, amount_of, kinds

allocate_kernel: Callable[[drf.Market], int] = drf.allocate
NO_AMOUNTS = (0, 0, 0, 0)


class Tree(NamedTuple):
    """The roles and their clients in the order of their paths: made anew when a framework or role comes or goes."""

    nodes: Int64s
    children: Int64s
    amounts: Int64s
    roles: dict[str, int]  # path → node
    clients: dict[tuple[str, str], int]  # (framework, role) → node
    who: dict[int, tuple[FrameworkEntry, str]]  # node → client
    built_in: dict[str, int]  # role → the node of its pending tasks
    masks: list[tuple[str, ...]]  # the constraints of each mask
    leasts: list[tuple[int, int, int, int]]  # of clients that say what is worth an offer


class Item(msgspec.Struct, gc=False):
    """What of one agent is free and has one standing. A cycle makes thousands, so they are no tuples."""

    entry: AgentEntry
    standing: Standing
    free: Resources
    gpus: tuple[Gpu, ...]  # in the order in which they are given
    first: int  # the first item of the same agent


def is_due(core: Core) -> bool:
    market = core.market
    return bool(
        (market.dirty or market.all_dirty)
        and core.started
        and not core.recovering
        and core.broker_found
        and any(framework.stream_id for framework in market.frameworks.values())
    )


def awaited(core: Core) -> frozenset[str]:
    """Agents with something free whose turn is to be decided by the next cycle: rounds wait for it, else built-in jobs
    would take everything that ends before any framework is asked."""
    market = core.market
    if not market.dirty or not is_due(core) or (market.tree is not None and not market.tree.clients):
        return frozenset()
    return frozenset(market.dirty.keys() - market.left_since.keys())


def allocate_if_due(core: Core) -> None:
    if not is_due(core):
        return
    due_us = core.market.allocated_us + core.config.allocate_every_us
    if core.now_us < due_us:
        core.deadlines.set_earlier(("market", "cycle"), due_us)
        return
    core.market.allocated_us = core.now_us
    if core.market.dirty.keys() - core.market.left_since.keys():
        core.rounds.changed = True  # What no framework takes is the rounds'.
    allocate(core)


def allocate(core: Core) -> None:
    """One cycle. Cost O(agents that changed + clients + grants · clients of a role)."""
    market = core.market
    agent_ids = market.dirty.keys() | market.idle.keys() if market.all_dirty else market.dirty.keys()
    if len(agent_ids) * 2 > len(core.agents):  # Cheaper than to sort them.
        entries = tuple(entry for entry in core.agents.sorted() if entry.agent_id in agent_ids)
    else:
        found = core.agents.entries
        entries = tuple(found[agent_id] for agent_id in sorted(agent_ids) if agent_id in found)
    market.idle.update(market.dirty)  # Until it is known what is left of them.
    market.dirty, market.all_dirty = {}, False
    core.count("allocation_cycles")
    if market.tree is None:
        market.tree = make_tree(core)
    tree: Tree = market.tree
    if not tree.clients:
        return
    lowered = _lower(core, tree, entries)
    if lowered is None:
        return
    items, arrays = lowered
    offered = arrays.free.copy()
    while (count := allocate_kernel(arrays)) < 0:  # Every item was split among many: there must be more room.
        items, arrays = _lower(core, tree, entries, room=2 * len(arrays.grants)) or (items, arrays)
    _grant(core, tree, items, arrays.grants[:count], offered)
    _note_idle(core, entries, items, arrays)


# --- laying out ------------------------------------------------------------------------------------------------------


def make_tree(core: Core) -> Tree:
    market, shares = core.market, core.shares
    names: list[tuple[str, str, FrameworkEntry | None]] = [("", "", None)]
    names += [(f"/{path}", path, None) for path in shares.roles]
    active: list[tuple[str, str, FrameworkEntry | None]] = []
    for client in market.frameworks.values():
        if client.stream_id:
            roles_on = [
                role for role in client.info.roles if role not in client.suppressed and not client.is_shaped(role)
            ]
            active += [(f"/{role}/~{client.framework_id}", role, client) for role in roles_on]
    built_in_paths = {f"/{path}/~": path for path in shares.roles} if active else {}
    names += active
    names += [(path, role, None) for path, role in built_in_paths.items()]
    names.sort(key=lambda name: name[0])
    index = {path: n for n, (path, _, _) in enumerate(names)}
    nodes = np.zeros((len(names), drf.NODE_ROW), np.int64)
    amounts = np.zeros((4, len(names), drf.KINDS), np.int64)
    amounts[drf.LIMIT] = drf.UNLIMITED
    below: list[list[int]] = [[] for _ in names]
    roles: dict[str, int] = {}
    clients: dict[tuple[str, str], int] = {}
    who: dict[int, tuple[FrameworkEntry, str]] = {}
    built_in: dict[str, int] = {}
    masks: list[tuple[str, ...]] = []
    leasts: list[tuple[int, int, int, int]] = []
    for n, (path, role, framework) in enumerate(names):
        row = nodes[n]
        row[drf.PARENT] = index[path.rpartition("/")[0]] if path else -1
        if path:
            below[row[drf.PARENT]].append(n)
        row[drf.WEIGHT], row[drf.MASK] = 1, -1
        if framework is not None:
            row[drf.LEAF] = 1
            row[drf.GPUS] = framework.has("GPU_RESOURCES")
            row[drf.REVOCABLE] = framework.has("REVOCABLE_RESOURCES")
            row[drf.LEAST_FROM] = len(leasts)
            leasts += [astuple(least) for least in framework.info.least_offers.get(role, ())]
            row[drf.LEAST_TO] = len(leasts)
            constraints = constraints_of(core, framework, role)
            if constraints:
                if constraints not in masks:
                    masks.append(constraints)
                row[drf.MASK] = masks.index(constraints)
            clients[framework.framework_id, role], who[n] = n, (framework, role)
        elif path in built_in_paths:
            row[drf.LEAF] = row[drf.TODO] = row[drf.GPUS] = 1
            built_in[role] = n
        elif path:
            entry = shares.roles[role]
            roles[role] = n
            row[drf.WEIGHT] = entry.weight
            if entry.quota is not None:  # A kind of which the quota names 0 is not limited.
                unlimited = [limit == 0 for limit in kinds(entry.quota)]
                amounts[drf.LIMIT, n] = np.where(unlimited, drf.UNLIMITED, _whole_gpus(entry.quota, is_up=False))
            if entry.guarantee is not None:
                amounts[drf.GUARANTEE, n] = _whole_gpus(entry.guarantee)
    children: list[int] = []
    for n, of_node in enumerate(below):
        nodes[n, drf.FIRST], nodes[n, drf.N_CHILDREN] = len(children), len(of_node)
        children += of_node
    return Tree(nodes, np.array(children, np.int64), amounts, roles, clients, who, built_in, masks, leasts)


def _lower(
    core: Core, tree: Tree, entries: tuple[AgentEntry, ...], room: int = 0
) -> tuple[list[Item], drf.Market] | None:
    market, config = core.market, core.config
    items: list[Item] = []
    agents: list[AgentEntry] = []
    agent_of: list[int] = []  # by item
    odd: list[tuple[int, ...]] = []  # items of which more than the agent is to be said: which, and the rest of its row
    filters: list[tuple[int, int, int, int, int]] = []
    classes, gpu_classes = gpu_classes_of(core), list[int]()
    least = config.offer_cpu_milli_min, config.offer_memory_bytes_min
    takes_less = any(cpu < least[0] and memory < least[1] for cpu, memory, _, _ in tree.leasts)
    floor_cpu, floor_memory = (0, 0) if takes_less else least
    held, of_agents, left_since, now_us = market.held, market.filters, market.left_since, core.now_us
    for entry in entries:
        agent_id = entry.agent_id
        if agent_id in held or not is_offered(entry, now_us):
            continue
        of_agent = of_agents.get(agent_id)
        has_gpus, pools = bool(entry.gpus_by_uuid), entry.holdings.pools
        if of_agent is None and agent_id not in left_since and not has_gpus and not pools:  # as nearly all are
            free = free_of(entry)
            if free is not None and (free.cpu_milli >= floor_cpu or free.memory_bytes >= floor_memory):
                agent_of.append(len(agents))
                items.append(Item(entry, OPEN, free, (), len(items)))
            agents.append(entry)
            continue
        first = len(items)
        left_us = left_since.get(agent_id)
        had_turn = left_us is not None and now_us - left_us >= config.left_to_rounds_us
        for standing, root, free in _parts(core, tree, entry):
            if free.cpu_milli < floor_cpu and free.memory_bytes < floor_memory:
                continue
            gpus = tuple(sorted(free.gpus, key=gpu_order)) if free.gpus else ()
            n_filters = len(filters)
            if of_agent is not None:
                filters += _filter_rows(tree, of_agent, standing, gpus)
            if root or has_gpus or had_turn or standing.revocable or len(filters) > n_filters:
                row = (root, has_gpus, standing.revocable, n_filters, len(filters), had_turn, len(gpu_classes))
                odd.append((len(items), *row))
                gpu_classes += [classes.number[class_of(gpu)] for gpu in gpus]
            items.append(Item(entry, standing, free, gpus, first))
            agent_of.append(len(agents))
        agents.append(entry)
    if not items:
        return None
    rows = np.zeros((len(items), drf.ITEM_ROW), np.int64)
    rows[:, drf.AGENT] = agent_of
    if odd:
        of_odd = np.array(odd, np.int64)
        rows[of_odd[:, 0], drf.ROOT :] = of_odd[:, 1:]
    nodes, amounts = tree.nodes.copy(), tree.amounts.copy()
    _fill_allocated(core, tree, nodes, amounts)
    links = links_at(core) if tree.masks else {}
    masks = [[admits(constraints, entry, links_of(links, entry)) for entry in agents] for constraints in tree.masks]
    return items, drf.Market(
        nodes=nodes,
        children=tree.children,
        amounts=amounts,
        whole=np.array(_whole_gpus(core.agents.total), np.int64),
        items=rows,
        free=_amounts_of(items),
        filters=np.array(filters, np.int64).reshape(-1, drf.FILTER_ROW),
        masks=np.array(masks, np.int64).reshape(-1, len(agents)),
        least=np.array(least, np.int64),
        leasts=np.array(tree.leasts, np.int64).reshape(-1, drf.KINDS),
        floor=np.array((floor_cpu, floor_memory), np.int64),
        grants=np.zeros((room or 4 * len(items) + 64, drf.GRANT_ROW), np.int64),
        gpus=np.array(gpu_classes, np.int64),
        gpus_whole=np.array(classes.whole, np.int64),
        gpus_allocated=gpus_allocated(core, classes, tree.roles, tree.clients, nodes[:, drf.PARENT].tolist()),
    )


def _amounts_of(items: list[Item]) -> Int64s:
    found = np.empty((len(items), drf.KINDS), np.int64)
    found[:, 0] = [item.free.cpu_milli for item in items]
    found[:, 1] = [item.free.memory_bytes for item in items]
    found[:, 2] = [item.free.disk_bytes for item in items]
    found[:, 3] = [len(item.gpus) for item in items]
    return found


def _fill_allocated(core: Core, tree: Tree, nodes: Int64s, amounts: Int64s) -> None:
    allocated = amounts[drf.ALLOCATED]
    for path, n in tree.roles.items():
        allocated[n] = _whole_gpus(core.shares.roles[path].allocated)
    if tree.who:
        at = np.fromiter(tree.who, np.int64, len(tree.who))
        allocated[at] = [framework.role_allocated.get(role, NO_AMOUNTS) for framework, role in tree.who.values()]
        allocated[at, 3] = -(-allocated[at, 3] // WHOLE)
        nodes[at, drf.N_GRANTS] = [framework.n_allocated.get(role, 0) for framework, role in tree.who.values()]
        np.add.at(nodes[:, drf.N_GRANTS], nodes[at, drf.PARENT], nodes[at, drf.N_GRANTS])
        for n in reversed(tree.roles.values()):  # A role comes after those above it.
            nodes[nodes[n, drf.PARENT], drf.N_GRANTS] += nodes[n, drf.N_GRANTS]
    for found in core.tasks.demands.classes.values():
        role = found.template.role
        if role in tree.built_in:
            amounts[drf.LEFT, tree.built_in[role]] += _whole_gpus(amount_of(found.template.needs, len(found.tasks)))
    for want in core.market.wants.values():
        if want.left and want.wanted.role in tree.built_in:
            left = amount_of(wants.needs_of(want), want.left)
            amounts[drf.LEFT, tree.built_in[want.wanted.role]] += _whole_gpus(left)


def _whole_gpus(amount: Amount, *, is_up: bool = True) -> tuple[int, int, int, int]:
    """In the kernel's kinds: a cycle gives out GPUs, or what is left of one, in one piece each."""
    cpu_milli, memory_bytes, disk_bytes, gpu_milli = kinds(amount)
    return cpu_milli, memory_bytes, disk_bytes, -(-gpu_milli // WHOLE) if is_up else gpu_milli // WHOLE


def _parts(core: Core, tree: Tree, entry: AgentEntry) -> Sequence[tuple[Standing, int, Resources]]:
    """What the agent has to offer, by standing, and the node below which each may go."""
    free = free_of(entry)
    assert free is not None, "checked by is_offered"
    if not entry.holdings.pools:
        return ((OPEN, 0, free),)
    parts = [(OPEN, 0, free)]
    unused = unused_of(entry)
    assert unused is not None
    for reservation, pool in entry.holdings.pools.items():
        root = tree.roles.get(reservation.role)
        wanted = _owner_wants(tree, entry, pool)
        if wanted and (pool.lent.gpus or pool.lent.cpu_milli or pool.lent.memory_bytes or pool.lent_leased):
            revoke(core, entry, pool)
        part = entry.holdings.pool_part(pool, unused)
        if wanted and root is not None:
            parts.append((Standing(reservation, False), root, part))
        else:
            parts.append((Standing(reservation, True), 0, part))
    return parts


def _owner_wants(tree: Tree, entry: AgentEntry, pool: Pool) -> bool:
    """Whether a framework of the pool's role (or below) takes offers and has not just refused this agent."""
    role = pool.reservation.role
    for framework, of_role in tree.who.values():
        if of_role == role or of_role.startswith(f"{role}/"):
            refused = framework.filters.get((of_role, entry.agent_id))
            if refused is None or Standing(pool.reservation, False) not in refused.refused:
                return True
    return False


def revoke(core: Core, entry: AgentEntry, pool: Pool) -> None:
    """The owner needs what was lent: leases of it end, tasks on it are killed."""
    standing = Standing(pool.reservation, True)
    for made in list(entry.holdings.leases.values()):
        if any(Standing(portion.reservation, portion.revocable) == standing for portion in made.offer.portions):
            rescind(core, made, "revoked")
    for task in list(entry.holdings.tasks.values()):
        if any(claim.revocable and claim.reservation == pool.reservation for claim in task.spec.claims):
            kill_task(core, task, "REASON_CONTAINER_PREEMPTED", "its owner needs the resources")


def _filter_rows(
    tree: Tree, of_agent: dict[tuple[str, str], Filter], standing: Standing, gpus: tuple[Gpu, ...]
) -> list[tuple[int, int, int, int, int]]:
    found: list[tuple[int, int, int, int, int]] = []
    for client, refusal in of_agent.items():
        node, refused = tree.clients.get(client), refusal.refused.get(standing)
        if node is None or refused is None:
            continue
        # GPUs are offered in their order, so a number is enough: how many of the first were refused.
        uuids = {gpu.uuid for gpu in refused.gpus}
        n_first = next((n for n, gpu in enumerate(gpus) if gpu.uuid not in uuids), len(gpus))
        found.append((node, refused.cpu_milli, refused.memory_bytes, refused.disk_bytes, n_first))
    return found


# --- granting --------------------------------------------------------------------------------------------------------


def _grant(core: Core, tree: Tree, items: list[Item], grants: Int64s, offered: Int64s) -> None:
    """`offered`: what each item had before the kernel gave it away."""
    market = core.market
    at = links_at(core)
    who = tree.who
    leases: list[Grant] = []
    together: dict[int, Grant] = {}  # by client and first item, of agents that have several parts
    given: dict[int, int] = {}  # item → GPUs given so far
    gpu_milli: dict[int, int] = {}  # client → of what it was given
    n_items = len(items)
    whole = (grants[:, 2:] == offered[grants[:, 0]]).all(axis=1).tolist()
    rows = zip(grants[:, 0].tolist(), grants[:, 1].tolist(), whole, strict=True)
    for row, (n, node, is_whole) in enumerate(rows):
        item = items[n]
        client = who.get(node)
        if client is None:
            _leave_to_rounds(core, item.entry)
            continue
        entry, (reservation, revocable) = item.entry, item.standing
        resources = item.free if is_whole else _part_of(item, grants[row, 2:].tolist(), given, n)
        if resources.gpus:
            gpu_milli[node] = gpu_milli.get(node, 0) + milli_of(resources.gpus)
        part = Portion(resources=resources, reservation=reservation, revocable=revocable)
        grant = Grant(client[0], client[1], entry, (part,), links_of(at, entry) if at else ())
        if entry.holdings.pools or not is_whole:
            first = together.setdefault(node * n_items + item.first, grant)
            if first is not grant:
                first.portions = (*first.portions, part)
                continue
        leases.append(grant)
    offers: dict[str, list[FrameworkOffer]] = {}
    for offer in lease(core, leases):
        of_framework = offers.get(offer.framework_id)
        if of_framework is None:
            offers[offer.framework_id] = [offer]
        else:
            of_framework.append(offer)
        if market.left_since:
            market.left_since.pop(offer.agent_id, None)
    for node, (cpu, memory, disk) in _by_client(grants).items():
        if node in tree.who:
            market.charge(*tree.who[node], amount_from(cpu, memory, disk, gpu_milli.get(node, 0)), 1)
    for framework_id, made in offers.items():
        core.count("framework_offers", len(made))
        emit(core, market.frameworks[framework_id], Offers(offers=tuple(made)))


def _part_of(item: Item, amounts: list[int], given: dict[int, int], n: int) -> Resources:
    """`amounts` of item `n`, by kind, with the next of its GPUs."""
    cpu, memory, disk, n_gpus = amounts
    gpus: tuple[Gpu, ...] = ()
    if n_gpus:
        first = given.get(n, 0)
        gpus = item.gpus[first : first + n_gpus]
        given[n] = first + n_gpus
    return Resources(cpu_milli=cpu, memory_bytes=memory, disk_bytes=disk, gpus=gpus)


def _by_client(grants: Int64s) -> dict[int, tuple[int, int, int]]:
    nodes, which = np.unique(grants[:, 1], return_inverse=True)
    sums = np.zeros((len(nodes), 3), np.int64)
    np.add.at(sums, which, grants[:, 2:5])
    return {node: (cpu, memory, disk) for node, (cpu, memory, disk) in zip(nodes.tolist(), sums.tolist(), strict=True)}


def _note_idle(core: Core, entries: tuple[AgentEntry, ...], items: list[Item], arrays: drf.Market) -> None:
    """Of what was looked at, only what is left over, reserved or kept needs another look when someone new comes."""
    idle, held = core.market.idle, core.market.held
    for entry in entries:
        if not entry.holdings.pools and entry.agent_id not in held:
            idle.pop(entry.agent_id, None)
    left = ((arrays.free[:, 0] >= arrays.floor[0]) | (arrays.free[:, 1] >= arrays.floor[1])).nonzero()[0]
    for n in left.tolist():
        idle[items[n].entry.agent_id] = None


def _leave_to_rounds(core: Core, entry: AgentEntry) -> None:
    """It is the built-in jobs' turn: looked at again after the rounds had their time."""
    since_us = core.market.left_since.setdefault(entry.agent_id, core.now_us)
    core.market.mark(entry.agent_id)
    core.deadlines.set_earlier(("market", "cycle"), since_us + core.config.left_to_rounds_us)

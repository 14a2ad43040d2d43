"""The books as the columns of an allocation cycle: roles and their clients as a tree, and what is free by item."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import astuple

from federation.agents_book import AgentEntry
from federation.core import Core
from federation.market import wants
from federation.market.book import Filter, FrameworkEntry
from federation.market.constraints import admits
from federation.market.gpu_classes import class_of, gpu_classes_of, gpus_allocated
from federation.market.holdings import OPEN, Face, Item, Pool, Standing
from federation.market.leasing import constraints_of, face_of, in_order, links_at, links_of, rescind
from federation.market.protocol import Portion
from federation.market.running import kill_task
from federation.offers import free_of, is_offered
from policies.gpus import WHOLE
from policies.kernels import drf
from policies.kernels.jit import Int64s
from policies.model import Amount, Resources
from policies.resources import amount_of, kinds

NO_AMOUNTS = (0, 0, 0, 0)


class Tree(NamedTuple):
    """The roles and their clients in the order of their paths: made anew when a framework or role comes or goes."""

    nodes: Int64s
    children: Int64s
    amounts: Int64s
    roles: dict[str, int]  # path → node
    clients: dict[tuple[str, str], int]  # (framework, role) → node
    who: dict[int, tuple[FrameworkEntry, str]]  # node → client
    frameworks: list[FrameworkEntry]
    framework_of: Int64s  # node → which of them, −1 for none
    built_in: dict[str, int]  # role → the node of its pending tasks
    masks: list[tuple[str, ...]]  # the constraints of each mask
    leasts: list[tuple[int, int, int, int]]  # of clients that say what is worth an offer


class Lowered(NamedTuple):
    """What is free, by item: whose it is, what it is, and the kernel's columns of it."""

    owners: list[AgentEntry]
    items: list[Item]
    odd: Int64s  # the items of agents that have GPUs or pools, were refused, or had been left to the rounds
    crumbs: Int64s  # the items that nobody would be offered now: the columns have nothing of them
    columns: drf.Market


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
    number = {framework.framework_id: n for n, framework in enumerate(market.frameworks.values())}
    framework_of = np.full(len(names), -1, np.int64)
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
            framework_of[n] = number[framework.framework_id]
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
    return Tree(
        nodes,
        np.array(children, np.int64),
        amounts,
        roles,
        clients,
        who,
        list(market.frameworks.values()),
        framework_of,
        built_in,
        masks,
        leasts,
    )


def lower(core: Core, tree: Tree, entries: tuple[AgentEntry, ...], room: int) -> Lowered:
    market, config = core.market, core.config
    owners: list[AgentEntry] = []
    items: list[Item] = []
    free: list[bytes] = []
    odd: list[tuple[int, ...]] = []  # items of which more than the agent is to be said: which, and the rest of its row
    filters: list[tuple[int, int, int, int, int]] = []
    classes, gpu_classes = gpu_classes_of(core), list[int]()
    least = config.offer_cpu_milli_min, config.offer_memory_bytes_min
    takes_less = any(cpu < least[0] and memory < least[1] for cpu, memory, _, _ in tree.leasts)
    floor_cpu, floor_memory = (0, 0) if takes_less else least
    held, of_agents, left_since, now_us = market.held, market.filters, market.left_since, core.now_us
    for entry in entries:
        face = entry.face
        if face is None:
            if not is_offered(entry, now_us):
                continue
            face = face_of(entry)
        elif face.expires_us <= now_us:
            continue
        if held and entry.agent_id in held:
            continue
        of_agent = of_agents.get(entry.agent_id) if of_agents else None
        left_us = left_since.get(entry.agent_id) if left_since else None
        if of_agent is None and left_us is None and face.is_plain and not entry.holdings.leases:  # as nearly all are
            owners.append(entry)
            items.append(face.item)
            free.append(face.row)
            continue
        had_turn = left_us is not None and now_us - left_us >= config.left_to_rounds_us
        for root, item in _parts(core, tree, entry, face):
            n_filters = len(filters)
            if of_agent is not None:
                filters += _filter_rows(tree, of_agent, item)
            if root or not face.is_plain or had_turn or len(filters) > n_filters:
                row = (root, bool(entry.gpus_by_uuid), item.standing.revocable)
                odd.append((len(items), *row, n_filters, len(filters), had_turn, len(gpu_classes)))
                gpu_classes += [classes.number[class_of(gpu)] for gpu in item.gpus]
            owners.append(entry)
            items.append(item)
            free.append(item.row)
    of_odd = np.array(odd, np.int64).reshape(-1, 1 + drf.ITEM_ROW)
    rows = np.zeros((len(items), drf.ITEM_ROW), np.int64)
    rows[of_odd[:, 0]] = of_odd[:, 1:]
    amounts_free = np.frombuffer(b"".join(free), np.int64).reshape(-1, drf.KINDS).copy()
    crumbs = ((amounts_free[:, 0] < floor_cpu) & (amounts_free[:, 1] < floor_memory)).nonzero()[0]
    amounts_free[crumbs] = 0
    nodes, amounts = tree.nodes.copy(), tree.amounts.copy()
    _fill_allocated(core, tree, nodes, amounts)
    links = links_at(core) if tree.masks else {}
    masks = [[admits(constraints, entry, links_of(links, entry)) for entry in owners] for constraints in tree.masks]
    columns = drf.Market(
        nodes=nodes,
        children=tree.children,
        amounts=amounts,
        whole=np.array(_whole_gpus(core.agents.total), np.int64),
        items=rows,
        free=amounts_free,
        filters=np.array(filters, np.int64).reshape(-1, drf.FILTER_ROW),
        masks=np.array(masks, np.int64).reshape(len(masks), len(items)),
        least=np.array(least, np.int64),
        leasts=np.array(tree.leasts, np.int64).reshape(-1, drf.KINDS),
        floor=np.array((floor_cpu, floor_memory), np.int64),
        grants=np.zeros((room or 4 * len(items) + 64, drf.GRANT_ROW), np.int64),
        gpus=np.array(gpu_classes, np.int64),
        gpus_whole=np.array(classes.whole, np.int64),
        gpus_allocated=gpus_allocated(core, classes, tree.roles, tree.clients, nodes[:, drf.PARENT].tolist()),
    )
    return Lowered(owners, items, of_odd[:, 0], crumbs, columns)


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


def _parts(core: Core, tree: Tree, entry: AgentEntry, face: Face) -> Sequence[tuple[int, Item]]:
    """What the agent has to offer, by standing, and the node below which each may go."""
    held = entry.holdings
    if not held.leases and not held.pools:
        return ((0, face.item),)
    free = free_of(entry)
    assert free is not None, "checked by is_offered"
    parts = [(0, _item(OPEN, free))]
    for reservation, pool in held.pools.items():
        root = tree.roles.get(reservation.role)
        wanted = _owner_wants(tree, entry, pool)
        if wanted and (pool.lent.gpus or pool.lent.cpu_milli or pool.lent.memory_bytes or pool.lent_leased):
            revoke(core, entry, pool)
        part = held.pool_part(pool, face.item.free)
        if wanted and root is not None:
            parts.append((root, _item(Standing(reservation, False), part)))
        else:
            parts.append((0, _item(Standing(reservation, True), part)))
    return parts


def _item(standing: Standing, free: Resources) -> Item:
    portion = Portion(resources=free, reservation=standing.reservation, revocable=standing.revocable)
    return Item(standing, free, in_order(free.gpus), (portion,))


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
    for made in entry.holdings.leases:
        if any(Standing(portion.reservation, portion.revocable) == standing for portion in made.offer.portions):
            rescind(core, made, "revoked")
    for task in list(entry.holdings.tasks.values()):
        if any(claim.revocable and claim.reservation == pool.reservation for claim in task.spec.claims):
            kill_task(core, task, "REASON_CONTAINER_PREEMPTED", "its owner needs the resources")


def _filter_rows(
    tree: Tree, of_agent: dict[tuple[str, str], Filter], item: Item
) -> list[tuple[int, int, int, int, int]]:
    found: list[tuple[int, int, int, int, int]] = []
    for client, refusal in of_agent.items():
        node, refused = tree.clients.get(client), refusal.refused.get(item.standing)
        if node is None or refused is None:
            continue
        # GPUs are offered in their order, so a number is enough: how many of the first were refused.
        uuids = {gpu.uuid for gpu in refused.gpus}
        n_first = next((n for n, gpu in enumerate(item.gpus) if gpu.uuid not in uuids), len(item.gpus))
        found.append((node, refused.cpu_milli, refused.memory_bytes, refused.disk_bytes, n_first))
    return found

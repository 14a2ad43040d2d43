"""Allocation cycles: what is free on agents that changed goes, by weighted DRF, to the frameworks that want it.

The arithmetic is `policies.kernels.drf`; `layout` makes the books its arrays, here its grants become leases. A cycle
looks only at agents of which more became free, or whose filters ended, since the last. Built-in jobs take part: a
role's pending tasks are one more client of it, and agents whose turn is theirs are left to the placement rounds for a
moment.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from federation.agents_book import AgentEntry
from federation.core import Core
from federation.market.book import FrameworkEntry, MarketBook
from federation.market.holdings import Item
from federation.market.layout import Lowered, Tree, lower, make_tree
from federation.market.leasing import Grant, emit, lease, links_at, links_of
from federation.market.protocol import FrameworkOffer, Offers, Portion
from policies.gpus import milli_of
from policies.kernels import drf
from policies.kernels.jit import Int64s
from policies.model import Gpu, Resources
from policies.resources import amount_from

allocate_kernel: Callable[[drf.Market], int] = drf.allocate


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
    if not core.market.dirty.keys() <= core.market.left_since.keys():
        core.rounds.changed = True  # What no framework takes is the rounds'.
    allocate(core)


def allocate(core: Core) -> None:
    """One cycle. Cost O(agents that changed + clients + grants · clients of a role)."""
    market = core.market
    agent_ids = market.dirty.keys() | market.idle.keys() if market.all_dirty else market.dirty.keys()
    found = core.agents.entries
    if found.keys() <= agent_ids:
        entries = core.agents.sorted()
    elif len(agent_ids) * 2 > len(found):  # Cheaper than to sort them.
        entries = tuple(entry for entry in core.agents.sorted() if entry.agent_id in agent_ids)
    else:
        entries = tuple(found[agent_id] for agent_id in sorted(agent_ids) if agent_id in found)
    dirty, market.dirty, market.all_dirty = market.dirty, {}, False
    core.count("allocation_cycles")
    if market.tree is None:
        market.tree = make_tree(core)
    tree: Tree = market.tree
    if not tree.clients:
        market.idle.update(dirty)
        return
    room = 0
    while True:
        lowered = lower(core, tree, entries, room)
        if len(lowered.crumbs) == len(lowered.items):
            break
        offered, grants = lowered.columns.free.copy(), lowered.columns.grants
        count = allocate_kernel(lowered.columns)
        if count >= 0:
            _grant(core, tree, lowered, grants[:count], offered)
            break
        room = 2 * len(grants)  # Every item was split among many: there must be more.
    _note_idle(market, agent_ids, lowered)


# --- granting --------------------------------------------------------------------------------------------------------


def _grant(core: Core, tree: Tree, lowered: Lowered, grants: Int64s, offered: Int64s) -> None:
    """`offered`: what each item had before the kernel gave it away."""
    market = core.market
    is_odd = (grants[:, 2:] != offered[grants[:, 0]]).any(axis=1)
    if len(lowered.odd):
        is_odd |= np.isin(grants[:, 0], lowered.odd)
    portions, gpu_milli = _portions(tree, lowered, grants, is_odd, offered)
    is_client = tree.framework_of[grants[:, 1]] >= 0
    for n in grants[~is_client, 0].tolist():
        _leave_to_rounds(core, lowered.owners[n])
    rows = is_client.nonzero()[0]
    if portions:  # Those that an earlier row has are none of their own.
        rows = np.array([row for row in rows.tolist() if portions.get(row) != ()], np.int64)
    nodes = grants[rows, 1]
    offers = lease(core, _grants_of(core, tree, lowered, grants, rows, portions))
    if market.left_since:
        for offer in offers:
            market.left_since.pop(offer.agent_id, None)
    counts = np.bincount(nodes, minlength=len(tree.nodes))
    for node, (cpu, memory, disk) in _by_client(grants[is_client]).items():
        amount = amount_from(cpu, memory, disk, gpu_milli.get(node, 0))
        market.charge_leases(*tree.who[node], amount, int(counts[node]))
    core.count("framework_offers", len(offers))
    for framework, of_framework in _by_framework(tree, nodes, offers):
        emit(core, framework, Offers(offers=of_framework))


def _grants_of(
    core: Core, tree: Tree, lowered: Lowered, grants: Int64s, rows: Int64s, portions: dict[int, tuple[Portion, ...]]
) -> list[Grant]:
    at, who, owners, items = links_at(core), tree.who, lowered.owners, lowered.items
    columns = grants[rows].T
    return [
        (
            *who[node],
            owners[n],
            (portions.get(row) if portions else None) or items[n].portions,
            links_of(at, owners[n]) if at else (),
            "",
            0,
        )
        for row, n, node in zip(rows.tolist(), columns[0].tolist(), columns[1].tolist(), strict=True)
    ]


def _by_framework(
    tree: Tree, nodes: Int64s, offers: list[FrameworkOffer]
) -> Iterator[tuple[FrameworkEntry, tuple[FrameworkOffer, ...]]]:
    """The offers of each framework, in the order of the first of each; `nodes` are their clients."""
    of_offer = tree.framework_of[nodes]
    grouped = [offers[n] for n in np.argsort(of_offer, kind="stable").tolist()]
    numbers, firsts, counts = np.unique(of_offer, return_index=True, return_counts=True)
    ends = counts.cumsum()
    by_first = np.argsort(firsts)
    columns = (numbers[by_first], (ends - counts)[by_first], ends[by_first])
    for number, start, end in zip(*(column.tolist() for column in columns), strict=True):
        yield tree.frameworks[number], tuple(grouped[start:end])


def _portions(
    tree: Tree, lowered: Lowered, grants: Int64s, is_odd: npt.NDArray[np.bool_], offered: Int64s
) -> tuple[dict[int, tuple[Portion, ...]], dict[int, int]]:
    """Of grants that are not all of a plain agent: the portions by row, none where an earlier row has them (parts of
    one agent go to one client in one offer); and the GPUs by client, in thousandths."""
    found: dict[int, tuple[Portion, ...]] = {}
    gpu_milli: dict[int, int] = {}
    together: dict[tuple[int, str], int] = {}  # client and agent → the row that has the portions
    given: dict[int, int] = {}  # item → GPUs given so far
    for row in is_odd.nonzero()[0].tolist():
        n, node, *amounts = grants[row].tolist()
        if node not in tree.who:
            continue
        item = lowered.items[n]
        portion = item.portions[0]
        if amounts != offered[n].tolist():
            portion = replace(portion, resources=_part_of(item, amounts, given, n))
        if portion.resources.gpus:
            gpu_milli[node] = gpu_milli.get(node, 0) + milli_of(portion.resources.gpus)
        first = together.setdefault((node, lowered.owners[n].agent_id), row)
        found[row] = ()
        found[first] = (*found[first], portion)
    return found, gpu_milli


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


def _note_idle(market: MarketBook, looked_at: Iterable[str], lowered: Lowered) -> None:
    """Of what was looked at, only what is left over or reserved needs another look when someone new comes."""
    idle, owners, free = market.idle, lowered.owners, lowered.columns.free
    if idle:
        for agent_id in looked_at:
            idle.pop(agent_id, None)
    left = (free[:, 0] | free[:, 1]).nonzero()[0]
    for n in (*left.tolist(), *lowered.crumbs.tolist()):  # Someone may come who can use crumbs.
        idle[owners[n].agent_id] = None
    for n in lowered.odd.tolist():
        if owners[n].holdings.pools:
            idle[owners[n].agent_id] = None


def _leave_to_rounds(core: Core, entry: AgentEntry) -> None:
    """It is the built-in jobs' turn: looked at again after the rounds had their time."""
    since_us = core.market.left_since.setdefault(entry.agent_id, core.now_us)
    core.market.mark(entry.agent_id)
    core.deadlines.set_earlier(("market", "cycle"), since_us + core.config.left_to_rounds_us)

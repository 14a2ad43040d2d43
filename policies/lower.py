"""From objects to int64 columns: the one place where a snapshot becomes arrays, once a round.

Agents that no demand of this snapshot can tell apart are lumped to a group: same speed and price, and as far as some
demand asks for them the same tier, hardware, labels, links from where data and clients are, shards held, links of
their own. That is exact, but for speeds less than 2 % apart, which measurements do not tell apart either. Past
`GROUPS_MAX` groups speeds and links are rounded until there are no more: to four significant bits, three, two, one.
Axes: N nodes, G groups, C demand classes, K distinct needs, T GPU types, E ends from which data or clients are reached.

Cost: O(N) for what changed since the last snapshot (unchanged `Node` objects are recognised by identity), plus
O(C·reads + E·G). Magnitudes are cut off at the bounds below, so that no later product wraps.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from policies.constraints import shards_by_id, unreachable
from policies.gpus import WHOLE, best_first, memory_of
from policies.model import Demand, Gpu, GpuNeed, Link, Needs, Node, Shard, Snapshot, Transfer

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

GROUPS_MAX = 512
_SPEED_BITS = 6
AMOUNT_MAX = 1 << 52  # bytes or milli-CPU of one agent: 4 PiB
SIZE_BYTES_MAX = 1 << 46  # of one shard: 64 TiB, so that bits × 1000 stays below 2^60
TIME_US_MAX = 1 << 40  # 12 days: longer run times and transfers are all alike
BANDWIDTH_BPS_MAX = 1 << 44
COUNT_MAX = 1 << 24
UNKNOWN = -1  # a reading nobody has taken

KINDS = 3  # cpu_milli, memory_bytes, disk_bytes; GPUs are counted by type beside them


class GpuType(NamedTuple):
    """GPUs that no demand can tell apart; `memory_bytes` is 0 where unknown."""

    model: str | None
    memory_bytes: int
    is_shared: bool


@dataclass(frozen=True, slots=True)
class Devices:
    """Free GPUs one by one, begun ones included, in the order in which they are given out at first; made only where
    some agent shares its GPUs, else D is 0. Slots beyond an agent's own are of type UNKNOWN."""

    milli: Int64s  # [N, D]
    memory_bytes: Int64s  # [N, D] what is left of it
    kind: Int64s  # [N, D] → T
    uuids: tuple[tuple[str, ...], ...]  # [N] of its slots; () where all of its slots are empty


_Key = tuple[str, str, tuple[tuple[str, str], ...], str, int, int]  # site, tier, labels, hardware, speed, price


@dataclass(frozen=True, slots=True)
class Columns:
    """A snapshot in columns. `objects` beside them are in the same order, for the way back."""

    snapshot: Snapshot
    # nodes
    free: Int64s  # [N, KINDS]
    gpus: Int64s  # [N, T] free whole GPUs by type
    gpu_types: tuple[GpuType, ...]
    devices: Devices
    group: Int64s  # [N]
    # groups
    n_groups: int
    members: tuple[Int64s, ...]  # node indices, ascending
    kind: Int64s  # [G] → H: groups of one kind differ only in data held, links of their own and demands that name them
    first: Int64s  # [G] the first member stands for the group where objects are asked
    speed_milli: Int64s  # [G]
    price: Int64s  # [G] micro-dollars a CPU-hour
    # demand classes, in the snapshot's order
    needs: tuple[Needs, ...]  # [K]
    needs_of: Int64s  # [C] → K
    amounts: Int64s  # [K, KINDS]
    gpu_count: Int64s  # [K]
    gpu_milli: Int64s  # [K] of each; less than 1000 where a share of one will do
    gpu_bytes: Int64s  # [K, T] memory that such a share takes of a GPU
    gpu_mask: Bools  # [K, T] types that will do
    count: Int64s  # [C]
    unreachable: tuple[tuple[str, ...], ...]  # [C] shards read of which no replica is known
    # data
    shards: tuple[Shard, ...]  # read by some demand, or wanting replicas
    shard_index: dict[str, int]
    reads: tuple[tuple[int, ...], ...]  # [C] → shards
    holders: tuple[tuple[int, ...], ...]  # [shard] → nodes that hold it
    sources: tuple[tuple[int, ...], ...]  # [shard] → ends it can be fetched from
    # links from ends to groups
    ends: tuple[tuple[str, str], ...]  # [E] (agent id or "", site); ("", "") is the master's store
    end_index: dict[tuple[str, str], int]
    rtt_us: Int64s  # [E, G], UNKNOWN where not measured
    bandwidth_bps: Int64s  # [E, G]
    link_age_us: Int64s  # [E, G]
    same_site: Bools  # [E, G]
    out_bps: Int64s  # [E] the most measured out of the end's site to any other, UNKNOWN where nothing was
    in_bps: Int64s  # [G] the most measured into the group's site
    queued_bytes: Int64s  # [E, G] still to cross from the end's site to the group's, of work placed before


def clip(value: int, most: int) -> int:
    return 0 if value < 0 else min(value, most)


class Lowerer:
    """Lowers one snapshot after the other; what it remembers changes the time it takes and nothing else."""

    def __init__(self, exact: bool = False) -> None:
        """`exact`: agents of different site, tier, labels or hardware are never lumped, whoever asks for them."""
        self._exact = exact
        self._nodes: tuple[Node, ...] = ()
        self._free: Int64s = np.zeros((0, KINDS), np.int64)
        self._keys: list[int] = []  # [N] → static key
        self._key_ids: dict[_Key, int] = {}

    def lower(self, snapshot: Snapshot) -> Columns:
        """Columns of a snapshot whose tuples are sorted by id, as `Snapshot` says."""
        self._update_nodes(snapshot.nodes)
        by_id = shards_by_id(snapshot)
        shards = tuple(by_id[key] for key in sorted(by_id))
        shard_index = {shard.shard_id: n for n, shard in enumerate(shards)}
        position = {node.agent_id: n for n, node in enumerate(snapshot.nodes)}
        links = _index_links(snapshot.links)
        ends, end_index, sources = _ends(snapshot, shards, position, links)
        keys, group, n_groups = self._group(snapshot, _marks(snapshot, shards, position, links), links, ends)
        order = np.argsort(group, kind="stable")
        starts = np.searchsorted(group[order], np.arange(n_groups + 1))
        members = tuple(order[starts[g] : starts[g + 1]] for g in range(n_groups))
        first = np.array([nodes[0] for nodes in members], np.int64)
        heads = [snapshot.nodes[n] for n in first.tolist()]
        rtt_us, bandwidth_bps, age_us, same_site = _link_matrices(ends, heads, links)
        gpu_types, gpus, devices = _gpu_columns(snapshot.nodes)
        needs, needs_of, amounts, gpu_count, gpu_mask = _needs_columns(snapshot.demands, gpu_types)
        return Columns(
            snapshot=snapshot,
            free=self._free,
            gpus=gpus,
            gpu_types=gpu_types,
            devices=devices,
            group=group,
            n_groups=n_groups,
            members=members,
            kind=_ranks(keys[first].tolist()),
            first=first,
            speed_milli=np.array([max(1, clip(node.speed_milli, 10**6)) for node in heads], np.int64),
            price=np.array([clip(node.price_microusd_per_cpu_hour, 1 << 40) for node in heads], np.int64),
            needs=needs,
            needs_of=needs_of,
            amounts=amounts,
            gpu_count=gpu_count,
            gpu_milli=np.array([need.gpu.milli if need.gpu else WHOLE for need in needs], np.int64),
            gpu_bytes=_share_bytes(needs, gpu_types),
            gpu_mask=gpu_mask,
            count=np.array([clip(demand.count, COUNT_MAX) for demand in snapshot.demands], np.int64),
            unreachable=tuple(unreachable(demand, by_id) if demand.reads else () for demand in snapshot.demands),
            shards=shards,
            shard_index=shard_index,
            reads=tuple(
                tuple(shard_index[key] for key in demand.reads if key in shard_index) for demand in snapshot.demands
            ),
            holders=tuple(tuple(position[a] for a in shard.replicas if a in position) for shard in shards),
            sources=sources,
            ends=ends,
            end_index=end_index,
            rtt_us=rtt_us,
            bandwidth_bps=bandwidth_bps,
            link_age_us=age_us,
            same_site=same_site,
            out_bps=np.array([links.out_bps.get(site, UNKNOWN) for _, site in ends], np.int64),
            in_bps=np.array([links.in_bps.get(node.site, UNKNOWN) for node in heads], np.int64),
            queued_bytes=_queued(snapshot, ends, heads),
        )

    def _update_nodes(self, nodes: tuple[Node, ...]) -> None:
        """Bring the columns kept for nodes up to date."""
        old = self._nodes
        if len(old) == len(nodes) and len(self._key_ids) <= 2 * len(nodes):
            changed = [n for n, (a, b) in enumerate(zip(old, nodes, strict=True)) if a is not b]
        else:
            changed = list(range(len(nodes)))
            self._keys = [0] * len(nodes)
            self._key_ids = {}
        free = self._free.copy() if len(old) == len(nodes) else np.zeros((len(nodes), KINDS), np.int64)
        if changed:
            rows = [nodes[n].free for n in changed]
            free[changed] = np.array(
                [
                    (
                        clip(row.cpu_milli, AMOUNT_MAX),
                        clip(row.memory_bytes, AMOUNT_MAX),
                        clip(row.disk_bytes, AMOUNT_MAX),
                    )
                    for row in rows
                ],
                np.int64,
            )
            ids, keys = self._key_ids, self._keys
            for n in changed:
                node = nodes[n]
                key = (
                    node.site,
                    node.tier,
                    node.labels,
                    node.hardware,
                    round_to_bits(node.speed_milli, _SPEED_BITS),
                    node.price_microusd_per_cpu_hour,
                )
                keys[n] = ids.setdefault(key, len(ids))
        self._nodes, self._free = nodes, free

    def _group(
        self,
        snapshot: Snapshot,
        marks: dict[int, tuple[object, ...]],
        links: "_Links",
        ends: tuple[tuple[str, str], ...],
    ) -> tuple[Int64s, Int64s, int]:
        """The static key and the group of each node, numbered in the order in which groups first appear."""
        for bits in (64, 4, 3, 2, 1):
            keys = self._coarse(snapshot, bits, _site_keys(snapshot, links, ends, bits))
            group, n_groups = _number(keys, marks)
            if n_groups <= GROUPS_MAX:
                break
        return np.array(keys, np.int64), group, n_groups

    def _coarse(self, snapshot: Snapshot, bits: int, site_keys: dict[str, object]) -> list[int]:
        """Static keys with what no demand asks for left out, and numbers rounded to so many bits."""
        demands = snapshot.demands
        labels_asked = {label for demand in demands for label in demand.where.labels}
        tier_asked = any(demand.where.tiers for demand in demands)
        profiles = {demand.profile for demand in demands}
        learned = {profile.hardware for profile in snapshot.profiles if profile.profile in profiles}
        ids: dict[tuple[object, ...], int] = {}
        renamed: list[int] = []
        for site, tier, labels, hardware, speed, price in self._key_ids:
            coarse = (
                site if self._exact else site_keys.get(site),
                tier if tier_asked or self._exact else None,
                labels if self._exact else tuple(label for label in labels if label in labels_asked),
                hardware if hardware in learned or self._exact else None,
                round_to_bits(speed, bits),
                price,
            )
            renamed.append(ids.setdefault(coarse, len(ids)))
        return [renamed[n] for n in self._keys]


def _site_keys(snapshot: Snapshot, links: "_Links", ends: tuple[tuple[str, str], ...], bits: int) -> dict[str, object]:
    """What tells sites apart: their name where a demand or shard names them or data comes from there, else the links
    from where data and clients are. A site without a key is like any other without."""
    named = {site for demand in snapshot.demands for site in demand.where.sites}
    named |= {site for shard in snapshot.shards for site in shard.sites}
    named |= {transfer.to_site for transfer in snapshot.transfers} if ends else set()
    if snapshot.transfers and ends:
        named |= {site for each in snapshot.bottlenecks for site in each.to_sites}
    from_sites = {site for _, site in ends}
    keys: dict[str, object] = {site: site for site in sorted(named | from_sites)}
    if not ends:
        return keys
    measured: dict[str, list[object]] = {}
    for (from_id, to_id), (rtt_us, bps, _) in links.by_ends.items():
        between = from_id.startswith("site:") and to_id.startswith("site:")
        if between and to_id[5:] not in keys and from_id[5:] in from_sites:
            reading = (from_id, round_to_bits(rtt_us, bits), round_to_bits(bps, bits))
            measured.setdefault(to_id[5:], []).append(reading)
    for site, bps in links.in_bps.items():
        if site not in keys:
            measured.setdefault(site, []).append(round_to_bits(bps, bits))
    return keys | {site: tuple(readings) for site, readings in measured.items()}


def round_to_bits(value: int, bits: int) -> int:
    """The nearest number that has at most `bits` significant bits; negative ones stay."""
    if value <= 0:
        return value
    shift = max(0, value.bit_length() - bits)
    return ((value + (1 << shift >> 1)) >> shift) << shift


def _ranks(values: list[int]) -> Int64s:
    """Of each among the distinct ones. For a few hundred groups NumPy's `unique` takes as long, for one ten times."""
    rank = {value: n for n, value in enumerate(sorted(set(values)))}
    return np.array([rank[value] for value in values], np.int64)


def _number(keys: list[int], marks: dict[int, tuple[object, ...]]) -> tuple[Int64s, int]:
    ids: dict[object, int] = {}
    if not marks:
        return np.array([ids.setdefault(key, len(ids)) for key in keys], np.int64), len(ids)
    numbers = [ids.setdefault((key, marks[n]) if n in marks else key, len(ids)) for n, key in enumerate(keys)]
    return np.array(numbers, np.int64), len(ids)


def _marks(
    snapshot: Snapshot, shards: tuple[Shard, ...], position: dict[str, int], links: "_Links"
) -> dict[int, tuple[object, ...]]:
    """What sets single nodes apart: shards held, demands that name them, links of their own."""
    found: dict[int, list[object]] = {}
    read = {shard_id for demand in snapshot.demands for shard_id in demand.reads}
    for n, shard in enumerate(shards):
        if shard.shard_id in read:
            for agent_id in shard.replicas:
                if agent_id in position:
                    found.setdefault(position[agent_id], []).append(n)
    for c, demand in enumerate(snapshot.demands):
        for agent_id in (*demand.where.agents, *demand.where.agents_avoided):
            if agent_id in position:
                found.setdefault(position[agent_id], []).append(("named", c))
    for agent_id, own in links.of_agent.items():
        if agent_id in position:
            found.setdefault(position[agent_id], []).append(own)
    return {n: tuple(marks) for n, marks in found.items()}


# --- links -----------------------------------------------------------------------------------------------------------

_Reading = tuple[int, int, int]  # rtt_us, bandwidth_bps, age_us


@dataclass(frozen=True, slots=True)
class _Links:
    by_ends: dict[tuple[str, str], _Reading]
    of_agent: dict[str, tuple[object, ...]]  # agent → its own links, as a comparable value
    out_bps: dict[str, int]  # site → the most measured from it to another site
    in_bps: dict[str, int]


def _index_links(links: tuple[Link, ...]) -> _Links:
    by_ends: dict[tuple[str, str], _Reading] = {}
    own: dict[str, list[object]] = {}
    for link in links:
        reading = (
            UNKNOWN if link.rtt_us is None else clip(link.rtt_us, TIME_US_MAX),
            UNKNOWN if link.bandwidth_bps is None else clip(link.bandwidth_bps, BANDWIDTH_BPS_MAX),
            clip(link.age_us, TIME_US_MAX),
        )
        by_ends[link.from_id, link.to_id] = reading
        if link.from_id.startswith("agent:"):
            own.setdefault(link.from_id[6:], []).append(("to", link.to_id, *reading))
        if link.to_id.startswith("agent:"):
            own.setdefault(link.to_id[6:], []).append(("from", link.from_id, *reading))
    out_bps: dict[str, int] = {}
    in_bps: dict[str, int] = {}
    for (from_id, to_id), (_, bps, _) in by_ends.items():
        if bps != UNKNOWN and from_id != to_id and from_id.startswith("site:") and to_id.startswith("site:"):
            out_bps[from_id[5:]] = max(bps, out_bps.get(from_id[5:], 0))
            in_bps[to_id[5:]] = max(bps, in_bps.get(to_id[5:], 0))
    return _Links(by_ends, {agent_id: tuple(values) for agent_id, values in own.items()}, out_bps, in_bps)


def _ends(
    snapshot: Snapshot, shards: tuple[Shard, ...], position: dict[str, int], links: _Links
) -> tuple[tuple[tuple[str, str], ...], dict[tuple[str, str], int], tuple[tuple[int, ...], ...]]:
    """Every end that data or clients are reached from, and for each shard those it can be fetched from."""
    index: dict[tuple[str, str], int] = {}
    for demand in snapshot.demands:
        for site in (*(need.site for need in demand.needs.links), *(target.site for target in demand.latency)):
            index.setdefault(("", site), len(index))
    sources: list[tuple[int, ...]] = []
    for shard in shards:
        found: set[int] = set()
        for n, agent_id in enumerate(shard.replicas):
            if agent_id in position:
                site = snapshot.nodes[position[agent_id]].site
            else:
                site = shard.replica_sites[n] if n < len(shard.replica_sites) else ""
            end = (agent_id if agent_id in links.of_agent or not site else "", site)
            found.add(index.setdefault(end, len(index)))
        if shard.in_store:
            found.add(index.setdefault(("", ""), len(index)))
        sources.append(tuple(sorted(found)))
    return tuple(index), index, tuple(sources)


def _link_matrices(
    ends: tuple[tuple[str, str], ...], heads: list[Node], links: _Links
) -> tuple[Int64s, Int64s, Int64s, Bools]:
    """Readings from each end to each group: by agent where there are such, else by site."""
    if not ends:
        none = np.zeros((0, len(heads)), np.int64)
        return none, none, none, np.zeros((0, len(heads)), np.bool_)
    sites = sorted({node.site for node in heads})
    column = {site: n for n, site in enumerate(sites)}
    by_site = np.full((3, len(ends), len(sites)), UNKNOWN, np.int64)
    for e, (_, end_site) in enumerate(ends):
        for site, n in column.items() if end_site else ():
            reading = links.by_ends.get((f"site:{end_site}", f"site:{site}"))
            if reading is not None:
                by_site[:, e, n] = reading
    columns = np.array([column[node.site] for node in heads], np.int64)
    out = by_site[:, :, columns] if heads else np.zeros((3, len(ends), 0), np.int64)
    special = [g for g, node in enumerate(heads) if node.agent_id in links.of_agent]
    for e, (agent_id, end_site) in enumerate(ends):
        for g in range(len(heads)) if agent_id else special:
            reading = _closest(links, agent_id, end_site, heads[g])
            if reading is not None:
                out[:, e, g] = reading
    end_sites = np.array([column.get(site, UNKNOWN) if site else UNKNOWN for _, site in ends], np.int64)
    same_site = end_sites[:, None] == columns[None, :] if heads else np.zeros((len(ends), 0), np.bool_)
    return out[0], out[1], out[2], same_site


def _queued(snapshot: Snapshot, ends: tuple[tuple[str, str], ...], heads: list[Node]) -> Int64s:
    out = np.zeros((len(ends), len(heads)), np.int64)
    if not (ends and snapshot.transfers):
        return out
    rows: dict[str, list[int]] = {}
    for e, (_, site) in enumerate(ends):
        rows.setdefault(site, []).append(e)
    columns: dict[str, list[int]] = {}
    for g, node in enumerate(heads):
        columns.setdefault(node.site, []).append(g)
    shared = {each.from_site: each.to_sites for each in snapshot.bottlenecks}
    for transfer in snapshot.transfers:
        if transfer.from_site not in rows or transfer.from_site == transfer.to_site:
            continue
        for to_site in _slowed_by(transfer, shared):
            if to_site in columns:
                out[np.ix_(rows[transfer.from_site], columns[to_site])] += clip(transfer.left_bytes, SIZE_BYTES_MAX)
    return np.minimum(out, SIZE_BYTES_MAX)


def _slowed_by(transfer: Transfer, shared: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Where what comes after a transfer from the same site waits for it: where it goes, or its bottleneck leads."""
    together = shared.get(transfer.from_site, ())
    return together if transfer.to_site in together else (transfer.to_site,)


def _closest(links: _Links, agent_id: str, site: str, node: Node) -> _Reading | None:
    for from_id in (f"agent:{agent_id}", f"site:{site}"):
        for to_id in (f"agent:{node.agent_id}", f"site:{node.site}"):
            reading = links.by_ends.get((from_id, to_id))
            if reading is not None:
                return reading
    return None


# --- resources -------------------------------------------------------------------------------------------------------


def _gpu_columns(nodes: tuple[Node, ...]) -> tuple[tuple[GpuType, ...], Int64s, Devices]:
    with_gpus = [(n, node.free.gpus) for n, node in enumerate(nodes) if node.free.gpus]
    ids: dict[GpuType, int] = {}
    types = [(n, ids.setdefault(gpu_type(gpu), len(ids)), gpu.milli) for n, gpus in with_gpus for gpu in gpus]
    counts = np.zeros((len(nodes), len(ids)), np.int64)
    if types:
        rows, kinds, milli = np.array(types, np.int64).T
        np.add.at(counts, (rows[milli >= WHOLE], kinds[milli >= WHOLE]), 1)
    return tuple(ids), counts, _devices(len(nodes), with_gpus, ids)


def gpu_type(gpu: Gpu) -> GpuType:
    return GpuType(gpu.model, clip(gpu.memory_bytes or 0, AMOUNT_MAX), gpu.isolation == "shared")


def _devices(n_nodes: int, with_gpus: list[tuple[int, tuple[Gpu, ...]]], ids: dict[GpuType, int]) -> Devices:
    is_shared = any(each.is_shared for each in ids)
    width = max((len(gpus) for _, gpus in with_gpus), default=0) if is_shared else 0
    milli, memory = np.zeros((n_nodes, width), np.int64), np.zeros((n_nodes, width), np.int64)
    kind = np.full((n_nodes, width), UNKNOWN, np.int64)
    uuids: list[tuple[str, ...]] = [()] * n_nodes
    for n, gpus in with_gpus if is_shared else ():
        ordered = best_first(gpus)
        for d, gpu in enumerate(ordered):
            milli[n, d], memory[n, d] = gpu.milli, clip(memory_of(gpu), AMOUNT_MAX)
            kind[n, d] = ids[gpu_type(gpu)]
        uuids[n] = tuple(gpu.uuid for gpu in ordered)
    return Devices(milli, memory, kind, tuple(uuids))


def _share_bytes(needs: tuple[Needs, ...], gpu_types: tuple[GpuType, ...]) -> Int64s:
    """As `gpus.taken_bytes`."""
    rows = [
        [clip(n.gpu.memory_bytes or each.memory_bytes * n.gpu.milli // WHOLE, AMOUNT_MAX) if n.gpu else 0
         for each in gpu_types]
        for n in needs
    ]  # fmt: skip
    return np.array(rows, np.int64).reshape(len(needs), len(gpu_types))


def _needs_columns(
    demands: tuple[Demand, ...], gpu_types: tuple[GpuType, ...]
) -> tuple[tuple[Needs, ...], Int64s, Int64s, Int64s, Bools]:
    ids: dict[tuple[object, ...], int] = {}
    distinct: list[Needs] = []
    needs_of = np.zeros(len(demands), np.int64)
    for c, demand in enumerate(demands):
        needs = demand.needs
        key = (needs.cpu_milli, needs.memory_bytes, needs.disk_bytes, needs.gpu)
        if key not in ids:
            ids[key] = len(ids)
            distinct.append(needs)
        needs_of[c] = ids[key]
    amounts = amounts_of(distinct)
    counts = np.array([clip(n.gpu.count, COUNT_MAX) if n.gpu else 0 for n in distinct], np.int64)
    mask = np.array([[_type_matches(n.gpu, each) for each in gpu_types] for n in distinct], np.bool_)
    mask = mask.reshape(len(distinct), len(gpu_types))
    return tuple(distinct), needs_of, amounts, counts, mask


def amounts_of(needs: list[Needs]) -> Int64s:
    """[K, KINDS]; what no agent can have is cut to one more than an agent may have."""
    rows = [tuple(clip(value, AMOUNT_MAX + 1) for value in (n.cpu_milli, n.memory_bytes, n.disk_bytes)) for n in needs]
    return np.array(rows, np.int64).reshape(len(needs), KINDS)


def _type_matches(need: GpuNeed | None, kind: GpuType) -> bool:
    return (
        need is not None
        and (need.model is None or need.model == kind.model)
        and need.memory_bytes <= kind.memory_bytes
        and (need.milli >= WHOLE or kind.is_shared)
    )


# --- capacity to come -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Releases:
    """What running work is expected to give back, a row each, sorted by node and then by time."""

    node: Int64s  # [R]
    in_us: Int64s  # [R]
    amounts: Int64s  # [R, KINDS] of all tasks of the row together
    gpu_milli: Int64s  # [R]


def release_columns(nodes: tuple[Node, ...]) -> Releases:
    rows = [
        (
            n,
            clip(release.in_us, TIME_US_MAX),
            clip(release.needs.cpu_milli * release.count, AMOUNT_MAX),
            clip(release.needs.memory_bytes * release.count, AMOUNT_MAX),
            clip(release.needs.disk_bytes * release.count, AMOUNT_MAX),
            clip(release.needs.gpu.count * release.count, COUNT_MAX) * release.needs.gpu.milli
            if release.needs.gpu is not None
            else 0,
        )
        for n, node in enumerate(nodes)
        if node.releases
        for release in node.releases
    ]
    table = np.array(rows, np.int64).reshape(len(rows), 3 + KINDS)
    return Releases(table[:, 0], table[:, 1], table[:, 2 : 2 + KINDS], table[:, 2 + KINDS])

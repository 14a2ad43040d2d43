"""The columns of a snapshot, and the groups of agents that they are made by."""

from dataclasses import dataclass

import numpy as np

from policies.communication import running_loads
from policies.constraints import shards_by_id, unreachable
from policies.gpus import WHOLE
from policies.lower.bounds import (
    COUNT_MAX,
    UNKNOWN,
    Bools,
    Int64s,
    clip,
    round_to_bits,
)
from policies.lower.links import LinkIndex, ends_of, index_links, link_matrices, queued_bytes, taken_bps
from policies.lower.nodes import NodeColumns
from policies.lower.resources import (
    Devices,
    GpuType,
    gpu_columns,
    needs_columns,
    share_bytes,
)
from policies.model import Needs, Shard, Snapshot

GROUPS_MAX = 512


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
    releasing: tuple[int, ...]  # nodes whose running work gives something back, ascending
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
    horizons_us: tuple[int, ...]  # [H] that rates are forecast over beside the usual one; ascending
    bandwidth_over: Int64s  # [H, E, G]; the usual one's where a link has none
    link_age_us: Int64s  # [E, G]
    same_site: Bools  # [E, G]
    out_bps: Int64s  # [E] the most measured out of the end's site to any other, UNKNOWN where nothing was
    in_bps: Int64s  # [G] the most measured into the group's site
    taken_bps: Int64s  # [E, G] what gangs that run send between them
    queued_bytes: Int64s  # [E, G] still to cross from the end's site to the group's, of work placed before


class Lowerer:
    """Lowers one snapshot after the other; what it remembers changes the time it takes and nothing else."""

    def __init__(self, exact: bool = False) -> None:
        """`exact`: agents of different site, tier, labels or hardware are never lumped, whoever asks for them."""
        self._exact = exact
        self._nodes = NodeColumns()

    def lower(self, snapshot: Snapshot) -> Columns:
        """Columns of a snapshot whose tuples are sorted by id, as `Snapshot` says."""
        here = self._nodes
        here.update(snapshot.nodes)
        by_id = shards_by_id(snapshot)
        shards = tuple(by_id[key] for key in sorted(by_id))
        shard_index = {shard.shard_id: n for n, shard in enumerate(shards)}
        position = here.position
        links = index_links(snapshot.links)
        ends, end_index, sources = ends_of(snapshot, shards, position, links)
        loads = running_loads(snapshot, [snapshot.nodes[n] for n in here.running]) if ends else {}
        loaded = {site for pair in loads for site in pair}
        keys, group, n_groups = self._group(snapshot, _marks(snapshot, shards, position, links), links, ends, loaded)
        # Of numbers of 16 bits NumPy makes one pass each in place of comparisons.
        order = np.argsort(group.astype(np.int16) if n_groups < 1 << 15 else group, kind="stable")
        starts = np.searchsorted(group[order], np.arange(n_groups + 1))
        members = tuple(order[starts[g] : starts[g + 1]] for g in range(n_groups))
        first = np.array([nodes[0] for nodes in members], np.int64)
        heads = [snapshot.nodes[n] for n in first.tolist()]
        rtt_us, bandwidth_bps, age_us, bandwidth_over, same_site = link_matrices(ends, heads, links)
        gpu_types, gpus, devices = gpu_columns(snapshot.nodes, here.with_gpus)
        needs, needs_of, amounts, gpu_count, gpu_mask = needs_columns(snapshot.demands, gpu_types)
        return Columns(
            snapshot=snapshot,
            free=here.free,
            releasing=here.releasing,
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
            gpu_bytes=share_bytes(needs, gpu_types),
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
            horizons_us=links.horizons_us,
            bandwidth_over=bandwidth_over,
            link_age_us=age_us,
            same_site=same_site,
            out_bps=np.array([links.out_bps.get(site, UNKNOWN) for _, site in ends], np.int64),
            in_bps=np.array([links.in_bps.get(node.site, UNKNOWN) for node in heads], np.int64),
            taken_bps=taken_bps(loads, ends, heads),
            queued_bytes=queued_bytes(snapshot, ends, heads),
        )

    def _group(
        self,
        snapshot: Snapshot,
        marks: dict[int, tuple[object, ...]],
        links: LinkIndex,
        ends: tuple[tuple[str, str], ...],
        loaded: set[str],
    ) -> tuple[Int64s, Int64s, int]:
        """The static key and the group of each node, numbered in the order in which groups first appear."""
        for bits in (64, 4, 3, 2, 1):
            keys = self._coarse(snapshot, bits, _site_keys(snapshot, links, ends, loaded, bits))
            group, n_groups = _number(keys, marks)
            if n_groups <= GROUPS_MAX:
                break
        return keys, group, n_groups

    def _coarse(self, snapshot: Snapshot, bits: int, site_keys: dict[str, object]) -> Int64s:
        """Static keys with what no demand asks for left out, and numbers rounded to so many bits."""
        demands = snapshot.demands
        labels_asked = {label for demand in demands for label in demand.where.labels}
        tier_asked = any(demand.where.tiers for demand in demands)
        profiles = {demand.profile for demand in demands}
        learned = {profile.hardware for profile in snapshot.profiles if profile.profile in profiles}
        ids: dict[tuple[object, ...], int] = {}
        renamed: list[int] = []
        for site, tier, labels, hardware, speed, price in self._nodes.key_ids:
            coarse = (
                site if self._exact else site_keys.get(site),
                tier if tier_asked or self._exact else None,
                labels if self._exact else tuple(label for label in labels if label in labels_asked),
                hardware if hardware in learned or self._exact else None,
                round_to_bits(speed, bits),
                price,
            )
            renamed.append(ids.setdefault(coarse, len(ids)))
        coarser: Int64s = np.array(renamed, np.int64)[self._nodes.keys]
        return coarser


def _site_keys(
    snapshot: Snapshot, links: LinkIndex, ends: tuple[tuple[str, str], ...], loaded: set[str], bits: int
) -> dict[str, object]:
    """What tells sites apart: their name where a demand or shard names them, data comes from there or gangs send to
    them, else the links from where data and clients are. A site without a key is like any other without."""
    named = loaded | {site for demand in snapshot.demands for site in demand.where.sites}
    named |= {site for shard in snapshot.shards for site in shard.sites}
    named |= {transfer.to_site for transfer in snapshot.transfers} if ends else set()
    if ends:
        named |= {site for each in snapshot.bottlenecks for site in each.to_sites}
    from_sites = {site for _, site in ends}
    keys: dict[str, object] = {site: site for site in sorted(named | from_sites)}
    if not ends:
        return keys
    measured: dict[str, list[object]] = {}
    for (from_id, to_id), (rtt_us, bps, _, *over) in links.by_ends.items():
        between = from_id.startswith("site:") and to_id.startswith("site:")
        if between and to_id[5:] not in keys and from_id[5:] in from_sites:
            rates = tuple([round_to_bits(rate, bits) for rate in (bps, *over)])
            reading = (from_id, round_to_bits(rtt_us, bits), rates)
            measured.setdefault(to_id[5:], []).append(reading)
    for site, bps in links.in_bps.items():
        if site not in keys:
            measured.setdefault(site, []).append(round_to_bits(bps, bits))
    return keys | {site: tuple(readings) for site, readings in measured.items()}


def _ranks(values: list[int]) -> Int64s:
    """Of each among the distinct ones. For a few hundred groups NumPy's `unique` takes as long, for one ten times."""
    rank = {value: n for n, value in enumerate(sorted(set(values)))}
    return np.array([rank[value] for value in values], np.int64)


def _number(keys: Int64s, marks: dict[int, tuple[object, ...]]) -> tuple[Int64s, int]:
    """Groups of equal key and marks, numbered in the order in which they first appear; how many."""
    if not len(keys):
        return keys, 0
    if marks:
        keys, own, n_keys = keys.copy(), dict[object, int](), int(keys.max()) + 1
        for n, mark in marks.items():
            keys[n] = n_keys + own.setdefault((int(keys[n]), mark), len(own))
    first = np.full(int(keys.max()) + 1, len(keys), np.int64)
    np.minimum.at(first, keys, np.arange(len(keys)))
    met = np.argsort(first, kind="stable")
    rank = np.empty(len(first), np.int64)
    rank[met] = np.arange(len(first))
    return rank[keys], int((first < len(keys)).sum())


def _marks(
    snapshot: Snapshot, shards: tuple[Shard, ...], position: dict[str, int], links: LinkIndex
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

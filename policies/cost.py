"""What a task costs in each node group, term by term, and where it may not run at all.

Every term is microseconds: waiting for data, running, answering clients late, and money turned into time. A cost model
is a value, so that an operator changes a weight without touching code. Axes as in `lower`: C classes, G groups.

Cost: O(C·G) array work, O(reads·G) for data.
"""

from dataclasses import dataclass

import numpy as np

from policies.forecast.horizons import BOUNDS_US, HORIZONS_US, USUAL_US, nearest
from policies.lower import BANDWIDTH_BPS_MAX, SIZE_BYTES_MAX, TIME_US_MAX, UNKNOWN, Bools, Columns, Int64s, clip
from policies.model import Demand, Profile, Reason, Record, Where

REASONS: tuple[Reason, ...] = tuple(Reason)
CODE = {reason: n for n, reason in enumerate(REASONS)}
FREE = -1  # in `Costs.obstacle`: nothing forbids it
# A service is weighed by a minute of its time: what its capacity costs, and one answer a second for each unit of weight
# of a client's target. How fast the hardware is does not make it end sooner.
SERVICE_US = 60_000_000
SERVICE_ANSWERS = 60
NEVER_US = 1 << 60  # the time left to no deadline


class CostModel(Record, frozen=True, kw_only=True):
    """The constants of the flow policy's costs. Each default is justified where it stands."""

    # A link nobody measured. Within a site: a switched gigabit LAN. Between sites: a poor DSL line, so that the
    # unknown attracts no work while anything measured will do.
    lan_rtt_us: int = 500
    lan_bandwidth_bps: int = 1_000_000_000
    wan_rtt_us: int = 100_000
    wan_bandwidth_bps: int = 10_000_000
    # One micro-dollar is worth 10 ms, so an hour of waiting is worth 0.36 dollars: about seven CPU-hours in a cloud.
    us_per_microusd: int = 10_000
    # Weight doubles every 10 of the 100 priorities, and with each doubling of the wait past a minute.
    priorities_per_doubling: int = 10
    age_unit_us: int = 60_000_000
    level_max: int = 28


@dataclass(frozen=True, slots=True)
class Costs:
    """All [C, G] but `level`. Terms hold also where `obstacle` is set, as far as they mean anything."""

    obstacle: Int64s  # index into REASONS of the first constraint broken, or FREE
    transfer_us: Int64s
    run_us: Int64s
    latency_us: Int64s
    price_us: Int64s
    total_us: Int64s
    uplink: Int64s  # the site (index into `uplinks`) whose link carries most of the data, or UNKNOWN
    uplinks: tuple[str, ...]
    level: Int64s  # [C] weight of waiting: 2^(level/2)
    extra_us: Int64s | None = None  # [C, G] the operator's own terms; None: there are none


def costs(columns: Columns, model: CostModel) -> Costs:
    snapshot = columns.snapshot
    obstacle = obstacles(columns)
    transfer_us, uplink, uplinks = _transfers(columns, model)
    run_us = _run_times(columns)
    latency_us = _latencies(columns, model)
    price_us = _prices(columns, run_us, model)
    left_us = [time_left_us(demand, snapshot.now_us) for demand in snapshot.demands]
    deadlines = np.array(left_us, np.int64).reshape(-1, 1)
    late = (obstacle == FREE) & (transfer_us + run_us > deadlines)
    obstacle[late] = CODE[Reason.DEADLINE]
    total_us = np.minimum(transfer_us + run_us + latency_us + price_us, TIME_US_MAX)
    level = _levels(columns, obstacle, total_us, left_us, model)
    return Costs(obstacle, transfer_us, run_us, latency_us, price_us, total_us, uplink, uplinks, level)


def obstacles(columns: Columns) -> Int64s:
    """[C, G] the first hard constraint broken, or FREE: places, data that must stay, links. Deadlines are `costs`'."""
    obstacle = np.full((len(columns.reads), columns.n_groups), FREE, np.int64)
    _forbid_places(columns, obstacle)
    _forbid_links(columns, obstacle)
    return obstacle


def time_left_us(demand: Demand, now_us: int) -> int:
    """To a deadline that has not passed. A task already late is run as if it had none: late rather than never."""
    if demand.deadline_us is None or demand.deadline_us <= now_us:
        return NEVER_US
    return demand.deadline_us - now_us


# --- where it may run ------------------------------------------------------------------------------------------------


def _forbid(obstacle: Int64s, c: int, where: Bools, reason: Reason) -> None:
    row = obstacle[c]
    row[where & (row == FREE)] = CODE[reason]


def _forbid_places(columns: Columns, obstacle: Int64s) -> None:
    heads = [columns.snapshot.nodes[n] for n in columns.first.tolist()]
    tiers = np.array([node.tier for node in heads])
    sites = np.array([node.site for node in heads])
    rows: dict[tuple[Where, tuple[int, ...]], Int64s] = {}
    restricted = {n for n, shard in enumerate(columns.shards) if shard.sites}
    for c, demand in enumerate(columns.snapshot.demands):
        where = demand.where
        resident = tuple(s for s in columns.reads[c] if s in restricted) if restricted else ()
        if where == _ANYWHERE and not resident:
            continue
        key = (where, resident)
        if key not in rows:
            if where.tiers:
                _forbid(obstacle, c, ~np.isin(tiers, where.tiers), Reason.TIER)
            if where.sites:
                _forbid(obstacle, c, ~np.isin(sites, where.sites), Reason.SITE)
            if where.agents:
                _forbid(obstacle, c, np.array([n.agent_id not in where.agents for n in heads], np.bool_), Reason.SITE)
            if where.labels:
                lacking = [any(label not in node.labels for label in where.labels) for node in heads]
                _forbid(obstacle, c, np.array(lacking, np.bool_), Reason.LABEL)
            if where.agents_avoided:
                avoided = np.array([n.agent_id in where.agents_avoided for n in heads], np.bool_)
                _forbid(obstacle, c, avoided, Reason.AVOIDED)
            for s in resident:
                _forbid(obstacle, c, ~np.isin(sites, columns.shards[s].sites), Reason.RESIDENCY)
            rows[key] = obstacle[c].copy()
        obstacle[c] = rows[key]


_ANYWHERE = Where()


def _forbid_links(columns: Columns, obstacle: Int64s) -> None:
    for c, demand in enumerate(columns.snapshot.demands):
        for need in demand.needs.links:
            e = columns.end_index["", need.site]
            rtt_us, bandwidth_bps = columns.rtt_us[e], columns.bandwidth_bps[e]
            unmeasured = (rtt_us == UNKNOWN) & (bandwidth_bps == UNKNOWN)
            lan = columns.same_site[e] & unmeasured
            if need.rtt_us_max is not None:
                _forbid(obstacle, c, ~lan & (rtt_us == UNKNOWN), Reason.LINK_UNMEASURED)
                _forbid(obstacle, c, ~lan & (rtt_us > need.rtt_us_max), Reason.LINK_RTT)
            if need.bandwidth_bps_min is not None:
                bound = min(need.bandwidth_bps_min, BANDWIDTH_BPS_MAX)
                _forbid(obstacle, c, ~lan & (bandwidth_bps == UNKNOWN), Reason.LINK_UNMEASURED)
                _forbid(obstacle, c, ~lan & (bandwidth_bps < bound), Reason.LINK_BANDWIDTH)


# --- the terms -------------------------------------------------------------------------------------------------------


def fetch_times(columns: Columns, shards: list[int], model: CostModel) -> tuple[Int64s, Int64s]:
    """Time to fetch each shard into each group from its best replica, and that replica's end (UNKNOWN: held there).

    int64[S, G] each, S in the order of `shards`. A shard without a replica costs TIME_US_MAX. What is already on its
    way over a link goes first.
    """
    rtt_us = np.where(columns.same_site, model.lan_rtt_us, model.wan_rtt_us)
    rtt_us = np.where(columns.rtt_us == UNKNOWN, rtt_us, columns.rtt_us)
    # An unmeasured link is no faster than what its two sites are known to reach elsewhere.
    out_bps = np.where(columns.out_bps == UNKNOWN, model.wan_bandwidth_bps, columns.out_bps)
    in_bps = np.where(columns.in_bps == UNKNOWN, model.wan_bandwidth_bps, columns.in_bps)
    bps = np.minimum(model.wan_bandwidth_bps, np.minimum(out_bps[:, None], in_bps[None, :]))
    bps = np.where(columns.same_site, model.lan_bandwidth_bps, bps)
    kbps = _left_kbps(columns, columns.bandwidth_bps, bps)
    over = _OverHorizons(columns, bps, kbps) if columns.horizons_us else None
    queued = np.minimum(columns.queued_bytes, SIZE_BYTES_MAX) * 8000
    best = np.full((len(shards), columns.n_groups), TIME_US_MAX, np.int64)
    end = np.full_like(best, UNKNOWN)
    bits_milli = np.array([clip(columns.shards[s].size_bytes, SIZE_BYTES_MAX) * 8000 for s in shards], np.int64)
    rank = 0
    rows = [n for n, s in enumerate(shards) if columns.sources[s]]
    while rows:  # The n-th source of every shard that has so many; the number of sources is at most that of ends.
        ends = np.array([columns.sources[shards[n]][rank] for n in rows], np.int64)
        all_milli = bits_milli[rows, None] + queued[ends]
        rate_kbps = kbps[ends] if over is None else over.kbps(ends, all_milli // kbps[ends])
        time_us = np.minimum(rtt_us[ends] + all_milli // rate_kbps, TIME_US_MAX)
        better = time_us < best[rows]
        best[rows] = np.where(better, time_us, best[rows])
        end[rows] = np.where(better, ends[:, None], end[rows])
        rank += 1
        rows = [n for n in rows if len(columns.sources[shards[n]]) > rank]
    for n, s in enumerate(shards):
        held = columns.group[list(columns.holders[s])]
        best[n, held] = 0
        end[n, held] = UNKNOWN
    return best, end


def _left_kbps(columns: Columns, measured_bps: Int64s, assumed_bps: Int64s) -> Int64s:
    """[E, G] What gangs send is off it, but for half: a transfer beside them gets its share."""
    bps = np.where(measured_bps == UNKNOWN, assumed_bps, measured_bps)
    kbps: Int64s = np.maximum(1, np.maximum(bps - columns.taken_bps, bps // 2) // 1000)
    return kbps


class _OverHorizons:
    """Rates by the time that a transfer takes: each is planned with the forecast over the horizon nearest to that."""

    def __init__(self, columns: Columns, assumed_bps: Int64s, usual_kbps: Int64s) -> None:
        planes = {h: _left_kbps(columns, columns.bandwidth_over[n], assumed_bps)
                  for n, h in enumerate(columns.horizons_us)}  # fmt: skip
        planes[USUAL_US] = usual_kbps
        known = tuple(sorted(planes))
        self._kbps = np.stack([planes[horizon_us] for horizon_us in known])
        self._plane = np.array([known.index(nearest(horizon_us, known)) for horizon_us in HORIZONS_US], np.int64)
        self._groups = np.arange(columns.n_groups)

    def kbps(self, ends: Int64s, usual_us: Int64s) -> Int64s:
        """[N, G] from one end each, by what it would take at the usual rate."""
        plane = self._plane[np.searchsorted(BOUNDS_US, usual_us)]
        found: Int64s = self._kbps[plane, ends[:, None], self._groups]
        return found


def _transfers(columns: Columns, model: CostModel) -> tuple[Int64s, Int64s, tuple[str, ...]]:
    """Sum over the shards read, best replica each; and whose uplink carries the longest of them."""
    shape = (len(columns.reads), columns.n_groups)
    transfer_us = np.zeros(shape, np.int64)
    uplink = np.full(shape, UNKNOWN, np.int64)
    read = sorted({s for shards in columns.reads for s in shards})
    uplinks = tuple(sorted({site for _, site in columns.ends}))
    if not read or not columns.n_groups or not columns.ends:
        if columns.n_groups:
            transfer_us[[c for c, shards in enumerate(columns.reads) if shards]] = TIME_US_MAX
        return transfer_us, uplink, uplinks
    number = {site: n for n, site in enumerate(uplinks)}
    of_end = np.array([number[site] for _, site in columns.ends], np.int64)
    fetch_us, end = fetch_times(columns, read, model)
    moves = (end != UNKNOWN) & ~columns.same_site[end, np.arange(columns.n_groups)]
    via = np.where(moves, of_end[end], UNKNOWN)
    row = {s: n for n, s in enumerate(read)}
    for c, shards in enumerate(columns.reads):
        if len(shards) == 1:
            transfer_us[c], uplink[c] = fetch_us[row[shards[0]]], via[row[shards[0]]]
        elif shards:
            rows = [row[s] for s in shards]
            times = fetch_us[rows]
            transfer_us[c] = np.minimum(times.sum(axis=0), TIME_US_MAX)
            longest = times.argmax(axis=0)
            uplink[c] = via[rows, :][longest, np.arange(columns.n_groups)]
    return transfer_us, uplink, uplinks


def _run_times(columns: Columns) -> Int64s:
    """Learned per profile and hardware where it was, else declared ÷ speed."""
    snapshot = columns.snapshot
    declared = np.array([clip(d.run_us, TIME_US_MAX) for d in snapshot.demands], np.int64)
    run_us: Int64s = np.minimum(declared[:, None] * 1000 // columns.speed_milli[None, :], TIME_US_MAX)
    classes: dict[str, list[int]] = {}
    for c, demand in enumerate(snapshot.demands):
        if demand.profile:
            classes.setdefault(demand.profile, []).append(c)
    groups: dict[str, list[int]] = {}
    for g, n in enumerate(columns.first.tolist()):
        groups.setdefault(snapshot.nodes[n].hardware, []).append(g)
    learned: dict[tuple[str, str], list[Profile]] = {}
    for profile in snapshot.profiles:
        if profile.samples > 0 and profile.profile in classes and profile.hardware in groups:
            learned.setdefault((profile.profile, profile.hardware), []).append(profile)
    for (name, hardware), known in learned.items():
        if len(known) == 1:
            run_us[np.ix_(classes[name], groups[hardware])] = clip(known[0].run_us, TIME_US_MAX)
            continue
        for c in classes[name]:  # Of the nearest size that was seen, the smaller of two as near.
            bits = sum(columns.shards[s].size_bytes for s in columns.reads[c]).bit_length()
            nearest = min(known, key=lambda each: (abs(each.data_class - bits), each.data_class))
            run_us[c, groups[hardware]] = clip(nearest.run_us, TIME_US_MAX)
    run_us[[c for c, demand in enumerate(snapshot.demands) if demand.is_service]] = SERVICE_US
    return run_us


def _latencies(columns: Columns, model: CostModel) -> Int64s:
    out = np.zeros((len(columns.reads), columns.n_groups), np.int64)
    for c, demand in enumerate(columns.snapshot.demands):
        for target in demand.latency:
            e = columns.end_index["", target.site]
            assumed = np.where(columns.same_site[e], model.lan_rtt_us, model.wan_rtt_us)
            rtt_us = np.where(columns.rtt_us[e] == UNKNOWN, assumed, columns.rtt_us[e])
            over_us = np.maximum(0, rtt_us - clip(target.rtt_us, TIME_US_MAX))
            times = clip(target.weight, 1 << 20) * (SERVICE_ANSWERS if demand.is_service else 1)
            out[c] = np.minimum(out[c] + np.minimum(over_us, TIME_US_MAX >> 6) * times, TIME_US_MAX)
    return out


def _prices(columns: Columns, run_us: Int64s, model: CostModel) -> Int64s:
    """Price of the CPU held while running, as time. Rounded down by the millisecond of run time."""
    if not columns.price.any():
        return np.zeros_like(run_us)
    cpu_milli = np.minimum(columns.amounts[columns.needs_of, 0], 1 << 20)
    price = np.minimum(columns.price, 1 << 32)
    microusd_per_hour = np.minimum(cpu_milli[:, None] * price[None, :] // 1000, 1 << 40)
    us_per_run_ms = np.minimum(microusd_per_hour * clip(model.us_per_microusd, 1 << 20) // 3_600_000, 1 << 20)
    price_us: Int64s = np.minimum(us_per_run_ms * (run_us // 1000), TIME_US_MAX)
    return price_us


# --- how much waiting weighs -----------------------------------------------------------------------------------------


def _levels(columns: Columns, obstacle: Int64s, total_us: Int64s, left_us: list[int], model: CostModel) -> Int64s:
    """log2 of the weight, in halves. It grows with priority, with the wait (so nothing starves) and near a deadline."""
    now_us = columns.snapshot.now_us
    best_us = np.where(obstacle == FREE, total_us, TIME_US_MAX).min(axis=1, initial=TIME_US_MAX).tolist()
    levels: list[int] = []
    for c, demand in enumerate(columns.snapshot.demands):
        age_us = max(0, now_us - demand.oldest_us)
        level = 2 * clip(demand.priority, 100) // model.priorities_per_doubling
        level += 2 * (age_us // model.age_unit_us).bit_length()
        if left_us[c] < 4 * best_us[c]:  # Less than four times its run is left: each halving of that doubles it.
            level += 2 * (4 * best_us[c] // left_us[c]).bit_length()
        levels.append(min(level, model.level_max))
    return np.array(levels, np.int64)


def weight(level: int) -> int:
    """8·2^(level/2), rounded down: integers that still tell half steps apart."""
    return (8, 11)[level % 2] << (level // 2)

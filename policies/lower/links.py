"""Links, and where data comes from, in columns: from each end to each group of agents."""

from dataclasses import dataclass

import numpy as np

from policies.lower.bounds import BANDWIDTH_BPS_MAX, SIZE_BYTES_MAX, TIME_US_MAX, UNKNOWN, Bools, Int64s, clip
from policies.model import Link, Node, Shard, Snapshot, Transfer

_Reading = tuple[int, ...]  # rtt_us, bandwidth_bps, age_us, and the rate over each of `LinkIndex.horizons_us`
_FIXED = 3


@dataclass(frozen=True, slots=True)
class LinkIndex:
    """Readings by their two ends, and what is best of each site; UNKNOWN where nobody measured."""

    horizons_us: tuple[int, ...]  # that any link is forecast over beside the usual one; ascending
    by_ends: dict[tuple[str, str], _Reading]
    of_agent: dict[str, tuple[object, ...]]  # agent → its own links, as a comparable value
    out_bps: dict[str, int]  # site → the most measured from it to another site
    in_bps: dict[str, int]


def index_links(links: tuple[Link, ...]) -> LinkIndex:
    """Of all links, numbers cut to their bounds."""
    horizons_us = tuple(sorted({horizon_us for link in links for horizon_us, _ in link.bandwidth_over}))
    by_ends: dict[tuple[str, str], _Reading] = {}
    own: dict[str, list[object]] = {}
    for link in links:
        bps = UNKNOWN if link.bandwidth_bps is None else clip(link.bandwidth_bps, BANDWIDTH_BPS_MAX)
        over = {horizon_us: clip(rate, BANDWIDTH_BPS_MAX) for horizon_us, rate in link.bandwidth_over}
        reading = (
            UNKNOWN if link.rtt_us is None else clip(link.rtt_us, TIME_US_MAX),
            bps,
            clip(link.age_us, TIME_US_MAX),
            *(over.get(horizon_us, bps) for horizon_us in horizons_us),
        )
        by_ends[link.from_id, link.to_id] = reading
        if link.from_id.startswith("agent:"):
            own.setdefault(link.from_id[6:], []).append(("to", link.to_id, *reading))
        if link.to_id.startswith("agent:"):
            own.setdefault(link.to_id[6:], []).append(("from", link.from_id, *reading))
    out_bps: dict[str, int] = {}
    in_bps: dict[str, int] = {}
    for (from_id, to_id), (_, bps, *_) in by_ends.items():
        if bps != UNKNOWN and from_id != to_id and from_id.startswith("site:") and to_id.startswith("site:"):
            out_bps[from_id[5:]] = max(bps, out_bps.get(from_id[5:], 0))
            in_bps[to_id[5:]] = max(bps, in_bps.get(to_id[5:], 0))
    return LinkIndex(
        horizons_us, by_ends, {agent_id: tuple(values) for agent_id, values in own.items()}, out_bps, in_bps
    )


def ends_of(
    snapshot: Snapshot, shards: tuple[Shard, ...], position: dict[str, int], links: LinkIndex
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


def link_matrices(
    ends: tuple[tuple[str, str], ...], heads: list[Node], links: LinkIndex
) -> tuple[Int64s, Int64s, Int64s, Int64s, Bools]:
    """Readings from each end to each group: by agent where there are such, else by site. The fourth has the rates over
    other horizons, [H, E, G]."""
    n_readings = _FIXED + len(links.horizons_us)
    if not ends:
        none = np.zeros((n_readings, 0, len(heads)), np.int64)
        return none[0], none[1], none[2], none[_FIXED:], np.zeros((0, len(heads)), np.bool_)
    sites = sorted({node.site for node in heads})
    column = {site: n for n, site in enumerate(sites)}
    by_site = np.full((n_readings, len(ends), len(sites)), UNKNOWN, np.int64)
    for e, (_, end_site) in enumerate(ends):
        for site, n in column.items() if end_site else ():
            reading = links.by_ends.get((f"site:{end_site}", f"site:{site}"))
            if reading is not None:
                by_site[:, e, n] = reading
    columns = np.array([column[node.site] for node in heads], np.int64)
    out = by_site[:, :, columns] if heads else np.zeros((n_readings, len(ends), 0), np.int64)
    special = [g for g, node in enumerate(heads) if node.agent_id in links.of_agent]
    for e, (agent_id, end_site) in enumerate(ends):
        for g in range(len(heads)) if agent_id else special:
            reading = _closest(links, agent_id, end_site, heads[g])
            if reading is not None:
                out[:, e, g] = reading
    end_sites = np.array([column.get(site, UNKNOWN) if site else UNKNOWN for _, site in ends], np.int64)
    same_site = end_sites[:, None] == columns[None, :] if heads else np.zeros((len(ends), 0), np.bool_)
    return out[0], out[1], out[2], out[_FIXED:], same_site


def queued_bytes(snapshot: Snapshot, ends: tuple[tuple[str, str], ...], heads: list[Node]) -> Int64s:
    """[E, G] bytes that are still to cross from the end's site to where the group is, shared ways included."""
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


def taken_bps(loads: dict[tuple[str, str], int], ends: tuple[tuple[str, str], ...], heads: list[Node]) -> Int64s:
    """[E, G] what gangs that run send between the end's site and the group's."""
    out = np.zeros((len(ends), len(heads)), np.int64)
    for e, (_, end_site) in enumerate(ends) if loads else ():
        for g, node in enumerate(heads):
            pair = min(end_site, node.site), max(end_site, node.site)
            out[e, g] = clip(loads.get(pair, 0), BANDWIDTH_BPS_MAX)
    return out


def _slowed_by(transfer: Transfer, shared: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Where what comes after a transfer from the same site waits for it: where it goes, or its bottleneck leads."""
    together = shared.get(transfer.from_site, ())
    return together if transfer.to_site in together else (transfer.to_site,)


def _closest(links: LinkIndex, agent_id: str, site: str, node: Node) -> _Reading | None:
    for from_id in (f"agent:{agent_id}", f"site:{site}"):
        for to_id in (f"agent:{node.agent_id}", f"site:{node.site}"):
            reading = links.by_ends.get((from_id, to_id))
            if reading is not None:
                return reading
    return None

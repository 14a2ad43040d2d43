"""The hard constraints of a task on an agent, object by object: the plain statement of what `lower` does in columns.

Used by the conformance kit and by policies that look at one agent at a time. `Links` finds the measured link between
two agents: agent to agent where known, else site to site; within one agent there is no link.
"""

from typing import NamedTuple

from policies.model import Demand, Link, Miss, Node, Reason, Shard, Snapshot


class Links:
    """The links of a snapshot by their ends."""

    def __init__(self, links: tuple[Link, ...]) -> None:
        self._by_ends = {(link.from_id, link.to_id): link for link in links}

    def between(self, from_agent: str, from_site: str, to_agent: str, to_site: str) -> Link | None:
        """The most exact link known from one agent to another: each end by agent, then by site."""
        for from_id in (f"agent:{from_agent}", f"site:{from_site}"):
            for to_id in (f"agent:{to_agent}", f"site:{to_site}"):
                link = self._by_ends.get((from_id, to_id))
                if link is not None:
                    return link
        return None

    def from_site(self, site: str, to_agent: str, to_site: str) -> Link | None:
        """The link over which an agent pulls from a site."""
        return self._by_ends.get((f"site:{site}", f"agent:{to_agent}")) or self._by_ends.get(
            (f"site:{site}", f"site:{to_site}")
        )


class Obstacle(NamedTuple):
    """What forbids an agent to a demand whatever is free there; `miss` where it is a matter of degree."""

    reason: Reason
    miss: Miss | None = None


def obstacle(demand: Demand, node: Node, shards: dict[str, Shard], links: Links) -> Obstacle | None:
    """The first constraint that rules the agent out, in the order of docs/reasons.md; None when none does."""
    where = demand.where
    if where.tiers and node.tier not in where.tiers:
        return Obstacle(Reason.TIER)
    if (where.sites and node.site not in where.sites) or (where.agents and node.agent_id not in where.agents):
        return Obstacle(Reason.SITE)
    if any(label not in node.labels for label in where.labels):
        return Obstacle(Reason.LABEL)
    if node.agent_id in where.agents_avoided:
        return Obstacle(Reason.AVOIDED)
    for shard_id in demand.reads:
        shard = shards.get(shard_id)
        if shard is not None and shard.sites and node.site not in shard.sites:
            return Obstacle(Reason.RESIDENCY)
    return _link_obstacle(demand, node, links)


def _link_obstacle(demand: Demand, node: Node, links: Links) -> Obstacle | None:
    for need in demand.needs.links:
        link = links.from_site(need.site, node.agent_id, node.site)
        unmeasured = link is None or (link.rtt_us is None and link.bandwidth_bps is None)
        if unmeasured and need.site == node.site:
            continue  # Within one site: a LAN meets any need that makes sense over a wide one.
        age_us = link.age_us if link is not None else None
        for bound, has, reason in (
            (need.rtt_us_max, link.rtt_us if link else None, Reason.LINK_RTT),
            (need.bandwidth_bps_min, link.bandwidth_bps if link else None, Reason.LINK_BANDWIDTH),
        ):
            if bound is None:
                continue
            unit, below = ("us", True) if reason is Reason.LINK_RTT else ("bps", False)
            met = has is not None and (has <= bound if below else has >= bound)
            if not met:
                miss = Miss(
                    agent_id=node.agent_id,
                    needs=bound,
                    has=has,
                    unit="us" if unit == "us" else "bps",
                    site=need.site,
                    age_us=age_us,
                )
                return Obstacle(Reason.LINK_UNMEASURED if has is None else reason, miss)
    return None


def unreachable(demand: Demand, snapshot_shards: dict[str, Shard]) -> tuple[str, ...]:
    """The shards a demand reads of which no live replica is known."""
    return tuple(
        shard_id
        for shard_id in demand.reads
        if (shard := snapshot_shards.get(shard_id)) is None or not (shard.replicas or shard.in_store)
    )


def shards_by_id(snapshot: Snapshot) -> dict[str, Shard]:
    return {shard.shard_id: shard for shard in snapshot.shards}

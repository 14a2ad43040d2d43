"""Replicas as agents report them: taken into the book of shards as far as they can be what they say."""

from federation.agents_book import AgentEntry
from federation.core import Core
from federation.facts import ReplicaChanged, ShardAdded
from federation.wire import HeldShard


def acceptable(core: Core, held: HeldShard) -> bool:
    """Whether a shard an agent names can be what it says: a known one keeps its size, a new one finds room."""
    known = core.shards.entries.get(held.shard_id)
    if known is not None:
        if known.size_bytes != held.size_bytes:
            core.count("shards_size_mismatch")
        return known.size_bytes == held.size_bytes
    if len(core.shards) >= core.config.shards_max:
        core.count("shards_over_bound")
        return False
    return True


def hold(core: Core, entry: AgentEntry, held: HeldShard) -> None:
    """An agent has a replica."""
    if not acceptable(core, held):
        return
    known = core.shards.entries.get(held.shard_id)
    if known is None or (held.name and held.name not in core.shards.by_name):
        core.persist(
            ShardAdded(
                at_us=core.now_us,
                shard_id=held.shard_id,
                size_bytes=held.size_bytes,
                name=held.name,
                sites=known.sites if known else (),
                replicas_wanted=known.replicas_wanted if known else 0,
            )
        )
    if entry.agent_id not in core.shards.entries[held.shard_id].replicas:
        core.persist(ReplicaChanged(at_us=core.now_us, shard_id=held.shard_id, agent_id=entry.agent_id, held=True))
        core.rounds.changed = True


def unhold(core: Core, entry: AgentEntry, shard_id: str) -> None:
    """An agent no longer has a replica."""
    known = core.shards.entries.get(shard_id)
    if known is not None and entry.agent_id in known.replicas:
        core.persist(ReplicaChanged(at_us=core.now_us, shard_id=shard_id, agent_id=entry.agent_id, held=False))
        core.rounds.changed = True

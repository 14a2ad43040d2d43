"""The book of shards: what they are and where their replicas live. All of it is durable."""

import re
from fnmatch import translate

from federation.agents_book import AgentBook
from federation.facts import ReplicaChanged, ShardAdded
from federation.wire import HeldShard
from policies.model import Shard


class ShardEntry:
    __slots__ = ("in_store", "name", "replicas", "replicas_wanted", "shard_id", "sites", "size_bytes", "view")

    def __init__(self, shard_id: str, size_bytes: int, name: str = "") -> None:
        self.shard_id = shard_id
        self.size_bytes = size_bytes
        self.name = name
        self.replicas: dict[str, None] = {}  # agent ids, whether they are here or not
        self.sites: tuple[str, ...] = ()
        self.replicas_wanted = 0
        self.in_store = False
        self.view: tuple[int, Shard] | None = None  # made at this version of the agents' book


class ShardBook:
    def __init__(self, agents: AgentBook) -> None:
        self._agents = agents
        self.entries: dict[str, ShardEntry] = {}
        self.by_name: dict[str, str] = {}  # name → the newest shard of that name
        self.wanting: dict[str, None] = {}  # shard ids with replicas wanted
        self.version = 0
        self._lacking: tuple[tuple[int, int], bool] = ((-1, -1), False)

    def __len__(self) -> int:
        return len(self.entries)

    # --- facts -------------------------------------------------------------------------------------------------------

    def add(self, fact: ShardAdded) -> None:
        entry = self._ensure(fact.shard_id, fact.size_bytes, fact.name)
        entry.sites = tuple(sorted(fact.sites))
        entry.replicas_wanted = fact.replicas_wanted
        entry.in_store = entry.in_store or fact.in_store
        if entry.replicas_wanted:
            self.wanting[entry.shard_id] = None
        else:
            self.wanting.pop(entry.shard_id, None)
        self._touch(entry)

    def output(self, held: HeldShard, agent_id: str) -> None:
        """A finished task wrote it."""
        self.put_replica(self._ensure(held.shard_id, held.size_bytes, held.name), agent_id)

    def change_replica(self, fact: ReplicaChanged) -> None:
        entry = self.entries[fact.shard_id]
        if fact.held:
            self.put_replica(entry, fact.agent_id)
            return
        self.drop_replica(fact.shard_id, fact.agent_id)
        self._agents[fact.agent_id].let_go(fact.shard_id)

    def _ensure(self, shard_id: str, size_bytes: int, name: str) -> ShardEntry:
        entry = self.entries.get(shard_id)
        if entry is None:
            entry = self.entries[shard_id] = ShardEntry(shard_id, size_bytes, name)
        if name:
            entry.name = entry.name or name
            self.by_name[name] = shard_id
        return entry

    def drop_replica(self, shard_id: str, agent_id: str) -> None:
        entry = self.entries[shard_id]
        entry.replicas.pop(agent_id, None)
        self._touch(entry)

    def put_replica(self, entry: ShardEntry, agent_id: str) -> None:
        entry.replicas[agent_id] = None
        self._agents[agent_id].hold(entry.shard_id)
        self._touch(entry)

    def _touch(self, entry: ShardEntry) -> None:
        entry.view = None
        self.version += 1

    # --- questions ---------------------------------------------------------------------------------------------------

    def matching(self, glob: str) -> tuple[tuple[str, str], ...]:
        """(id, name) of the shards whose names match, by name. A plain name is looked up, a glob scans."""
        if not any(char in glob for char in "*?["):
            shard_id = self.by_name.get(glob)
            return () if shard_id is None else ((shard_id, glob),)
        matches = re.compile(translate(glob)).match
        return tuple((self.by_name[name], name) for name in sorted(self.by_name) if matches(name))

    def live_replicas(self, entry: ShardEntry) -> tuple[str, ...]:
        """Agents that hold it and can be expected to serve it, sorted."""
        return tuple(sorted(agent_id for agent_id in entry.replicas if self._agents.is_here(agent_id)))

    def is_reachable(self, entry: ShardEntry) -> bool:
        """Whether some agent that holds it can be expected to serve it."""
        return any(self._agents.is_here(agent_id) for agent_id in entry.replicas)

    def lacking(self) -> bool:
        """Whether any shard wants more replicas than are live."""
        versions = (self.version, self._agents.version)
        if self._lacking[0] != versions:
            lack = any(
                len(self.live_replicas(self.entries[shard_id])) < self.entries[shard_id].replicas_wanted
                for shard_id in self.wanting
            )
            self._lacking = (versions, lack)
        return self._lacking[1]

    def snapshot_of(self, shard_id: str) -> Shard | None:
        """The shard as a policy sees it, with its live replicas; None when it was never heard of."""
        entry = self.entries.get(shard_id)
        if entry is None:
            return None
        if entry.view is None or entry.view[0] != self._agents.version:
            replicas = self.live_replicas(entry)
            shard = Shard(
                shard_id=shard_id,
                size_bytes=entry.size_bytes,
                name=entry.name,
                replicas=replicas,
                replica_sites=tuple(self._agents[agent_id].site for agent_id in replicas),
                sites=entry.sites,
                replicas_wanted=entry.replicas_wanted,
                in_store=entry.in_store,
            )
            if entry.view is not None and entry.view[1] == shard:
                shard = entry.view[1]
            entry.view = (self._agents.version, shard)
        return entry.view[1]

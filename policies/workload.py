"""Demand by role and work profile: how many tasks at once, when in the day, and which kinds of shards they read.

A stream is the work of one role under one profile. How many of its tasks wait or run is forecast by what it came to at
this hour on days before (`policies.forecast.daily_peak`).
"""

import re
from dataclasses import dataclass, field

from policies.forecast.daily_peak import DailyPeak
from policies.model import Demand, Snapshot

STREAMS_MAX = 256  # followed; those not seen for longest go first
KINDS_MAX = 8  # of shards a stream is known to read; the newest
Kind = str


def kind_of(name: str) -> Kind:
    """Names that differ only in their numbers are of one kind."""
    return re.sub(r"\d+", "#", re.sub(r"[*?]", "?", name))


@dataclass(slots=True)
class Stream:
    """`demand` is the newest class of it; `kinds` says of how many shards of a kind it reads at once."""

    demand: Demand
    peak: DailyPeak
    kinds: dict[Kind, int] = field(default_factory=dict)
    seen_us: int = 0

    def note_reads(self, names: list[str]) -> None:
        """The distinct shards that its waiting tasks read now."""
        counts: dict[Kind, int] = {}
        for name in names:
            counts[kind_of(name)] = counts.get(kind_of(name), 0) + 1
        for kind, count in counts.items():
            self.kinds[kind] = max(count, self.kinds.pop(kind, 0))
        while len(self.kinds) > KINDS_MAX:
            del self.kinds[next(iter(self.kinds))]


class Workload:
    """Every stream there was of late. Cost of `note`: O(demands + running tasks + streams × slots ahead)."""

    def __init__(self, period_us: int, slots: int, lead: int) -> None:
        self._shape = period_us, slots, lead
        self.streams: dict[tuple[str, str], Stream] = {}

    def note(self, snapshot: Snapshot) -> None:
        """Take in what waits and runs now."""
        wanted: dict[tuple[str, str], int] = {}
        reads: dict[tuple[str, str], dict[str, None]] = {}
        names = {shard.shard_id: shard.name for shard in snapshot.shards if shard.name}
        for demand in snapshot.demands:
            key = demand.role, demand.profile
            stream = self.streams.get(key)
            if stream is None:
                stream = self.streams[key] = Stream(demand, DailyPeak(*self._shape))
            stream.demand, stream.seen_us = demand, snapshot.now_us
            wanted[key] = wanted.get(key, 0) + demand.count
            reads.setdefault(key, {}).update(dict.fromkeys(names[each] for each in demand.reads if each in names))
        for node in snapshot.nodes:
            for task in node.running:
                key = task.role, task.profile
                wanted[key] = wanted.get(key, 0) + 1
        for key, read in reads.items():
            self.streams[key].note_reads(list(read))
        for key, stream in self.streams.items():
            stream.peak.update(float(wanted.get(key, 0)), snapshot.now_us)
        if len(self.streams) > STREAMS_MAX:
            newest = sorted(self.streams, key=lambda key: (-self.streams[key].seen_us, key))
            self.streams = {key: self.streams[key] for key in sorted(newest[: STREAMS_MAX * 3 // 4])}

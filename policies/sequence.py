"""Who goes first where capacity does not do for all at once.

The flow prices a wait by when capacity comes, whoever had it before, and does not care which of two classes starts and
which waits. Those behind do: the sum of weighted completion times is least in the order of weight ÷ time held (W. E.
Smith, Various Optimizers for Single-Stage Production, 1956). So in each group what starts now gives its slots to what
would wait, there or elsewhere, where that comes first by Smith's rule and more is gained than lost: what those who go
first save, against the time for which the others then wait, until the longest of them ends.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from policies.cost import time_left_us
from policies.flow_network import Flows, Share
from policies.lower import Int64s
from policies.targets import Targets

CANDIDATES_MAX = 64  # of those who would wait, the first by Smith's rule, that are asked in each group


@dataclass(slots=True)
class _Party:
    """Tasks of one share, some of which may get another turn."""

    share: Share
    tasks: int  # that keep theirs
    size: int  # slots of a task
    weight: int
    slack_us: int  # how long they can wait and still meet their deadline where they are
    moved: list[Share] = field(default_factory=list)

    def move(self, group: int, tasks: int, wait_us: int) -> None:
        self.tasks -= tasks
        congestion_us = self.share.congestion_us if group == self.share.group else 0
        self.moved.append(Share(self.share.a, group, tasks * self.size, congestion_us, wait_us))

    def kept(self) -> Share:
        return replace(self.share, slots=self.share.slots - sum(share.slots for share in self.moved))


@dataclass(slots=True)
class _Candidate:
    """Those who would wait, seen from a group where they could start now."""

    party: _Party
    room: int  # tasks that fit there
    held_us: int  # how long each would hold its slots
    saved_us: int  # what starting there saves each
    rank: float  # weight ÷ time held

    def tasks(self) -> int:
        return min(self.party.tasks, self.room)


def in_sequence(flows: Flows, targets: Targets) -> Flows:
    """The flow, but in each group those first that hold up the others least for their weight.

    Gangs, services and what is placed already keep their turn. Cost: O(L·G) array work for L shares that wait.
    """
    if not flows.now or not flows.later:
        return flows
    now, later = _parties(flows.now, targets), _parties(flows.later, targets)
    starting: dict[tuple[int, int], list[_Party]] = {}
    for party in now:
        if targets.offered.may_wait[party.share.a] and not _is_service(party.share, targets):
            starting.setdefault((party.share.group, int(targets.resource[party.share.a])), []).append(party)
    ending = [party for party in later if not _is_service(party.share, targets)]
    if not starting or not ending:
        return flows
    waiting = _Waiting(ending, targets)
    for (group, resource), parties in sorted(starting.items(), key=lambda item: item[0]):
        waiting.exchange(parties, group, resource)
    if not any(party.moved for party in now):
        return flows
    return replace(flows, now=_shares(now, later), later=_shares(later, now))


def _is_service(share: Share, targets: Targets) -> bool:
    return targets.columns.snapshot.demands[int(targets.offered.classes[share.a])].is_service


def _parties(shares: Iterable[Share], targets: Targets) -> list[_Party]:
    snapshot, classes = targets.columns.snapshot, targets.offered.classes
    found: list[_Party] = []
    for share in shares:
        size = int(targets.size[share.a])
        left_us = time_left_us(snapshot.demands[int(classes[share.a])], snapshot.now_us)
        found.append(
            _Party(
                share=share,
                tasks=share.slots // size,
                size=size,
                weight=int(targets.weight[share.a]),
                slack_us=left_us - int(targets.total_us[share.a, share.group]),
            )
        )
    return found


def _shares(own: list[_Party], others: list[_Party]) -> tuple[Share, ...]:
    kept = (party.kept() for party in own)
    return tuple(share for share in (*kept, *(each for party in others for each in party.moved)) if share.slots)


class _Waiting:
    """Those who would wait, and what it would save to start them now instead."""

    def __init__(self, parties: list[_Party], targets: Targets) -> None:
        self._parties = parties
        a = np.array([party.share.a for party in parties], np.int64)
        group = np.array([party.share.group for party in parties], np.int64)
        wait_us = np.array([party.share.wait_us for party in parties], np.int64)
        costs, classes = targets.costs, targets.offered.classes
        self._held_us: Int64s = np.maximum(1, (costs.transfer_us + costs.run_us)[classes])  # [A, G]
        self._weight, self._a, self._resource = targets.weight, a, targets.resource[a]
        self._room = targets.slots.tasks[targets.needs[a]] * targets.free[a]  # [L, G]
        self._saved_us = (targets.total_us[a, group] + wait_us)[:, None] - targets.total_us[a]
        rank = targets.weight[a][:, None] / self._held_us[a]
        self._rank = np.where((self._room > 0) & (self._saved_us > 0), rank, 0.0)

    def exchange(self, starting: list[_Party], group: int, resource: int) -> None:
        """Let those go first in a group that should, until nothing more is gained."""
        ranks = {id(party): self._weight[party.share.a] / self._held_us[party.share.a, group] for party in starting}
        starting = sorted(starting, key=lambda party: ranks[id(party)])
        above = np.where(self._resource == resource, self._rank[:, group], 0.0)
        rows = np.flatnonzero(above > ranks[id(starting[0])])
        rows = rows[np.argsort(-above[rows], kind="stable")][:CANDIDATES_MAX]
        candidates = [
            _Candidate(
                party=self._parties[n],
                rank=float(above[n]),
                room=int(self._room[n, group]),
                held_us=int(self._held_us[self._a[n], group]),
                saved_us=int(self._saved_us[n, group]),
            )
            for n in rows.tolist()
        ]
        for last in starting if candidates else ():
            before = [each for each in candidates if each.rank > ranks[id(last)]]
            while (turn := _turn(last, before)) is not None:
                displaced, firsts = turn
                times = min(last.tasks // displaced, *(each.tasks() // count for each, count in firsts))
                last.move(group, times * displaced, max(each.held_us for each, _ in firsts))
                for each, count in firsts:
                    each.room -= times * count
                    each.party.move(group, times * count, 0)


def _turn(last: _Party, candidates: list[_Candidate]) -> tuple[int, list[tuple[_Candidate, int]]] | None:
    """How many tasks of `last` let which others go first, as few as are worth it; None: they do not."""
    firsts: list[tuple[_Candidate, int]] = []
    displaced = free = gain = loss = held_us = 0
    for each in candidates:
        size = each.party.size
        if not firsts:
            displaced = -(-size // last.size)
            free = displaced * last.size if displaced <= last.tasks else 0
        count = min(free // size, each.tasks())
        if not count or each.held_us > last.slack_us:
            continue
        more = count * size * each.party.weight * each.saved_us
        longer_us = max(held_us, each.held_us)
        lost = displaced * last.size * last.weight * longer_us
        if not firsts or more > lost - loss:
            firsts.append((each, count))
            free, gain, loss, held_us = free - count * size, gain + more, lost, longer_us
    return (displaced, firsts) if gain > loss else None

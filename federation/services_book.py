"""When each service last changed, of this term only: so that what was added is not removed again at once."""

from policies.model import Record

DOUBLINGS_MAX = 6


class Change(Record, frozen=True, kw_only=True):
    at_us: int
    grew: bool | None  # None: it was only seen for the first time
    hold_us: int  # how long it is not made smaller after this


class ServicesBook:
    def __init__(self) -> None:
        self.changes: dict[str, Change] = {}  # by service, of open jobs
        self.missed_ppm: dict[str, int] = {}  # by service: of requests, as the newest round expects

    def may_shrink(self, service_id: str, now_us: int, hold_us: int) -> bool:
        """Not for a while after it changed, or after it was first seen in this term."""
        change = self.changes.get(service_id)
        if change is None:
            change = self.changes[service_id] = Change(at_us=now_us, grew=None, hold_us=hold_us)
        return now_us - change.at_us >= change.hold_us

    def changed(self, service_id: str, now_us: int, hold_us: int, *, grew: bool) -> None:
        """Each turn back that comes soon after the change before it doubles the hold; a quiet time ends that."""
        before = self.changes.get(service_id)
        if before is not None and before.grew == (not grew) and now_us - before.at_us < 4 * before.hold_us:
            hold_us = min(2 * before.hold_us, hold_us << DOUBLINGS_MAX)
        elif before is not None and now_us - before.at_us < before.hold_us:
            hold_us = before.hold_us
        self.changes[service_id] = Change(at_us=now_us, grew=grew, hold_us=hold_us)

    def keep_only(self, service_ids: set[str]) -> None:
        for kept in (self.changes, self.missed_ppm):
            for service_id in kept.keys() - service_ids:
                del kept[service_id]

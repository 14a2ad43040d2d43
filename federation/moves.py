"""What is on the move, of this term only: shard copies ordered and not yet reported, which a policy that still wants
one plans again, and work that was moved because a link changed, which is left alone for a while."""

from collections import deque

from policies.model import Continuation, Record

MINUTE_US = 60_000_000
DOUBLINGS_MAX = 6  # of a hold: an hour for one of a minute
HELD_MAX = 10_000  # names remembered, those moved last: at 30 a minute five hours' worth


class Move(Record, frozen=True, kw_only=True):
    shard_id: str
    to_agent: str
    from_agent: str
    drop_source: bool
    since_us: int


class MoveBook:
    def __init__(self) -> None:
        self.in_flight: dict[tuple[str, str], Move] = {}  # (shard, receiving agent) → move, oldest first

    def begin(self, move: Move) -> None:
        self.in_flight[move.shard_id, move.to_agent] = move

    def end(self, shard_id: str, to_agent: str) -> Move | None:
        return self.in_flight.pop((shard_id, to_agent), None)

    def forget_agent(self, agent_id: str) -> None:
        for key in [key for key in self.in_flight if key[1] == agent_id]:
            del self.in_flight[key]

    def forget_before(self, since_us: int) -> int:
        """Forget those begun earlier; how many."""
        late = [key for key, move in self.in_flight.items() if move.since_us < since_us]
        for key in late:
            del self.in_flight[key]
        return len(late)


class MovingBook:
    """Tasks and transfers moved because a link changed, of this term only."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[int, int]] = {}  # task, or agent/shard of a fetch → until when, times moved
        # When, within the last minute. Each kind has the budget for itself: redirecting a transfer loses nothing.
        self.tasks_us: deque[int] = deque()
        self.transfers_us: deque[int] = deque()
        self.continuing: tuple[Continuation, ...] = ()

    def is_held(self, name: str, now_us: int) -> bool:
        return self.held.get(name, (0, 0))[0] > now_us

    def moved(self, name: str, within_us: deque[int], now_us: int, hold_us: int) -> None:
        """Each further move of the same holds it down for twice as long."""
        within_us.append(now_us)
        times = self.held.pop(name, (0, 0))[1] + 1
        self.held[name] = now_us + (hold_us << min(times - 1, DOUBLINGS_MAX)), times
        while len(self.held) > HELD_MAX:
            del self.held[next(iter(self.held))]


def room(within_us: deque[int], most: int, now_us: int) -> int:
    """Moves that a budget still allows in this minute."""
    while within_us and within_us[0] <= now_us - MINUTE_US:
        within_us.popleft()
    return most - len(within_us)

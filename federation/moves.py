"""What is on the move, of this term only: shard copies ordered and not yet reported, which a policy that still wants
one plans again, and work that was moved because a link changed, which is left alone for a while."""

from collections import deque

from policies.model import Continuation, Record

MINUTE_US = 60_000_000


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
        self.held_until_us: dict[str, int] = {}  # task, or agent/shard of a fetch, once moved
        # When, within the last minute. Each kind has the budget for itself: redirecting a transfer loses nothing.
        self.tasks_us: deque[int] = deque()
        self.transfers_us: deque[int] = deque()
        self.continuing: tuple[Continuation, ...] = ()

    def is_held(self, name: str, now_us: int) -> bool:
        return self.held_until_us.get(name, 0) > now_us

    def moved(self, name: str, within_us: deque[int], now_us: int, hold_us: int) -> None:
        within_us.append(now_us)
        self.held_until_us.pop(name, None)
        self.held_until_us[name] = now_us + hold_us
        while self.held_until_us and next(iter(self.held_until_us.values())) <= now_us:
            del self.held_until_us[next(iter(self.held_until_us))]


def room(within_us: deque[int], most: int, now_us: int) -> int:
    """Moves that a budget still allows in this minute."""
    while within_us and within_us[0] <= now_us - MINUTE_US:
        within_us.popleft()
    return most - len(within_us)

"""Shard copies ordered and not yet reported, of this term only: a policy that still wants one plans it again."""

from policies.model import Record


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

"""Where placement rounds stand: which one is in flight, whether anything changed since, when the next may start."""

from federation.api import Problem


class DryRun:
    """A `PlanJob` being answered: the groups its demands stand for."""

    __slots__ = ("groups", "request_id", "since_us")

    def __init__(self, request_id: str, groups: dict[str, str], since_us: int) -> None:
        self.request_id = request_id
        self.groups = groups
        self.since_us = since_us


class RoundState:
    def __init__(self) -> None:
        self.last_id = 0  # of this term; never below the last durable one
        self.in_flight: int | None = None
        self.begun_us = -(2**62)
        self.not_before_us = 0
        self.n_nodes = 0  # looked at by the round in flight
        self.aliases: dict[str, tuple[str, ...]] = {}  # demand ids told to the policy that differ from the classes'
        self.changed = True
        self.n_solved = 0
        self.n_fruitless = 0  # plans in a row that wanted to place something and could not
        self.failure = ""  # of the last round, when its policy failed and nobody took its place
        self.contained = ""  # of the last round, when its policy failed and the fallback answered
        self.watches: tuple[str, ...] = ()  # globs of shard names that the policy asked for with its last plan
        self.watched: tuple[str, ...] = ()  # the shards that they matched …
        self.watched_us = -(2**62)  # … then
        self.dry_runs: dict[int, DryRun] = {}
        self.last_dry_id = 0


REFUSED_WHILE_RECOVERING = Problem(
    status=503,
    code="recovering",
    title="The master is reconciling after a restart",
    detail="Ask again when /readyz answers 200.",
)

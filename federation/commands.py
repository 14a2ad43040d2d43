"""What the master wants done. The driver commits every `Persist` of a batch before it acts on anything else of it."""

from federation.api import Answer
from federation.facts import Fact
from federation.market.protocol import StreamEvent
from federation.wire import CommandBatch, Control, MasterState
from policies.model import Record, Snapshot


class Persist(Record, frozen=True, kw_only=True, tag=True):
    fact: Fact


class Send(Record, frozen=True, kw_only=True, tag=True):
    """To an agent: a `CommandBatch` goes on channel `cmd`, the rest on `ctl`."""

    agent_id: str
    message: CommandBatch | Control
    expires_in_us: int | None = None  # message expiry where the broker has it (MQTT 5)


class Announce(Record, frozen=True, kw_only=True, tag=True):
    state: MasterState


class Solve(Record, frozen=True, kw_only=True, tag=True):
    """Ask the policy; answered by `PlanReady` or `PlanFailed` with the same `round_id`. One round is in flight at most,
    dry runs (their `round_id` is negative) beside it."""

    round_id: int
    snapshot: Snapshot


class Reply(Record, frozen=True, kw_only=True, tag=True):
    request_id: str
    answer: Answer


class Emit(Record, frozen=True, kw_only=True, tag=True):
    """To a framework's stream, in order; dropped when that stream is gone. `close`: nothing follows, end it (after a
    pause: clients that see an error and a closed socket at once resubscribe thousands of times a second)."""

    framework_id: str
    stream_id: str
    event: StreamEvent
    close: bool = False


Command = Persist | Send | Announce | Solve | Reply | Emit

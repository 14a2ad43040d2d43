"""What can happen to the master: everything it ever learns arrives as one of these, with the time beside it."""

from federation.api import Request
from federation.market.protocol import Call
from federation.wire import AgentMessage
from policies.model import Plan, Record


class Started(Record, frozen=True, kw_only=True, tag=True):
    """The first event of a term, after recovery: `term` is one above the journal's last, `http_url` is ours."""

    term: int
    http_url: str = ""


class AgentSpoke(Record, frozen=True, kw_only=True, tag=True):
    message: AgentMessage


class GarbageArrived(Record, frozen=True, kw_only=True, tag=True):
    """A payload that did not decode, or whose topic names another agent than its body. `code`: see `PeerError`."""

    agent_id: str
    code: str
    n_bytes: int


class BrokerFound(Record, frozen=True, kw_only=True, tag=True):
    """The session with the broker stands (again)."""


class BrokerLost(Record, frozen=True, kw_only=True, tag=True):
    detail: str = ""


class Asked(Record, frozen=True, kw_only=True, tag=True):
    """Someone asks for a change. Answered by exactly one `Reply` with the same `request_id`."""

    request_id: str
    request: Request
    principal: str = ""


class FrameworkCalled(Record, frozen=True, kw_only=True, tag=True):
    """A framework calls. Answered by exactly one `Reply` with the same `request_id`: `CallTaken` or a `Problem` (a call
    held back by its principal's rate limit is answered when its turn comes).

    `stream_id` is the caller's `Mesos-Stream-Id`; for a `Subscribe` it names the stream that is being opened (unique
    over all streams, made by the transport). `framework_id` is "" only for a first `Subscribe`.
    """

    request_id: str
    framework_id: str
    stream_id: str
    principal: str = ""
    call: Call


class StreamClosed(Record, frozen=True, kw_only=True, tag=True):
    """A framework's stream has ended, from whichever side; late news of an earlier stream changes nothing."""

    framework_id: str
    stream_id: str


class PlanReady(Record, frozen=True, kw_only=True, tag=True):
    round_id: int
    plan: Plan
    solve_us: int = 0  # how long the policy took
    policy: str = ""  # the fallback's name, where it made the plan; `failure` says why
    failure: str = ""


class PlanFailed(Record, frozen=True, kw_only=True, tag=True):
    """The policy raised, hung or answered nonsense; its plan is refused whole."""

    round_id: int
    detail: str


class DeadlinePassed(Record, frozen=True, kw_only=True, tag=True):
    """`next_deadline_us` has come."""


Event = (
    Started | AgentSpoke | GarbageArrived | BrokerFound | BrokerLost | Asked | FrameworkCalled | StreamClosed
    | PlanReady | PlanFailed | DeadlinePassed
)  # fmt: skip

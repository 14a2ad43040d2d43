"""What can happen to the master: everything it ever learns arrives as one of these, with the time beside it."""

from federation.api import Request
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


class PlanReady(Record, frozen=True, kw_only=True, tag=True):
    round_id: int
    plan: Plan
    solve_us: int = 0  # how long the policy took


class PlanFailed(Record, frozen=True, kw_only=True, tag=True):
    """The policy raised, hung or answered nonsense; its plan is refused whole."""

    round_id: int
    detail: str


class DeadlinePassed(Record, frozen=True, kw_only=True, tag=True):
    """`next_deadline_us` has come."""


Event = (
    Started | AgentSpoke | GarbageArrived | BrokerFound | BrokerLost | Asked | PlanReady | PlanFailed | DeadlinePassed
)

"""Events whose handling raised: a bug of ours, and never twice by the same message.

The driver writes `EventSetAside` and begins again from the journal, as a restart would (`federation.driver`). Whoever
sent the event may send it again, a broker from its memory or an agent from its outbox: it is then known by its content,
acknowledged, and nothing else is done. An agent whose messages were `FAULTS_MAX` of them is not listened to any more.
Another version of the master tries everything again.
"""

import hashlib
from importlib.metadata import version
from typing import Final

import msgspec

from federation.api import Problem, SubmitJob
from federation.commands import Command, Reply, Send
from federation.events import AgentSpoke, Asked, Event, FrameworkCalled, PlanFailed, PlanReady
from federation.facts import EventSetAside
from federation.wire import AgentMessage, Offer, OfferDelta, Ping, StatusAck, StatusReport

FAULTS_MAX: Final = 3
KEPT_MAX: Final = 64
_ERROR_CHARS_MAX: Final = 500
VERSION: Final = version("offerflow")
_encoder = msgspec.msgpack.Encoder()


class SetAsideBook:
    """The newest of them, and what to know them by."""

    def __init__(self) -> None:
        self.entries: list[EventSetAside] = []
        self._digests: set[str] = set()
        self._silenced: set[str] = set()

    def add(self, fact: EventSetAside) -> None:
        self.entries = [*self.entries, fact][-KEPT_MAX:]
        current = [entry for entry in self.entries if entry.version == VERSION]
        self._digests = {digest for entry in current for digest in entry.digests}
        sources = [entry.source for entry in current if entry.event_type.startswith(AgentSpoke.__name__)]
        self._silenced = {source for source in sources if sources.count(source) >= FAULTS_MAX}

    def rest_of(self, event: Event, term: int) -> tuple[Event | None, list[Command]]:
        """What of the event is to be handled, and what its sender is told of the rest."""
        if not self._digests:
            return event, []
        match event:
            case AgentSpoke(message=message) if message.agent_id in self._silenced:
                return None, []
            case AgentSpoke(message=StatusReport() as report):
                return self._rest_of_report(report, term)
            case Asked() | FrameworkCalled() if not self._digests.isdisjoint(digests_of(event)):
                return None, [Reply(request_id=event.request_id, answer=problem())]
            case PlanReady() if not self._digests.isdisjoint(digests_of(event)):
                return PlanFailed(round_id=event.round_id, detail="its plan made the master fail before"), []
            case AgentSpoke() if not self._digests.isdisjoint(digests_of(event)):
                return None, []
        return event, []

    def _rest_of_report(self, report: StatusReport, term: int) -> tuple[Event, list[Command]]:
        kept = tuple(status for status in report.statuses if _digest(status) not in self._digests)
        if len(kept) == len(report.statuses):
            return AgentSpoke(message=report), []
        ids = tuple(status.status_id for status in report.statuses if status not in kept and status.status_id)
        ack = Send(agent_id=report.agent_id, message=StatusAck(term=term, status_ids=ids))
        return AgentSpoke(message=msgspec.structs.replace(report, statuses=kept)), [ack]


def fact_of(event: Event, error: Exception, at_us: int) -> EventSetAside:
    kind, source = type(event).__name__, ""
    match event:
        case AgentSpoke(message=message):
            kind, source = f"{kind} {type(message).__name__}", message.agent_id
        case Asked(request=request, principal=principal):
            kind, source = f"{kind} {type(request).__name__}", principal
        case FrameworkCalled(call=call, framework_id=framework_id):
            kind, source = f"{kind} {type(call).__name__}", framework_id
    return EventSetAside(
        at_us=at_us, event_type=kind, source=source, error=_describe(error), digests=digests_of(event), version=VERSION
    )


def digests_of(event: Event) -> tuple[str, ...]:
    """What the event is known by when it comes again: its content, without what differs from sending to sending. None
    for what nobody sends twice. A report is as many as its statuses, since it may come again with others in it."""
    match event:
        case AgentSpoke(message=StatusReport(statuses=statuses)):
            return tuple(_digest(status) for status in statuses)
        case AgentSpoke(message=message):
            return (_digest(_content(message)),)
        case Asked(request=SubmitJob(job=job)):
            return (_digest(job),)  # Clients make a submission id of their own each time.
        case Asked(request=request):
            return (_digest(request),)
        case FrameworkCalled(framework_id=framework_id, call=call):
            return (_digest((framework_id, call)),)
        case PlanReady(plan=plan):
            return (_digest(plan),)
    return ()


def problem() -> Problem:
    return Problem(
        status=500,
        code="internal",
        title="The master failed to answer",
        detail="handling this request is a bug of the master's; it was set aside, and `offerflow status` tells of it",
    )


def _content(message: AgentMessage) -> AgentMessage:
    message = msgspec.structs.replace(message, boot=0, conn=0, seq=0)
    if isinstance(message, Offer):
        return msgspec.structs.replace(message, offer_id="", commands_seen=0)
    if isinstance(message, OfferDelta):
        return msgspec.structs.replace(message, base_seq=0, commands_seen=None)
    return msgspec.structs.replace(message, nonce=0) if isinstance(message, Ping) else message


def _digest(value: object) -> str:
    return hashlib.sha256(_encoder.encode(value)).hexdigest()[:32]


def _describe(error: Exception) -> str:
    """`KeyError: 'gw-1' in take of network.py, line 57`."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f" in {code.co_name} of {code.co_filename.rsplit('/', 1)[-1]}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}"[: _ERROR_CHARS_MAX - len(place)] + place

"""What the live master logs: one record an event and a command; below "debug", what a person caused or must know."""

from typing import Any, Final

import msgspec
import structlog

from federation.commands import Command
from federation.events import Asked, BrokerFound, BrokerLost, Event, Started

log = structlog.get_logger("offerflow.master")

_LOUD: Final = (Started, BrokerFound, BrokerLost, Asked)


def log_handled(event: Event, commands: list[Command], now_us: int, *, everything: bool) -> None:
    if isinstance(event, _LOUD):
        log.info("event", event_type=type(event).__name__, now_us=now_us, **_brief(event))
    elif everything:
        log.debug("event", event_type=type(event).__name__, now_us=now_us, body=msgspec.to_builtins(event))
    if everything:
        for command in commands:
            body = msgspec.to_builtins(command)
            log.debug("command", command_type=type(command).__name__, now_us=now_us, body=body)


def _brief(event: Event) -> dict[str, Any]:
    match event:
        case Started(term=term):
            return {"term": term}
        case Asked(request_id=request_id, request=request, principal=principal):
            return {"request_id": request_id, "request_type": type(request).__name__, "principal": principal}
        case BrokerLost(detail=detail):
            return {"detail": detail}
    return {}

"""The row of the route table: what an address takes and gives. `app` serves it, `openapi` describes it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from aiohttp import web

from federation.api import Answer, Problem, Request
from federation.errors import StorageError
from federation.http.bodies import Nothing
from federation.http.live import Live
from federation.http.problems import ProblemError, refuse
from federation.http.settings import HttpConfig
from policies.model import Record

Q = TypeVar("Q", bound=Record)
B = TypeVar("B", bound=Record)

# Who may ask: everybody; whoever shows the data token or the token; frameworks with credentials or the token; whoever
# shows the token.
Access = Literal["open", "data", "framework", "full"]


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """One request, decoded by its route's types."""

    request: web.Request
    live: Live
    config: HttpConfig
    principal: str
    path: dict[str, str]
    query: Q
    body: B

    async def ask(self, request: Request) -> Record:
        """Ask the core; the answer once it is durable. A refusal ends the request."""
        return await ask(self.live, self.config, request, self.principal)


@dataclass(frozen=True, slots=True)
class Answered:
    """A handler's answer where 200 without further headers will not do."""

    value: Record
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Call[Any, Any]], Awaitable[Record | Answered | web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """`answer` is the type of the JSON answer, or a media type. `path` holds `{name}` per segment, or `{name:.+}`.
    The first line of the handler's docstring is its summary."""

    method: Literal["GET", "POST", "PUT"]
    path: str
    handler: Handler
    answer: type[Record] | str
    tag: str
    query: type[Record] = Nothing
    body: type[Record] | str = Nothing
    access: Access = "full"
    status: int = 200
    head: bool = True  # whether HEAD is answered where GET is
    problems: tuple[str, ...] = ()  # codes beyond those that every route may give
    headers: dict[str, str] = field(default_factory=dict)  # request headers it heeds → what they mean

    @property
    def summary(self) -> str:
        return (self.handler.__doc__ or "").partition("\n")[0]


async def ask(live: Live, config: HttpConfig, request: Request, principal: str) -> Record:
    """As `Call.ask`. Raises `ProblemError`."""
    return await answer_of(live.ask(request, principal), config)


async def answer_of(asking: Awaitable[Answer], config: HttpConfig) -> Record:
    """What the core answers, within bounds of time. Raises `ProblemError` where it refuses."""
    try:
        async with asyncio.timeout(config.answer_us / 1e6):
            answer = await asking
    except TimeoutError:
        raise refuse(
            "timeout",
            f"no answer within {config.answer_us / 1e6:g} s; the change may still be made, look before repeating it",
        ) from None
    except StorageError as error:
        raise refuse("stepped_down", str(error)) from None
    if isinstance(answer, Problem):
        raise ProblemError(answer)
    return answer

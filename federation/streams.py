"""The open streams of frameworks: what the core emits waits here, bounded, until each client has taken it.

Nobody waits for a client: a stream whose queue is full is lost, its framework hears the rest when it subscribes again.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from federation.commands import Emit
from federation.market.protocol import StreamEvent

# An offer event may hold an offer of every agent; a client that is so many events behind does not read at all.
EVENTS_QUEUED_MAX: Final = 4_096
_TAKE_MAX: Final = 64  # events written at once

# Why a stream ended: the core closed it, its client was too slow, the client left, the master stops.
End = Literal["closed", "overrun", "left", "stopping"]


class Taken(NamedTuple):
    events: list[StreamEvent]
    end: End | None  # nothing follows


class FrameworkStream:
    """One client's stream. The core's side calls `push`, the transport's side `take`."""

    def __init__(self, stream_id: str, events_max: int) -> None:
        self.stream_id = stream_id
        self.framework_id = ""  # known once the subscription was taken
        self.end: End | None = None
        self._events_max = events_max
        self._events: deque[StreamEvent] = deque()
        self._grown = asyncio.Event()

    def push(self, event: StreamEvent, *, close: bool = False) -> None:
        if self.end is not None:
            return
        if len(self._events) >= self._events_max:
            self._events.clear()  # Nobody will take them, and they are many.
            self.finish("overrun")
            return
        self._events.append(event)
        if close:
            self.finish("closed")
        self._grown.set()

    def finish(self, end: End) -> None:
        """Nothing more is taken in. What waits is still to be written, unless the client is the reason."""
        if self.end is None:
            self.end = end
            self._grown.set()

    async def take(self) -> Taken:
        """The next events, at least one unless the stream has ended."""
        while not self._events and self.end is None:
            self._grown.clear()
            await self._grown.wait()
        events = [self._events.popleft() for _ in range(min(_TAKE_MAX, len(self._events)))]
        return Taken(events, self.end if not self._events else None)


class FrameworkStreams:
    """All of them, by id. `on_gone(framework_id, stream_id)` is called when one is dropped, from whichever side."""

    def __init__(self, on_gone: Callable[[str, str], None], events_max: int = EVENTS_QUEUED_MAX) -> None:
        self.n_overrun = 0  # clients too slow, ever
        self._on_gone = on_gone
        self._events_max = events_max
        self._streams: dict[str, FrameworkStream] = {}
        self._stopped = False

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, stream_id: str) -> FrameworkStream:
        """Before the core hears of it: its first events must find it."""
        assert stream_id not in self._streams, stream_id
        stream = self._streams[stream_id] = FrameworkStream(stream_id, self._events_max)
        if self._stopped:
            stream.finish("stopping")
        return stream

    def emit(self, command: Emit) -> None:
        stream = self._streams.get(command.stream_id)
        if stream is None:  # Its transport gave up before the core opened it, or the core has yet to hear of its end.
            self._on_gone(command.framework_id, command.stream_id)
            return
        stream.push(command.event, close=command.close)

    def drop(self, stream: FrameworkStream) -> None:
        """The transport is done with it."""
        if self._streams.pop(stream.stream_id, None) is None:
            return
        if stream.end == "overrun":
            self.n_overrun += 1
        if stream.framework_id:
            self._on_gone(stream.framework_id, stream.stream_id)

    def end_all(self) -> None:
        """Whoever was subscribed has to subscribe again."""
        for stream in self._streams.values():
            stream.finish("stopping")

    def stop(self) -> None:
        self._stopped = True
        self.end_all()

"""What the HTTP side needs of the running master; `federation.driver.LiveMaster` provides it."""

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Protocol

from federation.api import Answer, Request
from federation.facts import Fact
from federation.market.protocol import Call
from federation.master import Master
from federation.streams import FrameworkStreams


class Store(Protocol):
    """The master's own shards: artifacts and uploads, each file named by its SHA-256."""

    def path(self, shard_id: str) -> Path | None:
        """The complete, verified file, or None."""

    async def put(self, chunks: AsyncIterator[bytes], shard_id: str) -> int:
        """Take the bytes; the size. Raises `PeerError("hash")` if they hash otherwise, OSError if the disk is full.
        What is not complete leaves nothing behind."""


class Live(Protocol):
    @property
    def master(self) -> Master:
        """Read it within one step of the loop: between two awaits it is consistent."""

    @property
    def blobs(self) -> Store: ...

    def now_us(self) -> int:
        """The master's clock, Unix microseconds."""

    def broker_status(self) -> str:
        """For people; starts with "connected" while the session stands."""

    def gauges(self) -> dict[str, int]:
        """The driver's own state, for metrics: name → value."""

    def counters(self) -> dict[str, int]:
        """What the driver counted since its start: name → count, never falling."""

    async def ask(self, request: Request, principal: str = "") -> Answer:
        """Ask for a change; the answer comes once it is durable. Raises `StorageError` when nothing can be any more."""

    @property
    def streams(self) -> FrameworkStreams:
        """Of the frameworks that are connected."""

    async def call(self, call: Call, framework_id: str, stream_id: str, principal: str = "") -> Answer:
        """A framework calls: `CallTaken` or a `Problem`, once it is durable. Raises `StorageError`."""

    def subscribe(self, after_seq: int | None = None) -> AsyncGenerator[tuple[int, Fact], None]:
        """Committed facts with their journal numbers, from after `after_seq` (None: from now on), for ever."""

"""What the driver needs from the workers that touch the machine: the only seam between the agent's core and the world.

Every worker reports through `post`, which waits while the inbox is full: a report is never lost. No method raises for a
peer's, a disk's or a task's fault: that is a field of the event it posts. Each awaits its work and may be cancelled
(at shutdown); cancelling must leave running tasks alone, for they are adopted at the next start.
"""

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from agents.events import Event
from federation.wire import Fetch, HeldShard, Launch, LinkSample, Peer
from policies.model import Resources

Post = Callable[[Event], Awaitable[None]]


class Executor(Protocol):
    """Runs attempts. A handle identifies a live process across a restart of the agent (pid and start time)."""

    async def run(self, launch: Launch) -> None:
        """Prepare the folder, spawn the process *behind a gate*, post `TaskStarted(handle)`; once `release`d it runs;
        when its whole tree is gone post `TaskEnded` (outputs stored as shards before), and return. If it cannot start
        post only `TaskEnded`. Should the agent die before `release`, the gate must end the process unrun: then an
        attempt without a durable `ProcessStarted` has never run, and may be started again."""

    def release(self, task_id: str, attempt: int) -> None:
        """Its `ProcessStarted` is durable: open the gate. Unknown attempts are ignored."""

    async def adopt(self, launch: Launch, handle: str) -> None:
        """Watch a process found alive by `is_alive` after a restart, as the tail of `run`: post `TaskEnded`, return.
        Exit codes of processes that are not our children come from a file that the task's wrapper writes."""

    def stop(self, task_id: str, attempt: int, grace_us: int, reason: str) -> None:
        """SIGTERM to the whole tree, SIGKILL after the grace; returns at once. `TaskEnded.reason` is then `reason`.
        Unknown attempts are ignored; one still behind its gate ends unrun."""

    def is_alive(self, handle: str) -> bool:
        """True also if it ended while no agent watched but left its exit file: `adopt` then reports that at once."""

    def forget(self, task_id: str, attempt: int) -> None:
        """The master has the attempt's end: its folder may go, its log kept within the configured bound."""

    def read_log(self, task_id: str, attempt: int) -> bytes | None:
        """Captured output (stdout and stderr together), bounded, for the data server; None when there is none."""


class ShardStore(Protocol):
    """Immutable files named by their SHA-256, written aside and renamed into place."""

    async def open(self) -> tuple[HeldShard, ...]:
        """What is on disk and still what was verified (size and mtime as recorded; else hashed again). Sorted by id."""

    def path(self, shard_id: str) -> Path | None:
        """Where a held shard lies; None when it is not held."""

    async def remove(self, shard_id: str) -> None:
        """Delete it and post `ShardRemoved`, also when it was not there. Running readers keep their open file."""

    async def watch(self, folder: Path, every_us: int) -> None:
        """Until cancelled: each file appearing under `folder` becomes a held shard named by its relative path (hard
        link where the file system allows, else a copy) and posts `ShardFound`."""


class Fetcher(Protocol):
    async def fetch(self, fetch_id: int, fetch: Fetch) -> None:
        """Get it into the store (at once if it is there): sources in order, Range resume, SHA-256, rate cap.
        Always posts one `FetchEnded`, with a "transfer" sample for bytes that came from an agent; a fetch that runs
        for long is told of in `FetchesProgressed` too."""

    def redirect(self, fetch_id: int, fetch: Fetch) -> None:
        """Leave the present source of a running fetch at once and go on from these; ended ones are ignored."""


class Prober(Protocol):
    async def probe(self, peer: Peer, bytes_max: int) -> None:
        """Echo round trips, then at most `bytes_max` bytes from its `/probe`. Always posts one `LinksMeasured`
        (empty when the peer cannot be reached); bounded in time."""


class Gauge(Protocol):
    def total(self) -> Resources:
        """What the machine has, within the configured limits; GPUs through NVML where there is a driver."""

    def hardware(self) -> str:
        """A short stable token of the hardware class (CPU model, GPU model): work profiles are learned under it."""

    async def speed_milli(self) -> int:
        """Single-core speed, 1000 = the reference core; measured once for this hardware and kept in the data folder."""

    async def measure(self) -> None:
        """Post `Measured`: what tasks may use now, the agent's own running tasks counted as free."""

    def tcp_rtt(self, connection: socket.socket, agent_id: str) -> LinkSample | None:
        """The kernel's smoothed round trip of the MQTT socket, method "tcp_info"; None where TCP_INFO is missing."""


class DataServer(Protocol):
    """Serves `/shards/{sha256}` (Range), `/probe?bytes=N`, `/echo`, `/logs/{task_id}/{attempt}` to peers."""

    def allow_probes(self, n_bytes: int) -> None:
        """From now on so many bytes may go out for peers' probes; `ProbeServed` tells of each. Before: without end."""

    async def start(self) -> str:
        """Bind (port 0: any free one) and return the URL that peers reach, for the birth."""

    async def stop(self) -> None: ...


class Workers:
    """The workers of one agent, for the driver. Built by `agents.workers.build(config, folder, post) -> Workers`, where
    `folder` is the agent's own (`{data_dir}/{agent_id}`, it exists); tests build their own."""

    __slots__ = ("data_server", "executor", "fetcher", "gauge", "prober", "store")

    def __init__(
        self,
        *,
        executor: Executor,
        store: ShardStore,
        fetcher: Fetcher,
        prober: Prober,
        gauge: Gauge,
        data_server: DataServer,
    ) -> None:
        self.executor = executor
        self.store = store
        self.fetcher = fetcher
        self.prober = prober
        self.gauge = gauge
        self.data_server = data_server

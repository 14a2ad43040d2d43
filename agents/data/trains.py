"""The sending end of packet trains: a UDP socket beside the data server's, which sends only what was asked over TCP.

A train goes to the address its promise was made to, once, after a datagram from there has named the promise's nonce:
nobody can have a train sent to somebody else.
"""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from agents.logs import get_logger
from agents.probes.train import parse_hello, send
from policies.model import Record

_log = get_logger("agents.trains")

PROMISE_S = 10.0  # from the answer over TCP to the datagram that asks for the train
_PROMISES_MAX = 64


class _Promise(Record, frozen=True, kw_only=True):
    host: str
    n_packets: int
    until_s: float
    asker: str


class TrainSender:
    """`stream(asker)` marks the way out as in use while a train goes; `spent` is told of its processor seconds."""

    def __init__(
        self,
        stream: Callable[[str], AbstractContextManager[object]],
        spent: Callable[[float], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._spent = spent
        self._socket: socket.socket | None = None
        self._promises: dict[int, _Promise] = {}
        self._sending: set[asyncio.Task[None]] = set()

    def start(self, host: str, port: int) -> None:
        """Without this port trains are not offered, and probes go over TCP."""
        with contextlib.suppress(OSError):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            opened = socket.socket(family, socket.SOCK_DGRAM)
            opened.setblocking(False)
            try:
                opened.bind((host, port))
            except OSError:
                opened.close()
                raise
            self._socket = opened
            asyncio.get_running_loop().add_reader(opened, self._on_hello)

    def stop(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def promise(self, host: str, asker: str, n_packets: int) -> tuple[int, int] | None:
        """Port and nonce for one train to `host`; None where none are offered."""
        if self._socket is None:
            return None
        now_s = time.monotonic()
        self._promises = {nonce: kept for nonce, kept in self._promises.items() if kept.until_s > now_s}
        if len(self._promises) >= _PROMISES_MAX:
            return None
        nonce = secrets.randbits(63)
        self._promises[nonce] = _Promise(host=host, n_packets=n_packets, until_s=now_s + PROMISE_S, asker=asker)
        port: int = self._socket.getsockname()[1]
        return port, nonce

    def _on_hello(self) -> None:
        assert self._socket is not None, "the reader goes with the socket"
        try:
            data, address = self._socket.recvfrom(64)
        except OSError:
            return  # An ICMP error of an earlier train, or nothing after all.
        nonce = parse_hello(data)
        promise = self._promises.get(nonce) if nonce is not None else None
        if nonce is None or promise is None or promise.host != address[0] or promise.until_s < time.monotonic():
            return
        del self._promises[nonce]
        task = asyncio.get_running_loop().create_task(self._send(address, nonce, promise))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, address: tuple[object, ...], nonce: int, promise: _Promise) -> None:
        assert self._socket is not None, "the socket outlives its reader"
        begun_s = time.process_time()
        with self._stream(promise.asker):
            try:
                await asyncio.to_thread(send, self._socket, address, nonce, promise.n_packets)
            except OSError as error:
                _log.info("train_broken", detail=str(error))
        await self._spent(time.process_time() - begun_s)

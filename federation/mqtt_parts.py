"""What an MQTT link is made of that knows no client library: addresses, wills, and the messages in and out."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from federation.mqtt_packets import Message

Protocol = Literal["5", "3.1.1"]

_PROTOCOL_QUERIES: Final[dict[str, Protocol | None]] = {"": None, "protocol=5": "5", "protocol=3.1.1": "3.1.1"}


class Will(NamedTuple):
    """What the broker publishes for us when the connection breaks; `delay_s` needs MQTT 5."""

    topic: str
    payload: bytes
    retain: bool = False
    delay_s: int = 0


class Address(NamedTuple):
    host: str
    port: int
    is_tls: bool
    username: str | None
    password: str | None
    protocol: Protocol | None  # None: find out


class Outgoing(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    retain: bool
    expires_s: int | None
    expires_at: float | None  # monotonic seconds


def parse_url(url: str) -> Address:
    """Read `mqtt[s]://[user[:password]@]host[:port][?protocol=5|3.1.1]`. Raises `ValueError` saying what is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(f"{shown_url(url)!r} is not a broker: write mqtt://host:port or mqtts://host:port")
    if parts.query not in _PROTOCOL_QUERIES:
        raise ValueError(
            f"{shown_url(url)!r} is not a broker: after the question mark stands protocol=5 or protocol=3.1.1"
        )
    is_tls = parts.scheme == "mqtts"
    return Address(
        parts.hostname,
        parts.port or (8883 if is_tls else 1883),
        is_tls,
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
        _PROTOCOL_QUERIES[parts.query],
    )


def shown_url(url: str) -> str:
    """The URL as it may be shown: without its password. Never raises, since what is shown may be wrong."""
    scheme, mark, rest = url.partition("://")
    access, at, place = rest.rpartition("@")
    return f"{scheme}{mark}{access.partition(':')[0]}{at}{place}" if at else url


class Inbox:
    """What one connection received and its owner has not acknowledged, in order of arrival."""

    def __init__(self, first_delivery: int, limit: int, send_ack: Callable[[int], None]) -> None:
        self.next_delivery = first_delivery
        self.arrived = asyncio.Event()
        self._limit = limit
        self._send_ack = send_ack
        self._waiting: deque[Message] = deque()
        self._open: dict[int, int] = {}  # delivery → packet id, handed out and not acknowledged
        self._done: set[int] = set()  # acknowledged, but an earlier one is not

    def add(self, message: Message) -> None:
        self._waiting.append(message)
        self.arrived.set()

    def take(self) -> tuple[Message, int] | None:
        """The oldest message and its delivery (0: QoS 0, nothing to acknowledge)."""
        if not self._waiting:
            self.arrived.clear()
            return None
        message = self._waiting.popleft()
        if message.qos == 0:
            return message, 0
        delivery = self.next_delivery
        self.next_delivery += 1
        self._open[delivery] = message.mid
        return message, delivery

    def ack(self, delivery: int) -> None:
        if delivery not in self._open:
            return  # Of an earlier connection: the broker will deliver it again.
        self._done.add(delivery)
        while self._open and (first := next(iter(self._open))) in self._done:
            self._done.remove(first)
            self._send_ack(self._open.pop(first))

    def held(self) -> int:
        return len(self._waiting) + len(self._open)

    def is_full(self) -> bool:
        return self.held() >= 2 * self._limit

    def has_room(self) -> bool:
        return self.held() <= self._limit

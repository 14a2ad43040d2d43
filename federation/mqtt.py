"""The one place that knows the MQTT client library: a link to a broker that stays up, loses nothing in silence, and
acknowledges a message only when its receiver says so.

`aiomqtt` (asyncio-mqtt under its current name) brings the socket into asyncio; paho underneath speaks the protocol.
What their defaults would cost us, and what is done instead:

- They speak MQTT 3.1.1. We try 5 first, fall back, and remember what the broker took. Some brokers that know only
  3.1.1 never answer a version 5 greeting, which costs one time-out: their URL may say `?protocol=3.1.1`.
- A client object does not survive a broken connection. Every connection gets a new one.
- They start clean, and queued commands are lost. We resume the session, which outlives a day offline.
- They acknowledge QoS 1 before our code runs. Acknowledgement is manual here: `ack(delivery)`, after the journal. MQTT
  wants acknowledgements in order of arrival, so they are released in that order: every delivery must be acked once.
- A full queue drops in silence, an unlimited one grows. Here the socket is not read while too much is held; TCP and
  the receive maximum push back to the broker.
- A publish that the broker refused reports success. On MQTT 5 the PUBACK's reason is read and given to `on_refused`;
  on 3.1.1 a broker cannot say so, and only the application's own acknowledgements tell.
- A half-open link stays silent for many minutes. A watchdog drops it.
- Each message costs paho a tenth of a millisecond. PUBLISH and PUBACK, all that ever comes by the thousand, are read
  and written by `federation.mqtt_stream` on the library's connection (docs/decisions/0006).

Master and agents both use this module; it imports nothing of ours but its own parts.
"""

import asyncio
import contextlib
import random
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Final

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.client import Client as Paho
from paho.mqtt.client import MQTTMessage
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from federation.mqtt_access import LinkTls, make_tls
from federation.mqtt_client import ANSWER_S, NotThisProtocol, Session, break_off, enter, make_client
from federation.mqtt_packets import Message, encode_puback, encode_publish, refusal
from federation.mqtt_parts import Inbox, Outgoing, Protocol, Will, parse_url
from federation.mqtt_stream import Stream

__all__ = ["MqttLink", "Protocol", "Will", "parse_url"]

_BACKOFF_S_MIN: Final = 0.2
# Long enough that a thousand agents do not hammer a broker that is coming back, short enough not to be noticed.
_BACKOFF_S_MAX: Final = 15.0
# A connection that lived this long was a good one: the next attempt starts from the shortest back-off again.
_GOOD_CONNECTION_S: Final = 20.0
# After the broker let a ping interval pass it gets this long before the link counts as dead.
_SILENCE_GRACE_S: Final = 5.0


class MqttLink:
    """A link to the broker at `url`. `await run()` keeps it up until `close()` or cancellation.

    `on_up(protocol)` is awaited on each connection once the subscriptions stand, before its first message;
    `on_message(topic, payload, delivery, retained)` for each message: while it waits, nothing more is read;
    `on_down(detail)` when an established connection ends, and when an attempt fails (so it may come without `on_up`).
    `backoff_s_max` is the longest time between two attempts. `will` is asked before each connection. `session_s` is how
    long the broker keeps the session of an absent client.

    Unsent and unacknowledged messages are dropped when the connection breaks, since the protocol above starts afresh
    with a birth; with `resend` they are kept and sent again on the next connection.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        on_message: Callable[[str, bytes, int, bool], Awaitable[None]],
        on_up: Callable[[Protocol], Awaitable[None]],
        on_down: Callable[[str], Awaitable[None]],
        on_refused: Callable[[str, str], None] | None = None,
        subscriptions: Sequence[str] = (),
        will: Callable[[], Will | None] | None = None,
        session_s: int = 86_400,
        keepalive_s: int = 30,
        backoff_s_max: float = _BACKOFF_S_MAX,
        receive_max: int = 256,
        window: int = 512,
        outbox_max: int = 10_000,
        packet_bytes_max: int = 512 * 1024,
        resend: bool = False,
        tls: LinkTls | None = None,
    ) -> None:
        self.address = parse_url(url)
        self.client_id = client_id
        self.counters = dict.fromkeys(
            ("connections", "received", "published", "dropped", "refused", "expired", "bytes_received", "bytes_sent"), 0
        )
        self._on_message, self._on_up, self._on_down, self._on_refused = on_message, on_up, on_down, on_refused
        self._subscriptions = tuple(subscriptions)
        self._will = will
        if self.address.is_tls and tls is None:
            tls = make_tls()
        self._session = Session(
            self.address, client_id, session_s, keepalive_s, receive_max, packet_bytes_max,
            tls if self.address.is_tls else None,
        )  # fmt: skip
        self._receive_max, self._keepalive_s, self._backoff_s_max = receive_max, keepalive_s, backoff_s_max
        self._window_wanted = self._window = window
        self._outbox_max, self._resend = outbox_max, resend
        self._protocol = self.address.protocol  # What the broker took; None until it took one.
        self._client: aiomqtt.Client | None = None  # Only while the connection stands, …
        self._stream: Stream | None = None  # … and this a little longer: from before the subscriptions on.
        self._inbox = Inbox(1, receive_max, self._send_ack)
        self._outbox: deque[Outgoing] = deque()
        self._in_flight: dict[int, tuple[Outgoing, float]] = {}  # packet id → message and when it was sent
        self._peer_bytes_max: int | None = None
        self._last_mid = 0
        self._closing = asyncio.Event()
        self._drained = asyncio.Event()

    # --- what the owner calls ----------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        return self._client is not None

    @property
    def protocol(self) -> Protocol | None:
        """What the broker speaks, once known."""
        return self._protocol

    @property
    def n_held(self) -> int:
        """Messages received and not yet acknowledged by the owner."""
        return self._inbox.held()

    @property
    def n_unsent(self) -> int:
        """Messages published and not yet acknowledged by the broker (QoS 0: not yet in line for the socket)."""
        return len(self._outbox) + len(self._in_flight)

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expires_s: int | None = None
    ) -> bool:
        """Queue a message; never waits. False: dropped and counted (not connected, outbox full, or too large).

        `expires_s` bounds the wait here and, on MQTT 5, in the broker.
        """
        if (self._client is None and not self._resend) or len(self._outbox) >= self._outbox_max:
            self.counters["dropped"] += 1
            return False
        if self._peer_bytes_max is not None and len(payload) + len(topic) + 64 > self._peer_bytes_max:
            self._refused(topic, f"{len(payload)} bytes exceed the broker's limit of {self._peer_bytes_max}")
            return False
        expires_at = None if expires_s is None else monotonic() + expires_s
        told_s = None if expires_s is None else max(1, expires_s)
        self._outbox.append(Outgoing(topic, payload, qos, retain, told_s, expires_at))
        self._drained.clear()
        self._send_waiting()
        return True

    def ack(self, delivery: int) -> None:
        """The message is safe with its receiver: the broker may forget it. Deliveries of earlier connections and 0
        are ignored."""
        self._inbox.ack(delivery)
        self._read_again()

    def tcp_info_socket(self) -> socket.socket | None:
        """The live TCP socket, for `getsockopt(TCP_INFO)`; None while down."""
        sock = self._client._client.socket() if self._client is not None else None
        return sock if isinstance(sock, socket.socket) else None

    async def close(self, flush_s: float = 2.0) -> None:
        """Leave in good order: send what is queued (waiting at most `flush_s`), then disconnect, so that no will is
        published. `run` returns."""
        if self._client is not None and self.n_unsent:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(flush_s):
                    await self._drained.wait()
        self._closing.set()

    async def run(self) -> None:
        """Connect, serve, and connect again, until `close`. Cancelling breaks the connection: the will is published.
        Exceptions of the callbacks come out here; those of the network never do."""
        backoff_s = _BACKOFF_S_MIN
        while not self._closing.is_set():
            began = monotonic()
            try:
                client = await self._connect()
            except (aiomqtt.MqttError, OSError) as error:
                await self._on_down(f"no connection to {self.address.host}:{self.address.port}: {error}")
            else:
                detail = await self._serve(client)
                if detail is not None:
                    await self._on_down(detail)
            if monotonic() - began > _GOOD_CONNECTION_S:
                backoff_s = _BACKOFF_S_MIN
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(backoff_s / 2, backoff_s)):
                    await self._closing.wait()
            backoff_s = min(2 * backoff_s, self._backoff_s_max)

    # --- one connection ----------------------------------------------------------------------------------------------

    async def _connect(self) -> aiomqtt.Client:
        """A connected, subscribed client. Raises `MqttError`."""
        if self._protocol is not None:
            return await self._connect_as(self._protocol)
        try:
            client = await self._connect_as("5")
        except NotThisProtocol:
            client = await self._connect_as("3.1.1")
            self._protocol = "3.1.1"
            return client
        self._protocol = "5"
        return client

    async def _connect_as(self, protocol: Protocol) -> aiomqtt.Client:
        client = make_client(self._session, protocol, self._will() if self._will is not None else None)
        self._inbox = Inbox(self._inbox.next_delivery, self._receive_max, self._send_ack)
        self._hook(client)
        try:
            async with asyncio.timeout(2 * ANSWER_S):
                await enter(client, self._session, protocol)
                self._stream = Stream(
                    client,
                    is_5=protocol == "5",
                    on_message=self._received,
                    on_puback=self._acknowledged,
                    has_room=lambda: not self._inbox.is_full(),
                    on_writable=self._send_waiting,
                )
                if self._subscriptions:
                    granted = await client.subscribe([(topic, 1) for topic in self._subscriptions])
                    codes = [getattr(code, "value", code) for code in granted]
                    if refused := [t for t, code in zip(self._subscriptions, codes, strict=True) if code >= 0x80]:
                        raise aiomqtt.MqttError(f"the broker refuses the subscription {', '.join(refused)}")
        except BaseException as error:
            self._stream = None
            break_off(client)
            if isinstance(error, TimeoutError):
                raise aiomqtt.MqttError("the broker does not answer") from None
            raise
        return client

    def _hook(self, client: aiomqtt.Client) -> None:
        """Take over the callbacks in which aiomqtt would drop what we need."""
        paho = client._client
        paho.manual_ack_set(True)

        def on_connect(p: Paho, userdata: Any, flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
            granted = getattr(properties, "ReceiveMaximum", 65_535)
            self._window = min(self._window_wanted, granted)
            self._peer_bytes_max = getattr(properties, "MaximumPacketSize", None)
            client._on_connect(p, userdata, flags, reason, properties)

        def on_disconnect(
            p: Paho, userdata: Any, flags: Any, reason: ReasonCode, properties: Properties | None
        ) -> None:
            if not client._connected.done():  # aiomqtt would wait out its whole timeout.
                client._connected.set_exception(MqttConnectError(reason))
            client._on_disconnect(p, userdata, flags, reason, properties)

        def on_message(p: Paho, userdata: Any, message: MQTTMessage) -> None:
            """What a resumed session delivers before the stream is ours."""
            try:
                topic = message.topic
            except UnicodeDecodeError:
                topic = ""
            self._received(Message(topic, bytes(message.payload), message.qos, message.retain, message.mid))

        paho.on_connect, paho.on_disconnect, paho.on_message = on_connect, on_disconnect, on_message

    def _received(self, message: Message) -> None:
        self.counters["received"] += 1
        self.counters["bytes_received"] += len(message.payload)
        self._inbox.add(message)

    def _acknowledged(self, mid: int, code: int) -> None:
        sent = self._in_flight.pop(mid, None)
        if sent is not None and code >= 0x80:
            self._refused(sent[0].topic, refusal(code))
        self._send_waiting()

    def _read_again(self) -> None:
        if self._stream is not None and not self._stream.is_reading and self._inbox.has_room():
            self._stream.read()

    async def _serve(self, client: aiomqtt.Client) -> str | None:
        """Deliver until the connection ends; returns why, or None if we closed it."""
        self._client = client
        self.counters["connections"] += 1
        tasks: set[asyncio.Task[Any]] = {
            asyncio.create_task(self._deliver(), name="mqtt-deliver"),
            asyncio.create_task(self._watch(), name="mqtt-watch"),
            asyncio.create_task(self._closing.wait(), name="mqtt-closing"),
        }
        lost = client._disconnected
        try:
            done, _ = await asyncio.wait({*tasks, lost}, return_when=asyncio.FIRST_COMPLETED)
            if self._closing.is_set():
                if self._stream is not None:
                    self._stream.flush()
                with contextlib.suppress(aiomqtt.MqttError):
                    await client.__aexit__(None, None, None)
                return None
            if lost.done():
                return f"the connection broke: {lost.exception() or 'the broker closed it'}"
            ended = [task.result() for task in done & tasks]  # Raises what a callback raised.
            return str(ended[0])
        finally:
            self._client = self._stream = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            break_off(client)
            self._keep_or_drop_unsent()

    async def _deliver(self) -> str:
        """Hand messages to the owner, one by one, for as long as the connection lives."""
        assert self._protocol is not None
        await self._on_up(self._protocol)
        self._send_waiting()
        while True:
            taken = self._inbox.take()
            if taken is None:
                self._read_again()
                await self._inbox.arrived.wait()
                continue
            message, delivery = taken
            await self._on_message(message.topic, message.payload, delivery, message.retain)
            self._read_again()

    async def _watch(self) -> str:
        """Returns when the link is dead though nobody closed it."""
        silence_s = self._keepalive_s + _SILENCE_GRACE_S
        while True:
            await asyncio.sleep(min(1.0, self._keepalive_s / 4))
            now, stream = monotonic(), self._stream
            if stream is None or not stream.is_reading:
                continue  # We are the ones who do not listen.
            if now - stream.heard_at > silence_s:
                return f"the broker has been silent for {now - stream.heard_at:.0f} s"
            sent_at = next((at for _, at in self._in_flight.values()), now)
            if now - sent_at > 2 * silence_s:
                return f"the broker has not acknowledged a message for {now - sent_at:.0f} s"

    # --- sending -----------------------------------------------------------------------------------------------------

    def _send_waiting(self) -> None:
        stream = self._stream if self._client is not None else None
        while stream is not None and self._outbox and len(self._in_flight) < self._window and not stream.is_clogged:
            message = self._outbox.popleft()
            if message.expires_at is not None and message.expires_at <= monotonic():
                self.counters["expired"] += 1
                continue
            mid = self._free_mid() if message.qos else 0
            packet = encode_publish(
                message.topic, message.payload, qos=message.qos, retain=message.retain, mid=mid,
                expires_s=message.expires_s, is_5=self._protocol == "5",
            )  # fmt: skip
            if mid:
                self._in_flight[mid] = (message, monotonic())
            self.counters["published"] += 1
            self.counters["bytes_sent"] += len(message.payload)
            stream.write(packet)
        if not self._outbox and not self._in_flight:
            self._drained.set()

    def _free_mid(self) -> int:
        """A packet id that nothing in flight has; the library's own subscriptions are over by now."""
        while True:
            self._last_mid = self._last_mid % 65_535 + 1
            if self._last_mid not in self._in_flight:
                return self._last_mid

    def _keep_or_drop_unsent(self) -> None:
        if self._resend:
            unacknowledged = [message for message, _ in self._in_flight.values() if message.qos > 0]
            self._outbox.extendleft(reversed(unacknowledged))
        else:
            self.counters["dropped"] += self.n_unsent
            self._outbox.clear()
        self._in_flight.clear()
        self._drained.set()

    def _send_ack(self, mid: int) -> None:
        if self._client is not None and self._stream is not None:
            self._stream.write(encode_puback(mid))

    def _refused(self, topic: str, reason: str) -> None:
        self.counters["refused"] += 1
        if self._on_refused is not None:
            self._on_refused(topic, reason)

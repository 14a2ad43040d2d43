"""The bytes of one MQTT connection, once the client library has made it: read in bulk and written once a turn of the
loop. PUBLISH and PUBACK are taken here (`federation.mqtt_packets`); every other packet is handed to the library, and
the library's own packets go out between ours.

Reading can be stopped, at any packet: then TCP and the receive maximum push back to the broker.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, cast

import aiomqtt
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import MQTTErrorCode

from federation.mqtt_packets import PUBACK, PUBLISH, MalformedError, Message, Packets, decode_puback, decode_publish

_READ_BYTES: Final = 65_536
_WRITE_BYTES: Final = 65_536


class Stream:
    def __init__(
        self,
        client: aiomqtt.Client,
        *,
        is_5: bool,
        on_message: Callable[[Message], None],
        on_puback: Callable[[int, int], None],
        has_room: Callable[[], bool],
        on_writable: Callable[[], None],
    ) -> None:
        """`on_puback(mid, reason code)`. `has_room` is asked before each packet: False stops the reading.
        `on_writable` is called when a clogged stream has written everything."""
        paho = client._client
        sock = paho.socket()
        if sock is None:
            raise aiomqtt.MqttError("the connection closed at once")
        self.heard_at = monotonic()
        self.is_reading = False
        self._client, self._paho, self._is_5 = client, paho, is_5
        self._sock = cast(socket.socket, sock)
        self._loop = asyncio.get_running_loop()
        self._on_message, self._on_puback, self._has_room = on_message, on_puback, has_room
        self._on_writable = on_writable
        self._packets = Packets()
        self._unwritten = bytearray()
        self._is_write_due = self._is_write_watched = False
        paho.on_socket_register_write, paho.on_socket_unregister_write = self._register, self._unregister
        self._loop.remove_reader(self._sock)  # aiomqtt's own
        self.read()

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Begin to read, or go on."""
        if self.is_reading or self._paho.socket() is None:
            return
        self.is_reading = True
        self.heard_at = monotonic()
        self._loop.add_reader(self._sock, self._readable)
        self._guarded(self._take_packets)  # Of what was read before.

    def _stop(self) -> None:
        if self.is_reading:
            self.is_reading = False
            self._loop.remove_reader(self._sock)

    def _readable(self) -> None:
        self.heard_at = monotonic()
        self._guarded(self._read_some)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            if not self._client._disconnected.done():
                self._client._disconnected.set_exception(error)

    def _read_some(self) -> None:
        paho: Any = self._paho
        if paho._in_packet["command"]:  # The library had begun to read this one.
            paho.loop_read()
            return
        while self.is_reading and paho.socket() is not None:
            try:
                data = self._sock.recv(_READ_BYTES)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
                return
            except ssl.SSLWantWriteError:
                self._register(paho, None, self._sock)
                return
            except OSError:
                data = b""
            if not data:
                self._stop()
                paho._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
                return
            paho._last_bytes_received = monotonic()  # Its keep-alive looks at this.
            self._packets.feed(data)
            self._take_packets()
            if not (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
                return  # Decrypted bytes do not make a socket readable again: only those are asked for here.

    def _take_packets(self) -> None:
        while self.is_reading:
            if not self._has_room():
                self._stop()
                return
            packet = self._packets.take()
            if packet is None:
                return
            first, body = packet
            kind = first & 0xF0
            if kind == PUBLISH:
                self._on_message(decode_publish(first, body, is_5=self._is_5))
            elif kind == PUBACK:
                self._on_puback(*decode_puback(body))
            else:
                self._hand_over(first, body)

    def _hand_over(self, first: int, body: bytes) -> None:
        paho: Any = self._paho
        paho._in_packet |= {
            "command": first, "have_remaining": 1, "remaining_length": len(body), "packet": bytearray(body),
            "to_process": 0,
        }  # fmt: skip
        if paho._packet_read():
            raise MalformedError(f"the library cannot read a packet of kind {first >> 4}")

    # --- writing -----------------------------------------------------------------------------------------------------

    @property
    def is_clogged(self) -> bool:
        """The socket takes no more for now."""
        return self._is_write_watched

    def write(self, packet: bytes) -> None:
        """Send, at the end of this turn of the loop."""
        self._unwritten += packet
        if len(self._unwritten) >= _WRITE_BYTES:
            self._write()
        elif not self._is_write_due:
            self._is_write_due = True
            self._loop.call_soon(self._write)

    def flush(self) -> None:
        """Put what is to be written in line, before whatever the library writes next."""
        if self._unwritten:
            data, self._unwritten = bytes(self._unwritten), bytearray()
            paho: Any = self._paho
            paho._packet_queue(PUBLISH, data, 0, 1)
            # Its keep-alive looks at this, and its own writing leaves it as it is: it would send a ping all the same.
            paho._last_msg_out = monotonic()

    def _write(self) -> None:
        self.flush()
        self._is_write_due = False
        with contextlib.suppress(OSError):  # The reader is told of a broken connection too.
            self._paho.loop_write()
        if self._paho.socket() is not None and self._paho.want_write() and not self._is_write_watched:
            self._is_write_watched = True
            self._loop.add_writer(self._sock, self._write)

    def _register(self, paho: Paho, userdata: Any, sock: Any) -> None:
        """The library has something to write. (aiomqtt watches the socket for each packet and wakes the loop through a
        pipe, since it may be called from its thread.)"""
        if not self._is_write_due:
            self._is_write_due = True
            self._loop.call_soon(self._write)

    def _unregister(self, paho: Paho, userdata: Any, sock: Any) -> None:
        if self._is_write_watched:
            self._is_write_watched = False
            self._loop.remove_writer(sock)
            self._loop.call_soon(self._on_writable)

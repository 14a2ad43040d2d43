"""The two MQTT packets that come by the thousand, PUBLISH and PUBACK, between bytes and values.

The client library takes 80 to 180 µs of the interpreter's time for each of them (a table of forty properties, a table
of reason codes and two locks a packet, a system call or three; docs/performance.md); these take a few. Everything else
of the protocol is the library's. Layouts: MQTT 5.0 sections 2.1, 3.3 and 3.4, MQTT 3.1.1 the same.
"""

from typing import Final, NamedTuple

PUBLISH: Final = 0x30
PUBACK: Final = 0x40
_PROPERTY_EXPIRY: Final = b"\x05\x02"  # five bytes of properties, of which this is the one called 2
_COMPACT_BYTES: Final = 65_536
_REFUSALS: Final = {
    0x83: "Implementation specific error", 0x87: "Not authorized", 0x90: "Topic name invalid",
    0x91: "Packet identifier in use", 0x97: "Quota exceeded", 0x99: "Payload format invalid",
}  # fmt: skip


class MalformedError(Exception):
    """What the broker sent is no MQTT: nothing that follows can be read either."""


class Message(NamedTuple):
    """A PUBLISH that arrived. `mid` is its packet id, 0 at QoS 0."""

    topic: str  # "" when it is not UTF-8
    payload: bytes
    qos: int
    retain: bool
    mid: int


class Packets:
    """Cuts a stream of bytes into packets: the first byte of each, and what follows its length."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._begin = 0

    def feed(self, data: bytes) -> None:
        if self._begin >= _COMPACT_BYTES or self._begin == len(self._data):
            del self._data[: self._begin]
            self._begin = 0
        self._data += data

    def take(self) -> tuple[int, bytes] | None:
        """The next packet, if it is whole. Raises `MalformedError`."""
        data, at = self._data, self._begin + 1
        n_bytes = shift = 0
        while True:
            if at >= len(data):
                return None
            digit = data[at]
            at += 1
            n_bytes |= (digit & 127) << shift
            shift += 7
            if digit < 128:
                break
            if shift == 28:
                raise MalformedError("a packet's length takes more than four bytes")
        end = at + n_bytes
        if end > len(data):
            return None
        first, self._begin = data[self._begin], end
        return first, bytes(data[at:end])


def decode_publish(first: int, body: bytes, *, is_5: bool) -> Message:
    """Raises `MalformedError`; QoS 2, which nobody asked for, is no QoS here."""
    try:
        at = 2 + (body[0] << 8 | body[1])
        topic, qos, mid = body[2:at], first >> 1 & 3, 0
        if qos:
            mid = body[at] << 8 | body[at + 1]
            at += 2
        if is_5:
            n_bytes = shift = 0
            while True:
                digit = body[at]
                at += 1
                n_bytes |= (digit & 127) << shift
                shift += 7
                if digit < 128:
                    break
            at += n_bytes
    except IndexError:
        raise MalformedError("a PUBLISH ends before its payload") from None
    if at > len(body) or qos > 1 or (qos and not mid):
        raise MalformedError("a PUBLISH has a length, a QoS or a packet id that cannot be")
    try:
        name = topic.decode()
    except UnicodeDecodeError:
        name = ""
    return Message(name, body[at:], qos, bool(first & 1), mid)


def decode_puback(body: bytes) -> tuple[int, int]:
    """Packet id and reason code (0 where none is said; from 0x80 on: refused). Raises `MalformedError`."""
    if len(body) < 2:
        raise MalformedError("a PUBACK has no packet id")
    return body[0] << 8 | body[1], body[2] if len(body) > 2 else 0


def refusal(code: int) -> str:
    """What a PUBACK's reason code from 0x80 on means (MQTT 5.0 section 3.4.2.1), for people."""
    return _REFUSALS.get(code, f"Unspecified error (0x{code:02x})")


def encode_publish(
    topic: str, payload: bytes, *, qos: int, retain: bool, mid: int, expires_s: int | None, is_5: bool
) -> bytes:
    """`mid` and `expires_s` count where there is room for them: from QoS 1 on, and in MQTT 5. Time O(payload)."""
    name = topic.encode()
    parts = [len(name).to_bytes(2, "big"), name]
    if qos:
        parts.append(mid.to_bytes(2, "big"))
    if is_5:
        parts.append(b"\0" if expires_s is None else _PROPERTY_EXPIRY + expires_s.to_bytes(4, "big"))
    parts.append(payload)
    body = b"".join(parts)
    return bytes((PUBLISH | qos << 1 | retain,)) + _length(len(body)) + body


def encode_puback(mid: int) -> bytes:
    return b"\x40\x02" + mid.to_bytes(2, "big")


def _length(n_bytes: int) -> bytes:
    made = bytearray()
    while n_bytes > 127:
        made.append(n_bytes & 127 | 128)
        n_bytes >>= 7
    made.append(n_bytes)
    return bytes(made)

"""RecordIO, the framing of event streams: the length of a record in ASCII digits, a line feed, the record's bytes.

Chunks of the HTTP transfer have nothing to do with records: proxies cut them as they like.
"""

from typing import Final

from federation.errors import PeerError

RECORD_BYTES_MAX: Final = 64 * 2**20
_DIGITS_MAX: Final = 20  # of an unsigned 64-bit integer


def frame(record: bytes) -> bytes:
    return b"%d\n%s" % (len(record), record)


class Unframer:
    """Bytes in, whole records out. After a `PeerError` it is of no more use."""

    def __init__(self, record_bytes_max: int = RECORD_BYTES_MAX) -> None:
        self._record_bytes_max = record_bytes_max
        self._buffer = bytearray()
        self._wanted: int | None = None  # the size of the record that is coming

    @property
    def is_between(self) -> bool:
        """Whether the stream may end here: no record is cut off."""
        return self._wanted is None and not self._buffer

    def feed(self, data: bytes) -> list[bytes]:
        """Raises `PeerError` ("malformed", "oversized")."""
        self._buffer += data
        records: list[bytes] = []
        while True:
            if self._wanted is None:
                end = self._buffer.find(b"\n", 0, _DIGITS_MAX + 1)
                if end < 0:
                    if len(self._buffer) > _DIGITS_MAX:
                        raise PeerError("malformed", f"no record begins with {bytes(self._buffer[:24])!r}")
                    return records
                self._wanted = self._size(bytes(self._buffer[:end]))
                del self._buffer[: end + 1]
            if len(self._buffer) < self._wanted:
                return records
            records.append(bytes(self._buffer[: self._wanted]))
            del self._buffer[: self._wanted]
            self._wanted = None

    def _size(self, digits: bytes) -> int:
        if not digits.isdigit():
            raise PeerError("malformed", f"{digits!r} is not the length of a record")
        size = int(digits)
        if size > self._record_bytes_max:
            raise PeerError("oversized", f"a record of {size} bytes exceeds {self._record_bytes_max}")
        return size

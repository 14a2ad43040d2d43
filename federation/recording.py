"""A recording: every event a live master was given, with its time, from a known state. Replayed, it is the same run.

The file is a stream of MessagePack maps: one header, then one map an event. `offerflow wire dump` reads it without our
types; `read` gives it back typed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgpack  # type: ignore[import-untyped]
import msgspec

from federation.config import MasterConfig
from federation.errors import ConfigError
from federation.events import Event
from policies.model import Record

FORMAT: Final = "offerflow/recording/1"
_READ_BYTES: Final = 2**20


class Header(Record, frozen=True, kw_only=True, omit_defaults=False):
    """What the replay starts from. `state` is the durable state in MessagePack (None: a new master)."""

    format: str
    version: str
    policy: str
    config: MasterConfig
    state: bytes | None


class Recorded(Record, frozen=True, kw_only=True):
    """One call of the core: `handle(event, at_us)`."""

    at_us: int
    event: Event


class Recorder:
    """Appends to a new file. The disk may fill up: then recording ends (`failure` says why) and the master goes on."""

    def __init__(self, path: Path, header: Header, bytes_max: int) -> None:
        self.failure = ""
        self._left = bytes_max
        self._encoder = msgspec.msgpack.Encoder()
        try:
            self._file = path.open("xb")
            path.chmod(0o600)  # Jobs may carry secrets in their environment.
        except OSError as error:
            raise ConfigError(f"the recording {path} cannot be made ({error.strerror}): name another file") from None
        self._write(self._encoder.encode(header))

    def add(self, event: Event, at_us: int) -> None:
        self._write(self._encoder.encode(Recorded(at_us=at_us, event=event)))

    def flush(self) -> None:
        """Give what was added to the kernel: it survives this process, not a power cut."""
        if not self.failure:
            try:
                self._file.flush()
            except OSError as error:
                self._end(str(error))

    def close(self) -> None:
        self.flush()
        if not self.failure:
            self._file.close()

    def _write(self, body: bytes) -> None:
        if self.failure:
            return
        self._left -= len(body)
        if self._left < 0:
            self._end("it has reached its size limit")
            return
        try:
            self._file.write(body)
        except OSError as error:
            self._end(str(error))

    def _end(self, why: str) -> None:
        self.failure = why
        try:
            self._file.close()
        except OSError:
            self.failure = f"{why}; its last events are missing"


def read(path: Path) -> tuple[Header, Iterator[Recorded]]:
    """The header and the events. Raises `ConfigError` if this is no recording of our format; one that was cut off in
    the middle of an event ends before it."""
    values = _values(path)
    try:
        header = msgspec.msgpack.decode(next(values), type=Header)
    except (StopIteration, msgspec.DecodeError):
        raise ConfigError(f"{path} is not a recording of this version ({FORMAT})") from None
    if header.format != FORMAT:
        raise ConfigError(f"{path} has format {header.format!r}; this version reads {FORMAT}")
    decoder = msgspec.msgpack.Decoder(Recorded)
    return header, (decoder.decode(value) for value in values)


def _values(path: Path) -> Iterator[bytes]:
    """The bytes of each whole value of the stream. (msgspec decodes one value and cannot say where it ends.)"""
    try:
        with path.open("rb") as file:
            unpacker = msgpack.Unpacker(raw=True, max_buffer_size=0, strict_map_key=False)
            held, begin = b"", 0  # bytes not yet given out, and where in the stream they begin
            while chunk := file.read(_READ_BYTES):
                held += chunk
                unpacker.feed(chunk)
                start = begin
                while True:
                    try:
                        unpacker.skip()
                    except msgpack.OutOfData:
                        break
                    end = unpacker.tell()
                    yield held[start - begin : end - begin]
                    start = end
                held, begin = held[start - begin :], start
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (msgpack.UnpackException, ValueError) as error:
        raise ConfigError(f"{path} is not MessagePack: {error}") from None

"""The body of a snapshot: the core's durable state, and when it was taken; the clock must not fall below that."""

import msgspec

from federation.durable import DurableState
from federation.errors import StorageError
from policies.model import Record


class Saved(Record, frozen=True, kw_only=True):
    at_us: int
    durable: DurableState


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Saved)


def encode_saved(at_us: int, durable: DurableState) -> bytes:
    return _encoder.encode(Saved(at_us=at_us, durable=durable))


def decode_saved(body: bytes) -> Saved:
    """Raises `StorageError` if this version cannot read it; its bytes are known to be whole."""
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise StorageError(f"this version cannot read the journal's snapshot ({error}): start the one before") from None

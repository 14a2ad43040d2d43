"""What an agent on a metered line may spend: a month's allowance of bytes, refilled evenly and kept across restarts.

A token bucket that a tenth of the month's bytes fits in and the other nine tenths flow into over 30 days: so within any
30 days no more than the month's bytes are spent on what waits for it. Probes wait, asked and served ones alike. What
the protocol needs is counted but never held back: an agent that falls silent is lost.
"""

from typing import Final

from agents.config import AgentConfig
from agents.facts import BytesMetered
from agents.session import Batch
from agents.state import State
from federation.wire import LinkSample

MONTH_US: Final = 30 * 86_400_000_000
_BUCKET_PART: Final = 10
_RESERVED_PART: Final = 4  # of the bucket stays for the protocol: a day of bad radio is 100 reconnections
# Written to the journal each time the balance has moved by this much: with 300 KB a day, five times a day.
_STEP_BYTES: Final = 65_536
_GRAIN_BYTES: Final = 32_768  # of what peers are told to be allowed

# Estimates of what is around our bytes, on the wire: IPv4 and TCP with timestamps take 52 in each segment.
_SEGMENT: Final = 52
_SEGMENT_BYTES: Final = 1_400
# A message is a PUBLISH and its PUBACK, each in a segment of its own, and one bare acknowledgement. Of MQTT: both fixed
# headers, the topic, packet id, properties.
_MESSAGE: Final = 3 * _SEGMENT + 34
_MESSAGE_TLS: Final = 2 * 22  # a TLS 1.3 record: five of header, one of type, sixteen of tag
_CONNECTION: Final = 1_300  # TCP's beginning and end, CONNECT with the will, SUBSCRIBE
_CONNECTION_TLS: Final = 6_000  # a chain of two certificates, and one of our own
ECHO_BYTES: Final = 4_000  # a turn of echoes on a fresh connection, both ways
_PROBE_MILLI: Final = 1_100  # headers and acknowledgements around a probe's bytes


class Meter:
    """Of a metered agent; one that is not metered allows everything and counts nothing."""

    def __init__(self, config: AgentConfig, state: State) -> None:
        self._config = config
        self._state = state
        self._bucket_bytes = config.metered_bytes_per_month // _BUCKET_PART
        self._rate_bytes = config.metered_bytes_per_month - self._bucket_bytes  # a month
        self._balance_bytes = self._bucket_bytes
        self._refilled_us: int | None = None  # None: not started
        self._control_bytes = 0  # as last seen
        self.wire_bytes = 0  # since boot
        self.allowed_bytes: int | None = None if not config.metered else 0  # what peers' probes may take of us

    @property
    def is_on(self) -> bool:
        return self._config.metered

    def on_started(self, now_us: int) -> None:
        """Go on where the journal ends. A clock that went backwards brings nothing."""
        self._refilled_us = now_us
        kept = self._state.metered
        if kept is not None:
            self._balance_bytes = min(self._bucket_bytes, kept.balance_bytes)
            self._refilled_us = min(now_us, kept.at_us)
            self._refill(now_us)
            self._refilled_us = now_us

    def on_control(self, payload_bytes: int, n_messages: int, n_connections: int, now_us: int) -> None:
        """Counts since boot, both ways."""
        if not self.is_on:
            return
        is_tls = self._config.broker.startswith("mqtts")
        control_bytes = (
            payload_bytes + payload_bytes // _SEGMENT_BYTES * _SEGMENT
            + n_messages * (_MESSAGE + len(self._config.agent_id) + _MESSAGE_TLS * is_tls)
            + n_connections * (_CONNECTION + _CONNECTION_TLS * is_tls)
        )  # fmt: skip
        self._spend(control_bytes - self._control_bytes)
        self._control_bytes = control_bytes
        self._refill(now_us)

    def on_probed(self, taken_bytes: int, samples: tuple[LinkSample, ...]) -> None:
        """A probe has ended for which `taken_bytes` were taken: what it left comes back."""
        if self.is_on:
            spent_bytes = ECHO_BYTES + sum(on_wire(sample.bytes) for sample in samples if sample.method == "probe")
            self._balance_bytes += taken_bytes
            self._spend(spent_bytes)

    def on_served(self, n_bytes: int) -> None:
        """A peer's probe of us."""
        if self.is_on:
            self._spend(on_wire(n_bytes))

    def left_bytes(self) -> int:
        """What probes may spend now."""
        return self._balance_bytes - self._bucket_bytes // _RESERVED_PART

    def due_us(self, n_bytes: int) -> int:
        """When so much may be spent; the past for at once."""
        assert self._refilled_us is not None, "nothing is spent before the start"
        missing_bytes = n_bytes - self.left_bytes()
        return self._refilled_us + max(0, -(-missing_bytes * MONTH_US // self._rate_bytes))

    def take(self, batch: Batch, n_bytes: int) -> None:
        """Set so much aside for a probe that begins, durably: one that a crash cuts short was paid for."""
        self._balance_bytes -= n_bytes
        self._persist(batch)

    def flush(self, batch: Batch) -> bool:
        """Keep what changed. True where peers are allowed another amount than before."""
        if not self.is_on or self._refilled_us is None:
            return False
        kept = self._state.metered
        if abs(self._balance_bytes - (self._bucket_bytes if kept is None else kept.balance_bytes)) >= _STEP_BYTES:
            self._persist(batch)
        before, self.allowed_bytes = self.allowed_bytes, max(0, self.left_bytes() // _GRAIN_BYTES * _GRAIN_BYTES)
        return self.allowed_bytes != before

    def _persist(self, batch: Batch) -> None:
        batch.persist(BytesMetered(at_us=batch.now_us, balance_bytes=self._balance_bytes))

    def _spend(self, n_bytes: int) -> None:
        self.wire_bytes += n_bytes
        self._balance_bytes -= n_bytes

    def _refill(self, now_us: int) -> None:
        """Whole bytes only; the time that is left over counts the next time."""
        assert self._refilled_us is not None, "nothing is counted before the start"
        refill_bytes = max(0, now_us - self._refilled_us) * self._rate_bytes // MONTH_US
        if refill_bytes:
            self._balance_bytes = min(self._bucket_bytes, self._balance_bytes + refill_bytes)
            self._refilled_us += -(-refill_bytes * MONTH_US // self._rate_bytes)


def on_wire(n_bytes: int) -> int:
    """A probe's bytes with what is around them."""
    return n_bytes * _PROBE_MILLI // 1000

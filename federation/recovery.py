"""A master out of its journal: at a start, and after handling an event raised.

A core that raised may be half changed, so it is thrown away. Nothing of the batch it was handling has been committed or
done; what the journal holds is whole. So a fault is what a restart is, without the process ending: snapshot and tail, a
new term, and agents that tell everything anew. The event itself is set aside (`federation.set_aside`).
"""

from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from federation.config import LiveConfig
from federation.durable import DurableState
from federation.errors import ConfigError
from federation.events import Event
from federation.facts import Fact
from federation.journal import Journal
from federation.master import Master
from federation.recording import FORMAT, Header, Recorder
from federation.saved import decode_saved, encode_saved
from federation.set_aside import VERSION

log = structlog.get_logger("offerflow.master")

# So many faults in so long, and the process ends: what fails without end is better seen by who supervises it.
FAULTS_MAX: Final = 8
WITHIN_US: Final = 600_000_000
_COPIES_MAX: Final = 32
_COPY_BYTES_MAX: Final = 256 * 2**20


class Recovered(NamedTuple):
    master: Master
    at_us: int  # of the newest thing it knows; the clock must not fall below


class FaultError(Exception):
    """Handling the event at `place` of a batch raised `error`."""

    def __init__(self, place: int, error: Exception) -> None:
        super().__init__(str(error))
        self.place, self.error = place, error


class Faults:
    """When they were."""

    def __init__(self) -> None:
        self._at_us: deque[int] = deque(maxlen=FAULTS_MAX)

    def is_too_often(self, now_us: int) -> bool:
        """Take note of one more."""
        self._at_us.append(now_us)
        return len(self._at_us) == FAULTS_MAX and now_us - self._at_us[0] <= WITHIN_US


def recover(config: LiveConfig, journal: Journal[Fact], make: type[Master] = Master) -> Recovered:
    """The master that the journal's facts make; blocks. Raises `StorageError`."""
    state, facts, seq = journal.recover()
    at_us = 0
    if state is None:
        master = make(config.master, config.policy)
    else:
        saved = decode_saved(state)
        at_us, master = saved.at_us, make.restore(config.master, saved.durable, config.policy)
    for fact in facts:
        master.apply(fact)
    log.info("recovered", facts=len(facts), last_seq=seq, snapshot=state is not None)
    return Recovered(master, max(at_us, facts[-1].at_us if facts else 0))


def start_recording(config: LiveConfig, master: Master, now_us: int) -> Recorder | None:
    """What is to take every event from now on, if the configuration wants it. Raises `ConfigError`."""
    if not config.recording:
        return None
    header = _header(master, master.durable(), now_us)
    return Recorder(Path(config.recording).expanduser(), header, config.recording_bytes_max)


def _header(master: Master, durable: DurableState, at_us: int) -> Header:
    return Header(
        format=FORMAT,
        version=VERSION,
        policy=master.policy_name,
        config=master.config,
        state=encode_saved(at_us, durable),
    )


def keep_copy(folder: Path, master: Master, event: Event, at_us: int) -> None:
    """Write the event, after the durable state it met, as a recording of one event: what a report of the bug needs.
    Blocks; a disk that will not have it is no reason to fail."""
    durable = msgspec.structs.replace(master.durable(), set_aside=())  # Replayed, it is not to be passed over.
    header = _header(master, durable, at_us)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in sorted(folder.iterdir())[: 1 - _COPIES_MAX]:
            old.unlink()
        copy = Recorder(folder / f"{at_us}.recording", header, _COPY_BYTES_MAX)
    except (OSError, ConfigError) as error:
        log.warning("the event that was set aside could not be kept", reason=str(error))
        return
    copy.add(event, at_us)
    copy.close()

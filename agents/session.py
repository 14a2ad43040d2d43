"""One life of the agent on the wire: which connection it is, its sequence numbers, births, terms and welcome."""

import zlib
from collections.abc import Callable
from typing import Any

from agents.commands import Command, Persist, Publish
from agents.config import AgentConfig
from agents.facts import Fact, TermSeen
from agents.state import State
from federation.wire import AgentMessage, Death, RebirthRequest, Welcome, encode

# Births are repeated until welcomed: a broker may be up long before a master is.
_BIRTH_RETRY_MIN_US = 2_000_000
_BIRTH_RETRY_MAX_US = 60_000_000
_BIRTH_RETRY_METERED_US = 900_000_000  # A master that comes back is announced; this is for what nobody thought of.
# A new master term is announced to every agent at once; their births spread over this. 5,000 births then come at
# 2,500 a second, and a lone agent waits less than a person notices.
_NEW_TERM_SPREAD_US = 2_000_000
# A fresh connection sends its birth before the retained announcement arrives: its welcome is given this long.
_WELCOME_GRACE_US = 200_000


class Batch:
    """The commands of one `handle` call. A persisted fact is applied at once, so that later steps see it."""

    def __init__(self, state: State, now_us: int) -> None:
        self._state = state
        self.now_us = now_us
        self.commands: list[Command] = []

    def persist(self, fact: Fact) -> None:
        self._state.apply(fact)
        self.commands.append(Persist(fact=fact))

    def do(self, command: Command) -> None:
        self.commands.append(command)


def spread_us(agent_id: str, boot: int, within_us: int) -> int:
    """A delay in [0, within_us] that differs from agent to agent and boot to boot, without a random source."""
    return zlib.crc32(f"{agent_id}/{boot}".encode()) % (within_us + 1)


def earlier(a_us: int | None, b_us: int | None) -> int | None:
    """The sooner of two moments; None is never. Asked at every event, so without a list of them."""
    if a_us is None or b_us is None:
        return b_us if a_us is None else a_us
    return a_us if a_us < b_us else b_us


class Session:
    def __init__(self, config: AgentConfig, state: State) -> None:
        self._config = config
        self._state = state
        self.conn = 0
        self.seq = 0
        self.connected = False
        self.welcome: Welcome | None = None  # of this connection; None: the master does not know us (yet)
        self.master_online = True  # until the retained announcement says otherwise
        self.birth_due_us: int | None = None
        self.bytes_sent = 0
        self.n_sent = 0  # of this boot
        self._birth_retry_max_us = _BIRTH_RETRY_METERED_US if config.metered else _BIRTH_RETRY_MAX_US
        self._birth_retry_us = _BIRTH_RETRY_MIN_US

    @property
    def is_welcome(self) -> bool:
        return self.connected and self.welcome is not None and self.master_online

    def will(self) -> Death:
        """What the broker is to say for us if the next connection breaks."""
        return Death(agent_id=self._config.agent_id, boot=self._state.boot, conn=self.conn + 1, reason="will")

    def publish(self, batch: Batch, make: Callable[..., AgentMessage], **fields: Any) -> None:
        """Stamp, count and send one message. Without a connection nothing happens."""
        if not self.connected:
            return
        message = make(agent_id=self._config.agent_id, boot=self._state.boot, conn=self.conn, seq=self.seq, **fields)
        self.seq += 1
        self.bytes_sent += len(encode(message))
        self.n_sent += 1
        batch.do(Publish(message=message))

    # --- what happens to it ------------------------------------------------------------------------------------------

    def on_connected(self, now_us: int) -> None:
        self.conn += 1
        self.seq = 0
        self.connected = True
        self.welcome = None
        self.master_online = True
        self.birth_due_us = now_us
        self._birth_retry_us = _BIRTH_RETRY_MIN_US

    def on_disconnected(self) -> None:
        self.connected = False
        self.welcome = None
        self.birth_due_us = None

    def on_birth_sent(self, now_us: int) -> None:
        """Again later, unless welcomed before."""
        self.birth_due_us = now_us + self._birth_retry_us
        self._birth_retry_us = min(2 * self._birth_retry_us, self._birth_retry_max_us)

    def on_welcome(self, welcome: Welcome) -> bool:
        """Whether it answers a birth of this connection."""
        if (welcome.boot, welcome.conn) != (self._state.boot, self.conn) or not self.connected:
            return False
        self.welcome = welcome
        self.master_online = True
        self.birth_due_us = None
        self._birth_retry_us = _BIRTH_RETRY_MIN_US
        return True

    def on_rebirth_request(self, request: RebirthRequest, now_us: int) -> None:
        self._birth_by(now_us + spread_us(self._config.agent_id, self._state.boot, request.spread_us))

    def on_master_state(self, term: int, online: bool, now_us: int) -> None:
        self.master_online = online
        if online and (self.welcome is None or self.welcome.term != term):
            self.welcome = None  # Given by a master that is no more.
            delay_us = spread_us(self._config.agent_id, self._state.boot, _NEW_TERM_SPREAD_US)
            self._birth_by(now_us + _WELCOME_GRACE_US + delay_us)

    def admits(self, batch: Batch, term: int) -> bool:
        """Refuse lower terms, remember higher ones."""
        if term > self._state.term:
            batch.persist(TermSeen(term=term))
        return term >= self._state.term

    def _birth_by(self, at_us: int) -> None:
        if self.connected and (self.birth_due_us is None or at_us < self.birth_due_us):
            self.birth_due_us = at_us

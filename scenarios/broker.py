"""The simulated broker and its connections: what it carries in order, loses and holds back; when a client is gone.

One session an agent. While no bytes pass between an agent and the broker (which stands at the master's site), messages
wait as in TCP's buffers; past the keep-alive the session ends, what waited is lost, the agent's will is published and
the agent connects again when it can. Correctness never depends on what a broker remembers, so it remembers nothing
but the retained announcement.
"""

import random
import zlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

from agents import events as agent_events
from federation import events as master_events
from federation.errors import PeerError
from federation.wire import (
    AgentMessage,
    Death,
    MasterMessage,
    MasterState,
    decode_agent_message,
    decode_master_message,
    encode,
)
from scenarios.fabric import Fabric
from scenarios.faults import KillPoint, MessageFault
from scenarios.streams import stream

KEEPALIVE_US = 45_000_000  # The client pings each 30 s; brokers allow one and a half of that (MQTT 3.1.1, §3.1.2.10).
RECONNECT_SPREAD_US = 5_000_000  # Clients back off differently; none longer than this once the way is open again.
REORDER_US_MAX = 500_000
PPM = 1_000_000


class Delivery(NamedTuple):
    """A message under way to an agent over one connection; void when that connection is gone."""

    event: agent_events.Event
    life: int


class Client(Protocol):
    """What the broker needs to know of an agent's process."""

    def will(self) -> Death: ...
    def connected(self, now_us: int) -> None: ...
    def disconnected(self, now_us: int) -> None: ...


class Timetable(Protocol):
    """The player's queue: events for the master (target "") or an agent, and calls of our own."""

    def schedule(self, at_us: int, target: str, event: object) -> None: ...
    def call(self, at_us: int, action: Callable[[int], None]) -> None: ...


class _Session:
    __slots__ = (
        "client",
        "connected",
        "held_in",
        "held_out",
        "inbound_us",
        "life",
        "outbound_us",
        "stalled",
        "stuck",
        "will",
    )

    def __init__(self, client: Client) -> None:
        self.client: Client | None = client  # None: no process wants a connection
        self.connected = False
        self.stalled = False
        self.life = 0
        self.will: Death | None = None
        self.inbound_us = 0  # A connection keeps its order, whatever the jitter.
        self.outbound_us = 0
        self.stuck = 0  # counts the times that it got stuck; a check of an earlier time is void
        self.held_in: list[agent_events.Event] = []
        self.held_out: list[master_events.Event] = []


class Broker:
    def __init__(self, seed: int, fabric: Fabric, timetable: Timetable) -> None:
        self.up = True
        self.harms: list[MessageFault] = []
        self.n_harmed = 0
        self.n_holding_down = 0  # faults that keep its process from running
        self._doom: tuple[KillPoint, Callable[[int], None]] | None = None
        self._fabric = fabric
        self._timetable = timetable
        self._sessions: dict[str, _Session] = {}
        self._retained: MasterState | None = None
        self._chance: random.Random = stream(seed, "messages")

    # --- processes come and go ---------------------------------------------------------------------------------------

    def arrive(self, agent_id: str, client: Client, now_us: int) -> None:
        """A process wants a connection, now and whenever it loses one."""
        session = self._sessions.get(agent_id)
        if session is None:
            session = self._sessions[agent_id] = _Session(client)
        session.client = None
        self._end(agent_id, now_us)  # A new connection with an id takes over from the old, whose will is published.
        session.client = client
        self._timetable.call(now_us, lambda at_us: self._connect(agent_id, at_us))

    def leave(self, agent_id: str, now_us: int, *, silently: bool) -> None:
        """The process is gone: its system closes the connection, or nobody does and the keep-alive ends it."""
        session = self._sessions[agent_id]
        session.client = None
        session.stalled = False
        if silently:
            self._watch(agent_id, now_us)
        else:
            self._end(agent_id, now_us)

    def stall(self, agent_id: str, now_us: int) -> None:
        """The process does not answer; perhaps it will before the keep-alive ends."""
        self._sessions[agent_id].stalled = True
        self._watch(agent_id, now_us)

    def unstall(self, agent_id: str, now_us: int) -> None:
        session = self._sessions[agent_id]
        session.stalled = False
        session.stuck += 1
        if not session.connected:
            self._connect_soon(agent_id, now_us)

    @property
    def is_harming(self) -> bool:
        return bool(self.harms)

    def is_connected(self, agent_id: str, life: int | None = None) -> bool:
        session = self._sessions.get(agent_id)
        return session is not None and session.connected and (life is None or session.life == life)

    # --- messages ----------------------------------------------------------------------------------------------------

    def to_master(self, agent_id: str, message: AgentMessage, now_us: int) -> None:
        session = self._sessions[agent_id]
        if not session.connected:
            return
        if self._dies("before-forward", now_us):
            return
        event: master_events.Event = master_events.AgentSpoke(message=message)
        for spoiled, late_us in self._fates(agent_id, now_us, from_agent=True):
            if spoiled:
                code, n_bytes = _garbage(encode(message), self._chance, from_agent=True)
                event = master_events.GarbageArrived(agent_id=agent_id, code=code, n_bytes=n_bytes)
            delay_us = self._fabric.control_delay_us(agent_id)
            if delay_us is None:
                session.held_out.append(event)
            elif late_us:
                self._timetable.schedule(now_us + delay_us + late_us, "", event)
            else:
                session.outbound_us = max(session.outbound_us, now_us + delay_us)
                self._timetable.schedule(session.outbound_us, "", event)
        self._dies("after-forward", now_us)

    def to_agent(self, agent_id: str, message: MasterMessage, sent_us: int) -> None:
        session = self._sessions.get(agent_id)
        if session is None or not session.connected:
            return
        if self._dies("before-forward", sent_us):
            return
        event: agent_events.Event = agent_events.MasterSpoke(message=message)
        for spoiled, late_us in self._fates(agent_id, sent_us, from_agent=False):
            if spoiled:
                code, n_bytes = _garbage(encode(message), self._chance, from_agent=False)
                event = agent_events.GarbageArrived(code=code, n_bytes=n_bytes)
            delay_us = self._fabric.control_delay_us(agent_id, to_agent=True)
            if delay_us is None:
                session.held_in.append(event)
            elif late_us:
                self._timetable.schedule(sent_us + delay_us + late_us, agent_id, Delivery(event, session.life))
            else:
                session.inbound_us = max(session.inbound_us, sent_us + delay_us)
                self._timetable.schedule(session.inbound_us, agent_id, Delivery(event, session.life))
        self._dies("after-forward", sent_us)

    def announce(self, state: MasterState, sent_us: int) -> None:
        """To all that are connected, and to each that connects later."""
        self._retained = state
        connected = [agent_id for agent_id, session in self._sessions.items() if session.connected]
        for number, agent_id in enumerate(connected):
            if 2 * number >= len(connected) and self._dies("half-announced", sent_us):
                return
            self.to_agent(agent_id, state, sent_us)

    def _fates(self, agent_id: str, now_us: int, *, from_agent: bool) -> list[tuple[bool, int]]:
        """What becomes of a message: for each copy that arrives whether it is spoiled, and how late out of order."""
        if not self.harms:
            return [(False, 0)]
        copies, spoiled, late_us = 1, False, 0
        for harm in self.harms:
            if agent_id not in harm.agents or not (harm.from_agents if from_agent else harm.to_agents):
                continue
            copies = 0 if self._happens(harm.drop_ppm) else copies
            copies += self._happens(harm.duplicate_ppm) if copies else 0
            spoiled |= self._happens(harm.corrupt_ppm)
            late_us += harm.delay_us if self._happens(harm.delay_ppm) else 0
            late_us += self._chance.randrange(1, REORDER_US_MAX) if self._happens(harm.reorder_ppm) else 0
        if copies != 1 or spoiled or late_us:
            self.n_harmed += 1
        return [(spoiled, late_us)] * copies

    def _happens(self, ppm: int) -> bool:
        return ppm > 0 and self._chance.randrange(PPM) < ppm

    def kill_at(self, point: KillPoint, now_us: int, then: Callable[[int], None]) -> None:
        """Kill it at that point of its work; `then` is told when it happened."""

        def doom(at_us: int) -> None:
            self.stop(at_us)
            then(at_us)

        if point == "now" or not self.up:
            doom(now_us)
        else:
            self._doom = (point, doom)

    def _dies(self, point: KillPoint, now_us: int) -> bool:
        """Whether it came to the point at which it is to be killed, and was."""
        if self._doom is None or self._doom[0] != point:
            return False
        self._doom[1](now_us)
        return True

    # --- the ways, and the broker itself -----------------------------------------------------------------------------

    def ways_changed(self, now_us: int) -> None:
        """Some site's way to the master was cut or is open again."""
        for agent_id, session in self._sessions.items():
            if not session.connected:
                if session.client is not None:
                    self._connect_soon(agent_id, now_us)
            elif not self._fabric.reaches_master(agent_id):
                self._watch(agent_id, now_us)
            else:
                if session.client is not None and not session.stalled:
                    session.stuck += 1
                self._release(agent_id, session, now_us)

    def stop(self, now_us: int) -> None:
        """The broker dies: every connection ends, no will is published, the retained announcement is forgotten."""
        self.up = False
        self._doom = None
        self._retained = None
        for agent_id, session in self._sessions.items():
            session.will = None
            self._end(agent_id, now_us)
            assert not session.connected

    def start(self, now_us: int) -> None:
        if self.up or self.n_holding_down:
            return
        self.up = True
        for agent_id, session in self._sessions.items():
            if session.client is not None:
                self._connect_soon(agent_id, now_us)

    # --- connections -------------------------------------------------------------------------------------------------

    def _connect_soon(self, agent_id: str, now_us: int) -> None:
        spread_us = zlib.crc32(f"{agent_id}/{self._sessions[agent_id].life}".encode()) % RECONNECT_SPREAD_US
        self._timetable.call(now_us + spread_us, lambda at_us: self._connect(agent_id, at_us))

    def _connect(self, agent_id: str, now_us: int) -> None:
        session = self._sessions[agent_id]
        wants = session.client is not None and not session.stalled and not session.connected
        if not wants or session.client is None or not self.up or not self._fabric.reaches_master(agent_id):
            return
        session.connected = True
        session.life += 1
        session.stuck += 1
        session.inbound_us = session.outbound_us = now_us
        session.will = session.client.will()
        session.client.connected(now_us)
        if self._retained is not None:
            self.to_agent(agent_id, self._retained, now_us)

    def _watch(self, agent_id: str, now_us: int) -> None:
        """Bytes do not pass from now on; past the keep-alive the session ends."""
        session = self._sessions[agent_id]
        session.stuck += 1
        stuck = session.stuck

        def check(at_us: int) -> None:
            if session.connected and session.stuck == stuck:
                self._end(agent_id, at_us)

        self._timetable.call(now_us + KEEPALIVE_US, check)

    def _end(self, agent_id: str, now_us: int) -> None:
        session = self._sessions[agent_id]
        if not session.connected:
            return
        session.connected = False
        session.life += 1
        session.held_in.clear()
        session.held_out.clear()
        if session.will is not None:
            self._timetable.schedule(now_us, "", master_events.AgentSpoke(message=session.will))
            session.will = None
        if session.client is not None:
            session.client.disconnected(now_us)
            self._connect_soon(agent_id, now_us)

    def _release(self, agent_id: str, session: _Session, now_us: int) -> None:
        """What waited in the buffers goes on, in order."""
        for waiting in session.held_out:
            session.outbound_us = max(session.outbound_us, now_us + (self._fabric.control_delay_us(agent_id) or 0))
            self._timetable.schedule(session.outbound_us, "", waiting)
        for event in session.held_in:
            delay_us = self._fabric.control_delay_us(agent_id, to_agent=True) or 0
            session.inbound_us = max(session.inbound_us, now_us + delay_us)
            self._timetable.schedule(session.inbound_us, agent_id, Delivery(event, session.life))
        session.held_out.clear()
        session.held_in.clear()


def _garbage(payload: bytes, chance: random.Random, *, from_agent: bool) -> tuple[str, int]:
    """Flip bytes until nothing decodes: the receiver's code for it, and its size. Damage that still decodes as another
    legal message is the transport's to prevent (TLS, TCP's checksum), not the protocol's."""
    damaged = bytearray(payload)
    while True:
        damaged[chance.randrange(len(damaged))] ^= 1 + chance.randrange(255)
        try:
            if from_agent:
                decode_agent_message(bytes(damaged))
            else:
                decode_master_message(bytes(damaged))
        except PeerError as error:
            return error.code, len(damaged)

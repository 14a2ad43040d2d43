"""Weeks of idling on lines that are paid by the byte: the production cores of agents and master in simulated time."""

import itertools

import pytest

from agents import commands, events
from agents.agent import Agent
from agents.facts import Fact
from federation.commands import Send
from federation.config import MasterConfig
from federation.events import AgentSpoke, BrokerFound
from federation.events import DeadlinePassed as MastersDeadline
from federation.events import Started as MasterStarted
from federation.master import Master
from federation.wire import LinkSample, NetReport, Offer, OfferDelta, encode
from tests.agent_world import SECOND_US, TOTAL, config

DAY_US = 86_400 * SECOND_US
START_US = 1_700_000_000 * SECOND_US
MONTH_BYTES = 20_000_000
PROBE_BYTES = 111_000  # what a probe takes that needs a second train; the first alone takes 77 kB
SITES = ("depot", "north", "south")
# Of the rhythm of metered agents nothing is changed; the depot, which is not one, is slowed to it for a short test.
MASTER = MasterConfig(
    move_look_us=3600 * SECOND_US, probe_every_us=600 * SECOND_US, ping_every_us=60 * SECOND_US,
    offer_every_us=120 * SECOND_US, offer_lease_us=360 * SECOND_US, suspect_after_us=288 * SECOND_US,
    echo_every_us=900 * SECOND_US,
)  # fmt: skip


class Device:
    """An agent whose machine is looked at once an hour, so that a month is short; everything else is as in life."""

    def __init__(self, site: str) -> None:
        self.config = config(
            agent_id=site, site=site, metered=site != "depot", broker="mqtts://b:8883",
            measure_every_us=3600 * SECOND_US, net_report_every_us=1800 * SECOND_US,
        )  # fmt: skip
        self.journal: list[Fact] = []
        self.agent = Agent(self.config)
        self.wire_bytes: list[int] = []  # of each boot
        self.said: list[object] = []
        self.allowed_bytes = 0  # for peers' probes


class Line:
    """Devices and master, joined without delay. A probe takes what it is given, up to `PROBE_BYTES`."""

    def __init__(self) -> None:
        self.now_us = START_US
        self.master = Master(MASTER, "fifo")
        self.devices = {site: Device(site) for site in SITES}
        self._tell_master(MasterStarted(term=1))
        self._tell_master(BrokerFound())
        for site in SITES:
            self.boot(site)

    def boot(self, site: str) -> None:
        device = self.devices[site]
        device.agent = Agent(device.config, device.journal)
        device.journal = device.agent.facts()
        device.wire_bytes.append(0)
        for event in (events.Started(total=TOTAL, data_url=f"http://{site}"), events.Connected()):
            self._tell(site, event)

    def run(self, until_us: int) -> None:
        while True:
            dues = [(device.agent.next_deadline_us(), site) for site, device in self.devices.items()]
            dues.append((self.master.next_deadline_us(), ""))
            due_us, site = min((due_us, site) for due_us, site in dues if due_us is not None)
            if due_us > until_us:
                break
            self.now_us = max(self.now_us, due_us)
            if site:
                self._tell(site, events.DeadlinePassed())
            else:
                self._tell_master(MastersDeadline())
        self.now_us = until_us

    def _tell_master(self, event: object) -> None:
        for command in self.master.handle(event, self.now_us):  # type: ignore[arg-type]
            if isinstance(command, Send):
                n_bytes = len(encode(command.message))
                self._tell(command.agent_id, events.MasterSpoke(message=command.message, n_bytes=n_bytes))

    def _tell(self, site: str, event: events.Event) -> None:
        device = self.devices[site]
        for command in device.agent.handle(event, self.now_us):
            match command:
                case commands.Persist(fact=fact):
                    device.journal.append(fact)
                case commands.Publish(message=message):
                    device.said.append(message)
                    if isinstance(message, NetReport):
                        device.wire_bytes[-1] = message.wire_bytes
                    self._tell_master(AgentSpoke(message=message))
                case commands.Measure():
                    self._tell(site, events.Measured(usable=TOTAL))
                case commands.AllowProbes(n_bytes=n_bytes):
                    device.allowed_bytes = n_bytes
                case commands.Probe(peer=peer, bytes_max=bytes_max):
                    self._probe(site, peer.agent_id, min(bytes_max, PROBE_BYTES))
                case _:
                    pass

    def _probe(self, site: str, peer: str, n_bytes: int) -> None:
        echo = LinkSample(from_agent=peer, to_agent=site, method="echo", rtt_us=50_000, jitter_us=500)
        rate = LinkSample(from_agent=peer, to_agent=site, method="probe", bandwidth_bps=20_000_000, bytes=n_bytes)
        if self.devices[peer].config.metered:
            if n_bytes > self.devices[peer].allowed_bytes:
                n_bytes = 0
            self._tell(peer, events.ProbeServed(n_bytes=n_bytes + 3_600))
        self._tell(site, events.LinksMeasured(samples=(echo, rate) if n_bytes else (echo,)))


@pytest.mark.parametrize("days", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_idling_keeps_within_the_months_allowance_though_one_starts_again_every_other_day(days: int) -> None:
    line = Line()
    for day in range(days):
        line.run(START_US + (day + 1) * DAY_US)
        if day % 2 and day < days - 1:
            line.boot("south")
    for site in SITES[1:]:
        device = line.devices[site]
        # The last half hour of a boot may not have been told of.
        assert MONTH_BYTES // 3 < sum(device.wire_bytes) * 30 // days < MONTH_BYTES, (site, device.wire_bytes)
        assert sum(isinstance(message, Offer) for message in device.said) == len(device.wire_bytes)
        assert sum(isinstance(message, OfferDelta) for message in device.said) > 715 * days
    core = line.master.core
    assert core.counters.get("seq_gaps", 0) == core.counters.get("offers_unfounded", 0) == 0
    ways = {ends for ends, track in core.network.tracks.items() if track.measured_bps()}
    for site in SITES[1:]:
        assert {(f"site:{site}", "site:depot"), ("site:depot", f"site:{site}")} <= ways
    assert not [ends for ends in itertools.permutations((f"site:{site}" for site in SITES[1:]), 2) if ends in ways]

"""A line that is paid by the byte: what an agent says on it, and that probes stay within a month's allowance."""

import itertools
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.commands import AllowProbes, Probe
from agents.driver import _channel
from agents.events import LinksMeasured, MasterSpoke, Measured, ProbeServed
from agents.facts import BytesMetered
from agents.metering import ECHO_BYTES, MONTH_US, Meter, on_wire
from agents.session import Batch
from agents.state import State
from federation.events import AgentSpoke
from federation.postman import event_of
from federation.wire import (
    AgentMessage,
    LinkSample,
    NetReport,
    Offer,
    OfferDelta,
    Peer,
    ProbePlan,
    Welcome,
    agent_topic,
    changed,
    changes,
    encode,
)
from policies.model import Gpu, Resources
from tests.agent_world import SECOND_US, TOTAL, World, config
from tests.test_wire import OF_AGENTS

MONTH_BYTES = 20_000_000
DAY_US = 86_400 * SECOND_US


def metered_world() -> World:
    world = World(config(metered=True))
    world.boot(connect=False)
    world.connect()
    boot, conn = world.life
    world.say(
        Welcome(
            term=1, boot=boot, conn=conn, offer_every_us=120 * SECOND_US, ping_every_us=900 * SECOND_US,
            offer_lease_us=360 * SECOND_US, offer_deltas=True,
        )
    )  # fmt: skip
    return world


def plan(bytes_max: int, every_us: int = DAY_US) -> ProbePlan:
    peer = Peer(agent_id="b-1", site="b", data_url="http://b", every_us=every_us)
    return ProbePlan(term=1, peers=(peer,), every_us=60 * SECOND_US, bytes_max=bytes_max)


# --- offers ----------------------------------------------------------------------------------------------------------


def test_after_a_first_offer_only_what_changed_is_told() -> None:
    world = metered_world()
    *_, whole = world.take(Offer)
    world.pass_time(120 * SECOND_US)
    (renewal,) = world.take(OfferDelta)
    assert renewal == OfferDelta(agent_id="cam-1", boot=1, conn=1, seq=renewal.seq, base_seq=whole.seq)
    assert len(encode(renewal)) < 80 < len(encode(whole))
    less = Resources(cpu_milli=1000, memory_bytes=TOTAL.memory_bytes, disk_bytes=TOTAL.disk_bytes, gpus=TOTAL.gpus)
    for usable in (less, TOTAL, less):  # A machine that breathes says no more often what it has.
        world.event(Measured(usable=usable))
        world.pass_time(39 * SECOND_US)
    assert world.take(OfferDelta) == []
    world.pass_time(3 * SECOND_US)
    (change,) = world.take(OfferDelta)
    assert (change.base_seq, change.cpu_milli, change.memory_bytes) == (renewal.seq, 1000, None)
    assert changed(changed(whole, renewal), change).free == less


@pytest.mark.parametrize("message", OF_AGENTS, ids=lambda message: type(message).__name__)
def test_what_the_agent_publishes_goes_where_the_master_listens_for_it(message: AgentMessage) -> None:
    topic = agent_topic(message.agent_id, _channel(message))
    assert event_of(topic, encode(message), False) == AgentSpoke(message=message)


amounts = st.integers(0, 2**40)
frees = st.builds(
    Resources, cpu_milli=amounts, memory_bytes=amounts, disk_bytes=amounts,
    gpus=st.sampled_from([(), (Gpu(uuid="g", model="m", memory_kind="dedicated", isolation="whole"),)]),
)  # fmt: skip


@given(st.lists(st.tuples(frees, st.integers(0, 9)), min_size=2, max_size=5))
def test_deltas_lead_to_the_offers_they_were_made_of(told: list[tuple[Resources, int]]) -> None:
    life = {"agent_id": "a", "boot": 1, "conn": 1}
    offers = [
        Offer(**life, seq=3 * n, offer_id=f"a.1.1.{3 * n}", free=free, expires_in_us=9, commands_seen=seen)  # type: ignore[arg-type]
        for n, (free, seen) in enumerate(told)
    ]
    known = offers[0]
    for before, after in itertools.pairwise(offers):
        known = changed(known, OfferDelta(**life, seq=after.seq, **changes(before, after)))  # type: ignore[arg-type]
        assert known == after


# --- probes ----------------------------------------------------------------------------------------------------------


def test_probes_stop_when_the_allowance_is_spent_and_survive_a_restart() -> None:
    world = metered_world()
    world.say(plan(262_144, every_us=SECOND_US))
    spent_bytes, n_wide = 0, 0
    for _ in range(10):
        world.pass_time(2 * SECOND_US)
        for probe in world.take(Probe):
            n_wide += probe.bytes_max > 0
            spent_bytes += ECHO_BYTES + on_wire(probe.bytes_max)
            sample = LinkSample(
                from_agent="b-1", to_agent="cam-1", method="probe", bandwidth_bps=10**12, bytes=probe.bytes_max
            )
            world.event(LinksMeasured(samples=(sample,)))
    assert 4 <= n_wide <= 5, "three quarters of two megabytes"
    assert spent_bytes <= MONTH_BYTES // 10 * 3 // 4
    facts = [fact for fact in world.journal if isinstance(fact, BytesMetered)]
    assert facts[-1].balance_bytes < MONTH_BYTES // 10 - spent_bytes + 100_000
    world.boot()  # A restart brings nothing back.
    world.say(plan(262_144))
    world.pass_time(SECOND_US)
    assert {probe.bytes_max for probe in world.take(Probe)} == {0}, "echoes only"
    assert world.take(AllowProbes)[-1].n_bytes < 262_144


def test_what_peers_measure_is_counted_and_bounded_too() -> None:
    world = metered_world()
    before = world.take(AllowProbes)[-1].n_bytes
    assert before == 1_500_000 // 32_768 * 32_768
    world.event(ProbeServed(n_bytes=1_000_000))
    assert world.take(AllowProbes)[-1].n_bytes <= before - 1_000_000
    world.pass_time(1800 * SECOND_US)
    assert world.take(NetReport)[-1].wire_bytes > 1_100_000


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["probe", "serve", "restart", "wait"]), st.integers(0, 400_000), st.integers(0, DAY_US)
        ),
        max_size=120,
    )
)
def test_no_thirty_days_take_more_than_the_month_allows(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is asked and whenever it is started again."""
    agent_config, state, now_us = config(metered=True), State(), 10**15
    meter = Meter(agent_config, state)
    meter.on_started(now_us)
    spent: deque[tuple[int, int]] = deque()
    for kind, n_bytes, wait_us in steps:
        now_us += wait_us
        batch = Batch(state, now_us)
        meter.on_control(0, 0, 0, now_us)
        match kind:
            case "probe" if meter.left_bytes() >= on_wire(n_bytes):
                meter.take(batch, on_wire(n_bytes))
                spent.append((now_us, on_wire(n_bytes)))
            case "serve" if n_bytes <= (meter.allowed_bytes or 0):
                meter.on_served(n_bytes)
                spent.append((now_us, on_wire(n_bytes)))
            case "restart":
                meter.flush(batch)
                state = State(state.facts())
                meter = Meter(agent_config, state)
                meter.on_started(now_us)
        meter.flush(Batch(state, now_us))
        while spent and spent[0][0] <= now_us - MONTH_US:
            spent.popleft()
        # A restart forgets what was spent since the journal last knew: less than a step each.
        n_restarts = sum(kind == "restart" for kind, _, _ in steps)
        assert sum(n_bytes for _, n_bytes in spent) <= MONTH_BYTES + n_restarts * 65_536


def test_a_clock_that_goes_backwards_brings_nothing() -> None:
    state = State([BytesMetered(at_us=10**15, balance_bytes=600_000)])
    meter = Meter(config(metered=True), state)
    meter.on_started(10**14)
    assert meter.left_bytes() == 100_000


@pytest.mark.parametrize("broker", ["mqtt://b:1883", "mqtts://b:8883"])
def test_headers_are_counted(broker: str) -> None:
    world = World(config(metered=True, broker=broker))
    world.boot()
    world.event(MasterSpoke(message=plan(0), n_bytes=100))
    world.pass_time(1800 * SECOND_US)
    (report, *_) = [report for report in world.take(NetReport) if report.wire_bytes]
    assert report.wire_bytes > report.control_bytes + (7_000 if broker.startswith("mqtts") else 1_300)


def test_others_count_nothing_and_allow_everything() -> None:
    world = World(config())
    world.boot()
    world.pass_time(300 * SECOND_US)
    assert not world.take(AllowProbes) and not any(isinstance(fact, BytesMetered) for fact in world.journal)
    assert all(report.wire_bytes == 0 for report in world.take(NetReport))

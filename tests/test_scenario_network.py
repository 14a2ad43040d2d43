"""The simulated network: transfers as stories, rates as the transport's model has them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.network import PIECE_BYTES, LinkSpec, Network
from scenarios.transport import CM02, LV08, PLAIN, tcp_bound_bps
from tests.reference import maxmin as reference

pytestmark = pytest.mark.kernel

MBIT = 1_000_000
SECOND = 1_000_000


def link(mbit: int, *, rtt_us: int = 0, jitter_us: int = 0, shared: bool = True, loss_ppm: int = 0) -> LinkSpec:
    return LinkSpec(
        rtt_us=rtt_us, jitter_us=jitter_us, bandwidth_bps=mbit * MBIT, shared=shared, loss_ppm=loss_ppm
    )  # fmt: skip


def plain(**links: LinkSpec) -> Network:
    return Network(links, PLAIN)


def run(network: Network) -> list[tuple[int, int]]:
    """Play to the end: when each flow ended."""
    ends = []
    while (now_us := network.next_end_us()) is not None:
        ends += [(flow.flow_id, now_us) for flow in network.ended(now_us)]
    return ends


def test_one_flow_takes_size_over_bandwidth() -> None:
    network = plain(a=link(8))
    network.start(["a"], 1_000_000, 0)
    assert network.next_end_us() == SECOND
    assert [flow.size_bytes for flow in network.ended(SECOND)] == [1_000_000]
    assert network.bytes_carried()["a"] == 1_000_000
    assert network.next_end_us() is None


def test_the_second_flow_halves_the_first() -> None:
    network = plain(a=link(8))
    network.start(["a"], 1_000_000, 0)
    network.start(["a"], 1_000_000, 500_000)
    assert run(network) == [(1, 1_500_000), (2, 2_000_000)]


def test_a_flow_held_back_elsewhere_leaves_its_share_to_others() -> None:
    network = plain(wide=link(10), narrow=link(2))
    network.start(["wide", "narrow"], 250_000, 0)
    network.start(["wide"], 1_000_000, 0)
    assert run(network) == [(1, SECOND), (2, SECOND)]  # 2 and 8 Mbit/s: both end together


def test_an_unshared_link_gives_each_flow_all() -> None:
    network = plain(core=link(8, shared=False))
    network.start(["core"], 1_000_000, 0)
    network.start(["core"], 1_000_000, 0)
    assert len(network.ended(SECOND)) == 2


def test_a_degraded_link_slows_what_is_under_way_and_a_dead_one_stops_it() -> None:
    network = plain(a=link(8))
    network.start(["a"], 1_000_000, 0)
    network.set_link("a", link(4), 500_000)
    assert network.next_end_us() == 1_500_000
    network.set_link("a", link(0), SECOND)
    assert network.next_end_us() is None
    network.set_link("a", link(8), 5 * SECOND)
    assert network.next_end_us() == 5_250_000


def test_a_cancelled_flow_gives_its_share_back_and_what_it_moved_counts() -> None:
    network = plain(a=link(8))
    first = network.start(["a"], 1_000_000, 0)
    network.start(["a"], 1_000_000, 0)
    assert network.bytes_carried()["a"] == 0
    network.cancel(first, SECOND)
    network.cancel(first, SECOND)  # as an owner may that has not heard yet
    assert network.bytes_carried()["a"] == 1_000_000
    assert network.next_end_us() == 1_500_000


def test_a_flow_within_one_machine_ends_at_once_whatever_its_size() -> None:
    network = plain(a=link(8))
    network.start([], 3 * PIECE_BYTES, 7)
    assert network.next_end_us() == 7
    assert len(network.ended(7)) == 1


def test_a_flow_larger_than_the_kernel_counts_moves_in_pieces_without_a_gap() -> None:
    network = plain(a=link(1_000_000))
    size = 2 * PIECE_BYTES + 1_000_000_000
    flow_id = network.start(["a"], size, 0)
    ((ended_id, ended_us),) = run(network)
    assert ended_id == flow_id
    assert abs(ended_us - size * 8 // 1_000_000) <= 3
    assert network.bytes_carried()["a"] == size


def test_a_link_may_be_added_and_is_refused_beyond_what_can_be_counted() -> None:
    network = plain(a=link(8))
    for number in range(9):
        network.set_link(f"b{number}", link(1), 0)
    network.start([f"b{number}" for number in range(9)], 125_000, 0)
    assert network.next_end_us() == SECOND
    with pytest.raises(ValueError, match="link c has 2000000000000 bit/s; the most is 1099511627776"):
        network.set_link("c", link(2_000_000), 0)


# --- what the transport makes of a path ------------------------------------------------------------------------------


def test_bytes_move_after_the_start_up_and_share_only_then() -> None:
    network = plain(a=link(8, rtt_us=100_000, jitter_us=20_000))
    network.start(["a"], 1_000_000, 0)
    assert network.start_up_us(("a",)) == 165_000  # 1.5 mean round trips of 110 ms
    assert network.rates_bps() == {1: 0}
    network.ended(165_000)
    network.start(["a"], 1_000_000, 165_000)
    assert network.rates_bps() == {1: 8 * MBIT, 2: 0}
    assert network.ended(330_000) == []  # the second begins
    (first,) = network.ended(network.next_end_us() or 0)
    (second,) = network.ended(network.next_end_us() or 0)
    assert (first.asked_us, first.started_us, second.asked_us, second.started_us) == (0, 165_000, 165_000, 330_000)


def test_lv08_pays_slow_start_and_headers() -> None:
    network = Network({"a": link(80, rtt_us=10_000)}, LV08)
    network.start(["a"], 9_700_000, 0)
    assert run(network) == [(1, 65_050 + SECOND)]  # 13.01 × 5 ms, then 97 % of 80 Mbit/s


def test_shares_are_inverse_to_the_round_trip() -> None:
    network = Network({"near": link(1000, rtt_us=10_000), "far": link(1000, rtt_us=30_000), "hub": link(80)}, CM02)
    network.start(["near", "hub"], 10**9, 0)
    network.start(["far", "hub"], 10**9, 0)
    network.ended(15_000)
    rates = network.rates_bps()
    assert rates[1] == pytest.approx(60 * MBIT, rel=1e-3)
    assert rates[2] == pytest.approx(20 * MBIT, rel=1e-3)


def test_a_window_and_a_cap_bound_a_flow() -> None:
    network = Network({"a": link(100_000, rtt_us=100_000)}, CM02)
    network.start(["a"], 10**9, 0)
    network.start(["a"], 10**9, 0, cap_bps=MBIT)
    network.ended(50_000)
    assert network.rates_bps() == {1: 4_194_304 * 80, 2: MBIT}


def test_loss_bounds_a_flow_as_tcp_does() -> None:
    clean, lossy = link(1000, rtt_us=100_000), link(1000, rtt_us=100_000, loss_ppm=1_000)
    assert tcp_bound_bps([clean]) == 2**40
    mathis = 1460 * 8 / 0.1 * (1.5 / 0.001) ** 0.5
    assert 0.98 * mathis < tcp_bound_bps([lossy]) < mathis  # time-outs cost little where loss is small
    assert tcp_bound_bps([lossy, lossy]) == pytest.approx(tcp_bound_bps([lossy]) / 2 / 2**0.5, rel=0.02)
    heavy = link(1000, rtt_us=100_000, loss_ppm=300_000)
    assert tcp_bound_bps([heavy]) < 0.1 * 1460 * 8 / 0.1 * (1.5 / 0.3) ** 0.5  # and nearly all where it is large
    assert tcp_bound_bps([link(1, loss_ppm=1_000_000)]) == 0


# --- laws ------------------------------------------------------------------------------------------------------------

names = st.sampled_from("abcd")
paths = st.lists(names, min_size=1, max_size=3, unique=True)
starts = st.tuples(paths, st.one_of(st.none(), st.integers(1, 40)))
changes = st.one_of(starts, st.integers(0, 99), st.tuples(names, st.integers(0, 50)))


@given(st.tuples(*[st.integers(1, 50)] * 4), st.lists(changes, min_size=1, max_size=25))
@settings(deadline=None)
def test_rates_are_those_of_the_obvious_filling_whatever_came_before(
    mbits: tuple[int, ...], history: list[tuple[list[str], int | None] | int | tuple[str, int]]
) -> None:
    """Flows start, are cancelled (a number: which), and links change."""
    links = {name: link(mbit) for name, mbit in zip("abcd", mbits, strict=True)}
    network = Network(dict(links), PLAIN)
    under_way: dict[int, reference.Flow] = {}
    for now_us, change in enumerate(history):
        if isinstance(change, int):
            if under_way:
                flow_id = list(under_way)[change % len(under_way)]
                network.cancel(flow_id, now_us)
                del under_way[flow_id]
        elif isinstance(change[0], str):
            links[change[0]] = link(int(change[1] or 0))
            network.set_link(change[0], links[change[0]], now_us)
        else:
            cap_bps = None if change[1] is None else int(change[1]) * MBIT
            flow_id = network.start(change[0], 10**9, now_us, cap_bps)
            under_way[flow_id] = (["abcd".index(name) for name in change[0]], cap_bps or 2**40, 2**22)
        capacities = [links[name].bandwidth_bps for name in "abcd"]
        expected = dict(zip(under_way, reference.rates(capacities, list(under_way.values())), strict=True))
        assert network.rates_bps() == expected


@given(st.lists(st.tuples(paths, st.integers(0, 10**7), st.integers(0, 10**6)), min_size=1, max_size=100))
@settings(deadline=None, max_examples=50)
def test_every_byte_arrives_once(flows: list[tuple[list[str], int, int]]) -> None:
    """Bytes carried are the sum of sizes, every flow ends once, and none before it could over an idle network."""
    network = Network({name: link(8, rtt_us=1000) for name in "abcd"}, LV08)
    started: dict[int, int] = {}
    now_us = 0
    for path, size, after_us in flows:
        now_us += after_us
        while (end_us := network.next_end_us()) is not None and end_us <= now_us:
            for flow in network.ended(end_us):
                assert end_us - started.pop(flow.flow_id) >= flow.size_bytes * 8 * 10**6 // (8 * MBIT)
        started[network.start(path, size, now_us)] = now_us
    assert {flow_id for flow_id, _ in run(network)} == set(started)
    for name in "abcd":
        assert network.bytes_carried()[name] == sum(size for path, size, _ in flows if name in path)

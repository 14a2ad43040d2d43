"""The simulated network: max-min fairness as a law, transfers as stories."""

from hypothesis import given
from hypothesis import strategies as st

from scenarios.network import LinkSpec, Network, tcp_bound_bps

MBIT = 1_000_000


def link(mbit: int, *, rtt_us: int = 0, shared: bool = True, loss_ppm: int = 0) -> LinkSpec:
    return LinkSpec(rtt_us=rtt_us, bandwidth_bps=mbit * MBIT, shared=shared, loss_ppm=loss_ppm)


def test_one_flow_takes_size_over_bandwidth() -> None:
    network = Network({"a": link(8)})
    network.start(["a"], 1_000_000, 0)
    assert network.next_end_us() == 1_000_000
    assert [flow.size_bytes for flow in network.ended(1_000_000)] == [1_000_000]
    assert network.bytes_carried("a") == 1_000_000
    assert network.next_end_us() is None


def test_the_second_flow_halves_the_first() -> None:
    network = Network({"a": link(8)})
    network.start(["a"], 1_000_000, 0)
    network.start(["a"], 1_000_000, 500_000)
    assert network.next_end_us() == 1_500_000
    assert len(network.ended(1_500_000)) == 1
    assert network.next_end_us() == 2_000_000


def test_a_flow_held_back_elsewhere_leaves_its_share_to_others() -> None:
    network = Network({"wide": link(10), "narrow": link(2)})
    network.start(["wide", "narrow"], 250_000, 0)
    network.start(["wide"], 1_000_000, 0)
    assert network.next_end_us() == 1_000_000  # 2 and 8 Mbit/s: both end together
    assert len(network.ended(1_000_000)) == 2


def test_an_unshared_link_gives_each_flow_all() -> None:
    network = Network({"core": link(8, shared=False)})
    network.start(["core"], 1_000_000, 0)
    network.start(["core"], 1_000_000, 0)
    assert len(network.ended(1_000_000)) == 2


def test_a_degraded_link_slows_what_is_under_way() -> None:
    network = Network({"a": link(8)})
    network.start(["a"], 1_000_000, 0)
    network.set_link("a", link(4), 500_000)
    assert network.next_end_us() == 1_500_000


def test_a_cancelled_flow_gives_its_share_back() -> None:
    network = Network({"a": link(8)})
    first = network.start(["a"], 1_000_000, 0)
    network.start(["a"], 1_000_000, 0)
    network.cancel(first, 1_000_000)
    assert network.next_end_us() == 1_500_000


def test_loss_bounds_a_flow_as_tcp_does() -> None:
    clean, lossy = link(1000, rtt_us=100_000), link(1000, rtt_us=100_000, loss_ppm=10_000)
    assert tcp_bound_bps([clean]) == 2**62
    assert 1_400_000 <= tcp_bound_bps([lossy]) <= 1_450_000  # 1460 B / 0.1 s × √1.5 / 0.1


paths = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True)


@given(
    st.tuples(*[st.integers(1, 50)] * 4),
    st.lists(st.tuples(paths, st.one_of(st.none(), st.integers(1, 40))), min_size=1, max_size=12),
)
def test_rates_are_max_min_fair(mbits: tuple[int, ...], flows: list[tuple[list[str], int | None]]) -> None:
    """No link is overfull, and every flow is at its cap or crosses a full link on which none gets more."""
    links = {name: link(mbit) for name, mbit in zip("abcd", mbits, strict=True)}
    network = Network(links)
    for path, cap in flows:
        network.start(path, 10**9, 0, None if cap is None else cap * MBIT)
    running = list(network._flows.values())
    used = {name: sum(flow.rate_bps for flow in running if name in flow.path) for name in links}
    for name, spec in links.items():
        assert used[name] <= spec.bandwidth_bps
    for flow in running:
        capped = flow.cap_bps is not None and flow.rate_bps == flow.cap_bps
        bottleneck = any(
            links[name].bandwidth_bps - used[name] < len(running)  # less than one bit/s each is left
            and all(other.rate_bps <= flow.rate_bps for other in running if name in other.path)
            for name in flow.path
        )
        assert capped or bottleneck

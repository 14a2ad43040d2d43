"""Whole agents, a broker and a master on two hosts, real packets on a shaped link between them."""

import time
from pathlib import Path

import pytest

from benchmarks import netfleet, netns
from benchmarks.network import MBIT, begin_transfer, notice
from federation.config import MasterConfig

pytestmark = [pytest.mark.live, pytest.mark.skipif(bool(why := netfleet.why_not()), reason=f"real packets: {why}")]
PROBE_EVERY_S = 5


def test_an_uneven_link_is_measured_both_ways_and_its_halving_noticed_idle_and_in_use(tmp_path: Path) -> None:
    master = MasterConfig(probe_every_us=PROBE_EVERY_S * 1_000_000)
    with netns.pair((20 * MBIT, 5 * MBIT)) as pair, netfleet.fleet(pair, tmp_path, master=master) as built:
        netfleet.wait_for(lambda: built.bandwidth_bps(0) and built.bandwidth_bps(1), "both directions")
        assert built.bandwidth_bps(0) == pytest.approx(20 * MBIT, rel=0.1)
        assert built.bandwidth_bps(1) == pytest.approx(5 * MBIT, rel=0.1)
        # One period, a tenth of it by which turns are spread, and the probe and its report.
        idle_s = notice(built, 10 * MBIT)
        assert idle_s is not None and idle_s <= PROBE_EVERY_S * 1.1 + 2
        begin_transfer(built, n_bytes=12 * MBIT)
        time.sleep(3)  # The transfer is told of as it runs.
        used_s = notice(built, 5 * MBIT)
        assert used_s is not None and used_s <= 10

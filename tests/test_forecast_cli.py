"""`offerflow net explain` against the real core, over its HTTP: before a forecast, with one, and for no link at all."""

import itertools
import json
from pathlib import Path

from federation.cli.exits import Exit
from federation.wire import LinkSample, NetReport
from tests.cli_world import offerflow, serving
from tests.http_world import FakeAgent

MBIT = 10**6
MINUTE_US = 60_000_000
SAMPLE = LinkSample(
    from_agent="vm-1", to_agent="gw-1", method="transfer", bandwidth_bps=20 * MBIT, bytes=2**20, rtt_us=12_000
)


def test_a_link_is_explained_by_what_was_measured_and_then_by_its_forecast(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        env = {"OFFERFLOW_URL": served.url}
        gateway, machine = FakeAgent(served.world, "gw-1", "plant"), FakeAgent(served.world, "vm-1", "cloud")
        served.run(gateway.join())
        served.run(machine.join())
        numbers = itertools.count(100)

        def report() -> None:
            message = NetReport(agent_id="gw-1", boot=1, conn=1, seq=next(numbers), samples=(SAMPLE,))
            served.run(gateway._say(message))

        unknown = offerflow("net", "explain", "cloud", "plant", env=env)
        assert unknown.code == Exit.NOT_FOUND and "no link site:cloud → site:plant has been measured" in unknown.err

        report()
        young = offerflow("net", "explain", "cloud", "plant", env=env)
        assert young.code == Exit.OK and "forecast        none yet" in young.out
        assert "planned with    20 Mbit/s" in young.out and "round trip      12 ms" in young.out

        track = served.world.master.core.network.tracks["site:cloud", "site:plant"]
        for n in range(1, 12):  # An hour of measuring within no time.
            track.add(SAMPLE, track.seen_us + n * MINUTE_US)
        report()
        old = offerflow("net", "explain", "site:cloud", "plant", env=env)
        assert "forecast        over 30 s, mostly by " in old.out and "9 in 10 below   20 Mbit/s" in old.out
        assert "lower quartile  20 Mbit/s" in old.out
        document = json.loads(offerflow("net", "explain", "cloud", "plant", "-o", "json", env=env).out)
        assert document["forecast_us"] == 30_000_000 and document["bandwidth_measured_bps"] == 20 * MBIT

"""What people see of frameworks: over HTTP, at the command line, in the metrics."""

import asyncio
import urllib.request
from pathlib import Path

import pytest

from federation.cli.client import Client
from federation.cli.main import run as run_command
from federation.http.app import serve
from federation.http.settings import HttpConfig
from federation.market import protocol as p
from policies.model import Amount
from tests.http_world import FakeAgent, World
from tests.master_world import GIB


async def call(world: World, call: p.Call, framework_id: str = "") -> None:
    assert isinstance(await world.call(call, framework_id, "s1"), p.CallTaken)


async def test_frameworks_are_seen_over_http_at_the_command_line_and_in_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    await world.start()
    stream = world.streams.open("s1")
    info = p.FrameworkInfo(name="trainer", roles=("ml",), failover_timeout_us=60_000_000)
    await call(world, p.Subscribe(framework=info))
    framework_id = next(iter(world.master.core.market.frameworks))
    stream.framework_id = framework_id
    agent = FakeAgent(world, "gw-1", "a")
    await agent.join()
    want = p.WantedOffer(request_id="r1", role="ml", cpu_milli=64_000, memory_bytes=GIB, gang=True, count=2)
    await call(world, p.Request(wants=(want,)), framework_id)
    async with serve(world, HttpConfig()) as served:
        url = f"http://127.0.0.1:{served.port}"

        def run(*arguments: str) -> str:
            assert run_command([*arguments, "--master", url]) == 0
            return capsys.readouterr().out

        listed = await asyncio.to_thread(run, "framework", "list")
        assert framework_id in listed and "trainer" in listed and "connected" in listed
        shown = await asyncio.to_thread(run, "framework", "show", framework_id)
        assert "r1 (gang)" in shown and "ml" in shown
        client = Client(url)
        (view,) = await asyncio.to_thread(client.frameworks)
        assert (view.framework_id, view.state, view.roles) == (framework_id, "connected", ("ml",))
        assert view.requests[0].count == 2 and not view.requests[0].held_agents
        assert view.running == Amount()
        assert await asyncio.to_thread(client.framework, framework_id) == view
        body = await asyncio.to_thread(_get, f"{url}/metrics")
        assert 'offerflow_frameworks{state="connected"} 1.0' in body
        assert "offerflow_framework_requests 1.0" in body


def _get(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return bytes(answer.read()).decode()

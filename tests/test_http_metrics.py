"""What Prometheus reads: parseable, true, and with bounded labels."""

import aiohttp
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from federation.events import GarbageArrived
from federation.metrics import ROLES_MAX, counters
from tests.http_client import client, world
from tests.http_world import FakeAgent, World
from tests.test_http_api import submit

__all__ = ["client", "world"]  # fixtures


async def scrape(client: aiohttp.ClientSession) -> dict[str, Metric]:
    async with client.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return {metric.name: metric for metric in text_string_to_metric_families(await answer.text())}


def values(metric: Metric) -> dict[tuple[str, ...], float]:
    """By the values of the labels, in the alphabetical order of their names."""
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in metric.samples}


async def test_the_master_is_counted(world: World, client: aiohttp.ClientSession) -> None:
    await FakeAgent(world, "gw-1", "plant").join()
    await submit(client)
    metrics = await scrape(client)
    assert values(metrics["offerflow_state"]) == {("recovering",): 0, ("serving",): 1, ("stepped_down",): 0}
    assert values(metrics["offerflow_agents"])["online",] == 1
    assert values(metrics["offerflow_tasks"])["assigned",] == 1
    assert values(metrics["offerflow_capacity"])["cpu_milli",] == 8000
    assert values(metrics["offerflow_allocated"])["cpu_milli",] == 1000
    assert values(metrics["offerflow_role_allocated"])["cpu_milli", "default"] == 1000
    assert metrics["offerflow_rounds"].samples[0].value >= 1
    assert values(metrics["offerflow_broker_connected"]) == {(): 1}
    assert metrics["offerflow_driver_journal_seq"].samples[0].value == world.journal.last_seq
    assert metrics["offerflow_driver_events"].samples[0].value == 1
    assert "process_resident_memory_bytes" in metrics
    assert any(name.startswith("offerflow_core_") for name in metrics)


async def test_garbage_is_counted_by_code(world: World, client: aiohttp.ClientSession) -> None:
    await world.tell(GarbageArrived(agent_id="gw-1", code="malformed", n_bytes=3))
    assert values((await scrape(client))["offerflow_core_garbage"]) == {("malformed",): 1}


async def test_requests_are_counted_by_route_not_by_address(client: aiohttp.ClientSession) -> None:
    for path in ("/api/v1/jobs/a", "/api/v1/jobs/b", "/x", "/y", "/healthz"):
        async with client.get(path):
            pass
    async with client.request("PURGE", "/healthz"):
        pass
    requests = values((await scrape(client))["offerflow_http_requests"])
    assert requests["GET", "/api/v1/jobs/{job_id}", "404"] == 2
    assert requests["GET", "unknown", "404"] == 2
    assert requests["GET", "/healthz", "200"] == 1
    assert requests["other", "unknown", "405"] == 1


async def test_openmetrics_where_asked_for(client: aiohttp.ClientSession) -> None:
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with client.get("/metrics", headers=headers) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert "offerflow_term" in {metric.name for metric in parse_openmetrics(await answer.text())}


async def test_roles_are_bounded(world: World, client: aiohttp.ClientSession) -> None:
    for index in range(ROLES_MAX + 5):
        async with client.put(f"/api/v1/roles/team-{index}", json={"weight": 1}) as answer:
            assert answer.status == 200
    metrics = await scrape(client)
    assert len(values(metrics["offerflow_role_dominant_share_ppm"])) == ROLES_MAX
    assert len(values(metrics["offerflow_role_pending_tasks"])) == ROLES_MAX + 1
    assert ("(other)",) in values(metrics["offerflow_role_pending_tasks"])


def test_counters_with_a_code_share_a_metric() -> None:
    families = {
        metric.name: metric for metric in counters("core", {"garbage_malformed": 2, "garbage_oversized": 1, "a-b": 3})
    }
    assert values(families["offerflow_core_garbage"]) == {("malformed",): 2, ("oversized",): 1}
    assert values(families["offerflow_core_a_b"]) == {(): 3}

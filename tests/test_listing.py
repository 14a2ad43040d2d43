"""Lists over HTTP come a page at a time: pages of any size make the whole list, also while it changes."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import listing, views
from federation.api import AddShard, SetRole, SubmitJob
from federation.jobs import Job, TaskGroup
from federation.wire import LinkSample, NetReport
from tests.cli_world import offerflow, serving
from tests.http_client import client, problem, world
from tests.http_world import FakeAgent, World
from tests.test_http_api import V1, get

__all__ = ["client", "world"]  # fixtures

LISTS = {
    "jobs": "jobs", "agents": "agents", "offers": "offers", "network": "links", "shards": "shards", "roles": "roles",
}  # fmt: skip


async def fill(world: World, n: int = 7) -> None:
    agents = [FakeAgent(world, f"gw-{index}", f"plant-{index}") for index in range(n)]
    for index, agent in enumerate(agents):
        await agent.join()
        await world.ask(SubmitJob(job=Job(name="j", tasks=(TaskGroup(name="t", command=("true",)),))))
        await world.ask(SetRole(path=f"team/{index}"))
        # Names with slashes, one name twice, and none at all: the order is by name, then id.
        name = ("", "a/b", "a/b", "a", "z", "a b&c", "é")[index % 7]
        await world.ask(AddShard(shard_id=f"{index:064x}", size_bytes=1, name=name, in_store=True))
    samples = tuple(
        LinkSample(from_agent=f"gw-{index}", to_agent="gw-0", method="echo", rtt_us=1000) for index in range(1, n)
    )
    await agents[0]._say(NetReport(agent_id="gw-0", boot=1, conn=1, seq=next(agents[0]._seq), samples=samples))


async def pages(client: aiohttp.ClientSession, name: str, limit: int) -> AsyncIterator[list[Any]]:
    after = ""
    while True:
        page = await get(client, f"{V1}/{name}?limit={limit}{after}")
        yield page[LISTS[name]]
        if page["next_after"] is None:
            return
        after = f"&after={quote(page['next_after'])}"


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("limit", [1, 2, 6, 7, 1000])
async def test_pages_make_the_whole_list(world: World, client: aiohttp.ClientSession, name: str, limit: int) -> None:
    await fill(world)
    whole = (await get(client, f"{V1}/{name}"))[LISTS[name]]
    assert len(whole) >= 6
    found = [page async for page in pages(client, name, limit)]
    # What depends on the moment (a link's age) aside.
    assert [_names(entry) for page in found for entry in page] == [_names(entry) for entry in whole]
    assert all(len(page) == limit for page in found[:-1]) and 0 < len(found[-1]) <= limit


def _names(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(key) for key in ("job_id", "agent_id", "offer_id", "path", "shard_id", "from_id", "to_id"))


@pytest.mark.parametrize("name", LISTS)
async def test_a_page_is_bounded_and_an_empty_list_is_a_page(client: aiohttp.ClientSession, name: str) -> None:
    for limit in (0, 1001):
        async with client.get(f"{V1}/{name}?limit={limit}") as answer:
            await problem(answer, 400, "invalid")
    assert await get(client, f"{V1}/{name}?after=zzz%2Fzzz" if name != "jobs" else f"{V1}/jobs?after=9%2Fx") == {
        LISTS[name]: [],
        "next_after": None,
    }


@pytest.mark.parametrize("name", ["jobs", "shards", "network"])
async def test_a_cursor_that_is_none_is_refused(client: aiohttp.ClientSession, name: str) -> None:
    async with client.get(f"{V1}/{name}?after=nonsense") as answer:
        assert "next_after" in (await problem(answer, 400, "invalid"))["detail"]


async def test_a_forgotten_task_is_no_place_to_go_on_from(client: aiohttp.ClientSession) -> None:
    async with client.get(f"{V1}/tasks?after=gone/t/0") as answer:
        assert "begin again" in (await problem(answer, 410, "gone"))["detail"]
    assert (await get(client, f"{V1}/tasks?agent=gw-1&after=gone/t/0"))["tasks"] == []


async def test_what_stays_is_told_once_while_others_come_and_go(world: World) -> None:
    await fill(world)
    master = world.master
    first, after = listing.jobs(master, None, 3)
    del master.core.tasks.jobs[first[2].job_id]  # The very one that the cursor came from.
    rest, end = listing.jobs(master, after, 100)
    assert [view.job_id for view in (*first, *rest)] == ["j", *(f"j-{number}" for number in range(2, 8))]
    assert end is None
    page, after = listing.agents(master, None, 3)
    del master.core.agents.entries[page[2].agent_id]
    assert [view.agent_id for view in listing.agents(master, after, 100)[0]] == ["gw-3", "gw-4", "gw-5", "gw-6"]
    held, after = listing.shards(master, "*", None, 4)
    del master.core.shards.entries[held[3].shard_id]
    others, _ = listing.shards(master, "*", after, 100)
    assert len({view.shard_id for view in (*held, *others)}) == len(held) + len(others) == 7


@given(
    names=st.lists(st.tuples(st.text("ab/", max_size=3), st.integers(0, 99)), max_size=12, unique_by=lambda n: n[1]),
    limit=st.integers(1, 5),
    glob=st.sampled_from(["*", "a*", "*/*", "0000"]),
)
def test_shards_of_any_names_page_as_they_are_ordered(names: list[tuple[str, int]], limit: int, glob: str) -> None:
    master = _master_with(names)
    found: list[str] = []
    after = None
    while True:
        page, after = listing.shards(master, glob, after, limit)
        found += [view.shard_id for view in page]
        if after is None:
            break
    assert found == [view.shard_id for view in views.shards(master, glob)]


def _master_with(names: list[tuple[str, int]]) -> Any:
    from federation.config import MasterConfig
    from federation.events import Asked, Started
    from federation.master import Master

    master = Master(MasterConfig(), "fifo")
    master.handle(Started(term=1), 1)
    for name, number in names:
        request = AddShard(shard_id=f"{number:064x}", size_bytes=1, name=name, in_store=True)
        master.handle(Asked(request_id=str(number), request=request), 2)
    return master


def test_the_command_line_follows_the_pages(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.cli.client.PAGE", 2)
    with serving(tmp_path) as served:
        served.run(fill(served.world))
        for command, n in (
            (("job", "list"), 7), (("agent", "list"), 7), (("shard", "list"), 7), (("role", "list"), 9),
            (("net", "list"), 6), (("task", "list"), 7),
        ):  # fmt: skip
            result = offerflow(*command, "-o", "json", env={"OFFERFLOW_URL": served.url})
            assert (result.code, len(msgspec.json.decode(result.out))) == (0, n), (command, result)
        result = offerflow("shard", "show", f"{6:064x}", env={"OFFERFLOW_URL": served.url})
        assert result.code == 0

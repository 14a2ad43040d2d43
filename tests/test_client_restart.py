"""The SDK through `kill -9` of a real master and its start on the same journal: no update lost, none seen twice."""

import asyncio
from pathlib import Path

import pytest

from federation.broker import free_port
from federation.client import Framework, task
from federation.market.protocol import StreamEvent, Update
from tests.test_up import Started, started

pytestmark = [pytest.mark.live, pytest.mark.slow]
SLEEP_S = (1, 4, 8, 12)  # some end before the kill, some while nobody listens, some after


async def test_no_update_is_lost_or_seen_twice_when_the_master_is_killed(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    arguments = (
        "up", "--agents", "1", "--http", url.removeprefix("http://"), "--state-dir", str(tmp_path / "state"),
        "--policy", "fifo",
    )  # fmt: skip
    updates: list[Update] = []

    def note(event: StreamEvent) -> None:
        if isinstance(event, Update) and event.uuid:
            updates.append(event)

    async def listen(framework: Framework) -> None:
        async for event in framework.events():
            note(event)

    def start() -> Started:
        up = Started(*arguments, TMPDIR=str(tmp_path))
        up.wait_for(r"^ready")
        return up

    with started(*arguments, TMPDIR=str(tmp_path)) as first:
        first.wait_for(r"^ready")
        async with Framework(url, "patient", failover_timeout_s=600) as framework:
            listening = asyncio.create_task(listen(framework))
            specs = [
                task(f"t{n}", ["sleep", str(sleep_s)], cpus=0.1, memory_bytes=2**25)
                for n, sleep_s in enumerate(SLEEP_S)
            ]
            async for offer in framework.offers():
                await framework.launch(offer, *specs)
                break
            assert (await framework.ended("t0")).state == "TASK_FINISHED"
            first.process.kill()
            await asyncio.to_thread(first.process.wait)
            second = await asyncio.to_thread(start)
            try:
                async with asyncio.timeout(120):
                    ends = [await framework.ended(f"t{n}") for n in range(len(SLEEP_S))]
                # An agent that was killed with the master cannot say how a task ended that it had to stop.
                assert {end.state for end in ends} <= {"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_GONE"}
                finals = [u.task_id for u in updates if u.state in ("TASK_FINISHED", "TASK_FAILED", "TASK_GONE")]
                assert sorted(set(finals)) == sorted(finals), "told once"
                assert len({update.uuid for update in updates}) == len(updates)
                async for offer in framework.offers():
                    await framework.launch(offer, task("after", ["true"], cpus=0.1, memory_bytes=2**25))
                    break
                assert (await framework.ended("after")).state == "TASK_FINISHED"
            finally:
                listening.cancel()
                await framework.__aexit__(None, None, None)
                assert await asyncio.to_thread(second.end) == 0

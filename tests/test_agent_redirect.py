"""Stories of running fetches: they are told of while they run, and go on from elsewhere when the master says so."""

from agent_world import SECOND_US, World, fetch, held, launch, sha

from agents.commands import Fetch, Redirect, StartTask
from agents.events import FetchEnded, FetchesProgressed
from federation.wire import FetchProgress, LinkSample, NetReport, RedirectFetch


def staging() -> tuple[World, int]:
    world = World()
    world.boot()
    world.order(launch(1, reads=(fetch(1, "a"),)))
    (begun,) = world.take(Fetch)
    world.clear()
    return world, begun.fetch_id


def test_progress_is_told_within_a_second_and_once() -> None:
    world, _ = staging()
    progress = FetchProgress(shard_id=sha(1), from_agent="a", done_bytes=500)
    sample = LinkSample(from_agent="a", to_agent="gw-1", method="transfer", bandwidth_bps=9, bytes=500)
    world.event(FetchesProgressed(fetches=(progress,), samples=(sample,)))
    world.pass_time(SECOND_US)
    (report,) = world.take(NetReport)
    assert report.fetches == (progress,) and sample in report.samples
    world.pass_time(60 * SECOND_US)
    assert all(not later.fetches for later in world.take(NetReport))


def test_a_running_fetch_is_redirected_and_its_own_sources_come_after() -> None:
    world, fetch_id = staging()
    world.order(RedirectFetch(cmd_id=2, fetch=fetch(1, "b")))
    (redirect,) = world.take(Redirect)
    assert redirect.fetch_id == fetch_id and redirect.fetch.sources[0].url == "http://b"
    world.event(FetchEnded(fetch_id=fetch_id, shard=held(1), ok=False, reason="fetch"))
    (again,) = world.take(Fetch)
    assert again.fetch.sources[0].url == "http://a"
    world.event(FetchEnded(fetch_id=again.fetch_id, shard=held(1), ok=True))
    assert len(world.take(StartTask)) == 1


def test_a_redirect_of_what_runs_no_more_is_acknowledged_and_void() -> None:
    world, fetch_id = staging()
    world.event(FetchEnded(fetch_id=fetch_id, shard=held(1), ok=True))
    world.clear()
    world.order(RedirectFetch(cmd_id=2, fetch=fetch(1, "b")))
    assert world.take(Redirect) == []

"""The live master over a real broker: what it acknowledges is durable, what it was comes back, what fails is said."""

import asyncio
import resource
from pathlib import Path

import pytest

from federation import views
from federation.api import JobView, Problem, SetRole, SubmitJob
from federation.broker import Kind, find_mosquitto, free_port
from federation.commands import Persist
from federation.config import MasterConfig
from federation.driver import LiveMaster
from federation.errors import ConfigError, StorageError
from federation.events import Asked, Started
from federation.facts import JobAccepted, TermBegun
from federation.master import Master
from federation.mqtt import MqttLink
from federation.recording import read
from federation.saved import decode_saved
from federation.wire import MASTER_STATE_TOPIC, Birth, MasterState, Offer, Ping, decode_master_message, encode
from policies.model import Resources
from tests.live_world import KINDS, ROOM, WireAgent, broker_of, job, kind, live_config, running, until

__all__ = ["kind"]  # a fixture

pytestmark = pytest.mark.live


async def submit(live: LiveMaster, name: str, count: int = 1) -> JobView:
    answer = await live.ask(SubmitJob(job=job(name, count)))
    assert isinstance(answer, JobView), answer
    return answer


def state_of(live: LiveMaster, job_id: str) -> str:
    view = views.job(live.master, job_id)
    return view.state if view is not None else ""


async def test_a_job_runs_from_submission_to_end(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path / "b", kind) as broker:
        live = LiveMaster.open(live_config(tmp_path, broker.url))
        agent = WireAgent(broker.url, "gw-1")
        async with running(live), agent.running():
            view = await submit(live, "digits", 20)
            await until(lambda: state_of(live, view.job_id) == "finished")
            assert len(agent.launches) == 20
            assert len({launch.cmd_id for launch in agent.launches}) == 20
            await until(lambda: len(agent.acked_statuses) == 20)
            assert live.broker_status().startswith("connected to 127.0.0.1")
            assert live.broker_status().endswith("MQTT 5" if kind == "mosquitto" else "MQTT 3.1.1")
        assert live.broker_status().startswith("lost")


async def test_a_restart_brings_back_the_same_master(tmp_path: Path, kind: Kind) -> None:
    """L7, and a new term: the facts alone make the state; with a snapshot or without."""
    async with broker_of(tmp_path / "b", kind) as broker:
        config = live_config(tmp_path, broker.url)
        first = LiveMaster.open(config)
        async with running(first), WireAgent(broker.url, "gw-1").running():
            view = await submit(first, "one", 5)
            await until(lambda: state_of(first, view.job_id) == "finished")
        again = LiveMaster.open(config)  # From the snapshot of the clean stop.
        assert again.master.durable() == first.master.durable()
        replayed = Master(config.master, config.policy)
        for _, fact in await again.journal.read(0, 10_000):
            replayed.apply(fact)
        assert replayed.durable() == first.master.durable()
        async with running(again):
            await until(lambda: again.master.term == 2)
            assert state_of(again, view.job_id) == "finished"
            assert again.now_us() > view.submitted_us


async def test_what_was_waiting_runs_after_a_crash(tmp_path: Path, kind: Kind) -> None:
    """The process dies without a farewell; a job it acknowledged is there and runs in the next term."""
    async with broker_of(tmp_path / "b", kind) as broker:
        config = live_config(tmp_path, broker.url)
        first = LiveMaster.open(config)
        task = asyncio.create_task(first.run())
        view = await submit(first, "kept", 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        again = LiveMaster.open(config)
        async with running(again), WireAgent(broker.url, "gw-1").running():
            await until(lambda: state_of(again, view.job_id) == "finished")


async def test_the_masters_state_is_announced_and_taken_back(tmp_path: Path, kind: Kind) -> None:
    states: list[MasterState] = []

    async def hear(topic: str, payload: bytes, delivery: int, retained: bool) -> None:
        message = decode_master_message(payload)
        assert isinstance(message, MasterState)
        states.append(message)
        link.ack(delivery)

    async def nothing(_: str) -> None: ...

    async with broker_of(tmp_path / "b", kind) as broker:
        link = MqttLink(
            broker.url, "watcher", on_message=hear, on_up=nothing, on_down=nothing, subscriptions=[MASTER_STATE_TOPIC]
        )
        watching = asyncio.create_task(link.run())
        live = LiveMaster.open(live_config(tmp_path, broker.url))
        async with running(live):
            await until(lambda: states)
            assert states[-1] == MasterState(term=1, online=True, http_url="http://127.0.0.1:1")
        await until(lambda: not states[-1].online)
        crashing = LiveMaster.open(live_config(tmp_path, broker.url))
        task = asyncio.create_task(crashing.run())
        await until(lambda: states[-1].online)
        sock = crashing._link.tcp_info_socket()
        assert sock is not None
        sock.shutdown(2)  # The connection breaks: the broker speaks the will.
        await until(lambda: not states[-1].online and states[-1].term == 2)
        await until(lambda: states[-1].online)  # Found again, said again.
        crashing.stop()
        await task
        await link.close()
        await watching


@pytest.mark.parametrize(
    "kind",
    [
        KINDS[0],
        pytest.param("amqtt", marks=pytest.mark.skip(reason="amqtt dies with its master")),
    ],
)
async def test_a_broker_that_is_killed_costs_time_and_nothing_else(tmp_path: Path, kind: Kind) -> None:
    """A job that comes in meanwhile is taken, and runs once the broker is back; it has forgotten everything."""
    port = free_port()
    first = await own_mosquitto(tmp_path, port)
    live = LiveMaster.open(live_config(tmp_path, f"mqtt://127.0.0.1:{port}"))
    agent = WireAgent(f"mqtt://127.0.0.1:{port}", "gw-1")
    async with running(live), agent.running():
        before = await submit(live, "before", 5)
        await until(lambda: state_of(live, before.job_id) == "finished")
        first.kill()
        await first.wait()
        await until(lambda: live.broker_status().startswith("lost"))
        meanwhile = await submit(live, "meanwhile", 5)
        second = await own_mosquitto(tmp_path, port)
        await until(lambda: live.broker_status().startswith("connected"), 30)
        await until(lambda: state_of(live, meanwhile.job_id) == "finished", 30)
    runs = [(launch.task_id, launch.attempt) for launch in agent.launches]
    assert len(set(runs)) == 10
    second.terminate()
    await second.wait()


async def own_mosquitto(folder: Path, port: int) -> asyncio.subprocess.Process:
    """Mosquitto on a port that stays the same, with what it needs and no more."""
    binary = find_mosquitto()
    assert binary is not None
    conf = folder / "mosquitto.conf"
    await asyncio.to_thread(conf.write_text, f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    return await asyncio.create_subprocess_exec(binary, "-c", str(conf), stderr=asyncio.subprocess.DEVNULL)


async def test_the_disk_fills_up_and_the_master_steps_down(tmp_path: Path, kind: Kind) -> None:
    """Nothing that was not durable is acknowledged; who waits is told; `run` raises; the next start has the rest."""
    async with broker_of(tmp_path / "b", kind) as broker:
        config = live_config(tmp_path, broker.url)
        live = LiveMaster.open(config)
        task = asyncio.create_task(live.run())
        kept = await submit(live, "kept")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "journal.sqlite-wal").stat().st_size, hard))
        try:
            with pytest.raises(StorageError, match="free or replace the disk"):
                await live.ask(SubmitJob(job=job("lost", 100)))
            with pytest.raises(StorageError, match="free or replace the disk"):
                await asyncio.wait_for(task, 20)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with pytest.raises(StorageError, match="free or replace the disk"):
            await live.ask(SubmitJob(job=job("later")))
        with pytest.raises(StorageError):
            async for _ in live.subscribe(0):
                pass
        # The dead journal keeps its lock until its process ends: look at a copy, as the next process would.
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("journal.sqlite", "journal.sqlite-wal"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
        again = LiveMaster.open(live_config(copy, broker.url))
        assert views.job(again.master, kept.job_id) is not None
        assert views.job(again.master, "lost") is None
        await again.journal.close()


async def test_garbage_is_counted_and_the_master_serves_on(tmp_path: Path, kind: Kind) -> None:
    async def nothing(*_: object) -> None: ...

    def birth(agent_id: str = "gw-1") -> bytes:
        return encode(Birth(agent_id=agent_id, boot=1, conn=1, version="1", site="plant", tier="edge", total=ROOM))

    offer = encode(Offer(agent_id="gw-1", boot=1, conn=1, offer_id="o", free=Resources(), expires_in_us=1))
    rubbish: list[tuple[str, bytes, bool]] = [
        ("of/1/a/gw-1/state", b"\xc1not MessagePack", False),
        ("of/1/a/gw-1/state", b"\x91" * 10_000, False),  # nested beyond sense
        ("of/1/a/gw-1/state", b"\x00" * (300 * 1024), False),
        ("of/1/a/gw-1/state", birth("gw-2"), False),
        ("of/1/a/gw-1/offer", birth(), False),
        ("of/1/a/gw-1/state", birth().replace(b"birth/1", b"birth/9"), False),
        ("of/1/a/gw-1/state", birth().replace(b"birth/1", b"berth/1"), False),
        ("of/1/a/gw-1/net", encode(Ping(agent_id="gw-1", boot=1, conn=1, nonce=1)), True),
        ("of/1/a/Not-An-Id/state", birth(), False),
        ("of/1/a/gw-1/state", offer, False),
        ("of/1/a/gw-1/net", b"", False),
    ]
    async with broker_of(tmp_path / "b", kind) as broker:
        link = MqttLink(broker.url, "vandal", on_message=nothing, on_up=nothing, on_down=nothing)
        vandal = asyncio.create_task(link.run())
        await until(lambda: link.is_up)
        link.publish(*rubbish[7][:2], retain=True)  # There before the master is: it arrives as a retained message.
        await until(lambda: link.n_unsent == 0)
        live = LiveMaster.open(live_config(tmp_path, broker.url))
        async with running(live), WireAgent(broker.url, "gw-7").running():
            await until(lambda: live.broker_status().startswith("connected"))
            for topic, payload, retain in rubbish:
                if not retain:
                    assert link.publish(topic, payload)
            view = await submit(live, "digits")
            await until(lambda: state_of(live, view.job_id) == "finished")
            await until(lambda: sum(n for name, n in live.master.counters.items() if "garbage" in name) == len(rubbish))
            counted = {
                name.removeprefix("garbage_"): n for name, n in live.master.counters.items() if "garbage" in name
            }
            assert counted == {
                "malformed": 3, "oversized": 1, "identity": 1, "topic": 3, "unknown_version": 1, "unknown_message": 1,
                "retained": 1,
            }  # fmt: skip
        await link.close()
        await vandal


async def test_facts_can_be_followed_and_resumed(tmp_path: Path) -> None:
    async with broker_of(tmp_path / "b", "amqtt") as broker:
        live = LiveMaster.open(live_config(tmp_path, broker.url))
        seen = []
        async with running(live):
            await submit(live, "one")
            async for seq, fact in live.subscribe(0):
                seen.append((seq, fact))
                if isinstance(fact, JobAccepted):
                    break
            assert isinstance(seen[0][1], TermBegun) and [seq for seq, _ in seen] == list(range(1, len(seen) + 1))

            async def accepted(after_seq: int | None) -> str:
                return await anext(f.job_id async for _, f in live.subscribe(after_seq) if isinstance(f, JobAccepted))

            following = [asyncio.create_task(accepted(after)) for after in (seen[-1][0], None, 0)]
            await until(lambda: following[2].done())
            assert following[2].result() == "one" and not following[0].done() and not following[1].done()
            await submit(live, "two")
            assert [await asyncio.wait_for(task, 5) for task in following] == ["two", "two", "one"]
            idle = asyncio.create_task(accepted(None))
            await asyncio.sleep(0.05)
        with pytest.raises(StorageError):
            await idle


async def test_a_recording_replays_to_the_same_state(tmp_path: Path, kind: Kind) -> None:
    async with broker_of(tmp_path / "b", kind) as broker:
        config = live_config(tmp_path, broker.url)
        first = LiveMaster.open(config)
        async with running(first):
            await submit(first, "before")
        recorded = LiveMaster.open(live_config(tmp_path, broker.url, recording=str(tmp_path / "run.rec")))
        async with running(recorded), WireAgent(broker.url, "gw-1").running():
            view = await submit(recorded, "during", 10)
            await until(lambda: state_of(recorded, view.job_id) == "finished")
    header, events = read(tmp_path / "run.rec")
    assert header.state is not None
    replayed = Master.restore(header.config, decode_saved(header.state).durable, header.policy)
    for event in events:
        replayed.handle(event.event, event.at_us)
    assert replayed.durable() == recorded.master.durable()
    assert replayed.counters == recorded.master.counters


async def test_snapshot_and_tail_are_the_same_as_all_facts(tmp_path: Path) -> None:
    """A crash amid a busy life: a snapshot that held a fact more or less than its number says would show."""
    async with broker_of(tmp_path / "b", "mosquitto") as broker, WireAgent(broker.url, "gw-1").running() as agent:
        for crash in range(3):
            agent.launches.clear()
            config = live_config(tmp_path / str(crash), broker.url, snapshot_every_facts=5, batch_max=2)
            live = LiveMaster.open(config)
            task = asyncio.create_task(live.run())
            await asyncio.gather(*(submit(live, f"j{index}", 3) for index in range(40)))
            await until(lambda n=crash: len(agent.launches) > 20 + 10 * n)
            task.cancel()  # No snapshot at the end: what counts is one that was taken amid the work.
            await asyncio.gather(task, return_exceptions=True)
            again = LiveMaster.open(config)
            replayed = Master(config.master, config.policy)
            for _, fact in await again.journal.read(0, 10_000):
                replayed.apply(fact)
            assert again.journal.last_seq >= 20 and again.master.durable() == replayed.durable()
            await again.journal.close()


async def test_a_snapshot_is_of_the_moment_it_was_ordered(tmp_path: Path) -> None:
    """The core goes on while the snapshot is written: what it does then is not in it."""
    live = LiveMaster.open(live_config(tmp_path, "mqtt://h"))
    made = live.master.handle(Started(term=1), live.now_us())
    await live.journal.commit([command.fact for command in made if isinstance(command, Persist)])
    before, saving = live.master.durable(), live._saving()
    live.master.handle(Asked(request_id="1", request=SubmitJob(job=job())), live.now_us())
    assert live.master.durable() != before
    await saving
    await live.journal.close()
    again = LiveMaster.open(live.config)
    assert again.master.durable() == before
    await again.journal.close()


async def test_history_ends_where_the_settings_say(tmp_path: Path) -> None:
    async with broker_of(tmp_path / "b", "amqtt") as broker:
        config = live_config(tmp_path, broker.url, snapshot_every_facts=10, history_facts=3)
        live = LiveMaster.open(config)
        async with running(live):
            for index in range(30):
                await submit(live, f"j{index}")
        again = LiveMaster.open(config)
        assert len(await again.journal.read(0, 100)) == 3
        await again.journal.close()


async def test_a_slow_core_holds_the_broker_back(tmp_path: Path, kind: Kind) -> None:
    """A flood of pings at an inbox of eight: all of them are heard, and the agents stay."""
    n_pings = 2000 if kind == "mosquitto" else 100  # amqtt delivers a hundredth of it a second.
    async with broker_of(tmp_path / "b", kind) as broker:
        live = LiveMaster.open(live_config(tmp_path, broker.url, inbox_max=8, batch_max=4))
        agents = [WireAgent(broker.url, f"gw-{i}") for i in range(3)]
        async with running(live), agents[0].running(), agents[1].running(), agents[2].running():
            await until(lambda: len(views.agents(live.master)) == 3)
            for nonce in range(n_pings):
                for agent in agents:
                    agent.say(Ping, "net", nonce=nonce)
            await until(lambda: all(sum(type(m).__name__ == "Pong" for m in a.heard) == n_pings for a in agents), 30)
            assert not any(name.startswith("garbage") for name in live.master.counters)


async def test_who_asks_of_a_stopped_master_is_told(tmp_path: Path) -> None:
    async with broker_of(tmp_path / "b", "amqtt") as broker:
        live = LiveMaster.open(live_config(tmp_path, broker.url))
        async with running(live):
            assert not isinstance(await live.ask(SetRole(path="vision", weight=2)), Problem)
        with pytest.raises(StorageError, match="stopping"):
            await live.ask(SubmitJob(job=job()))


def test_two_masters_in_one_folder_are_refused(tmp_path: Path) -> None:
    config = live_config(tmp_path, "mqtt://127.0.0.1:1")
    live = LiveMaster.open(config)
    with pytest.raises(StorageError, match="in use by another"):
        LiveMaster.open(config)
    asyncio.run(live.journal.close())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"policy": "flwo"}, "flwo"),
        ({"folder": "/dev/null/x"}, "cannot be made"),
        ({"broker": "tcp://h"}, "is not a broker"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    config = live_config(**{"folder": tmp_path, "url": settings.pop("broker", "mqtt://h"), **settings})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=said):
        LiveMaster.open(config)


def test_the_masters_settings_reach_the_core(tmp_path: Path) -> None:
    config = live_config(tmp_path, "mqtt://h", master=MasterConfig(agents_max=7))
    live = LiveMaster.open(config)
    assert live.master.config.agents_max == 7
    asyncio.run(live.journal.close())

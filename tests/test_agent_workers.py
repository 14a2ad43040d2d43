"""The workers as a configuration puts them together: two sites, one artifact, a task whose output the other reads."""

import asyncio
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agents.config import AgentConfig
from agents.data.fetcher import Fetcher
from agents.data.server import DataServer
from agents.events import Event, FetchEnded, LinksMeasured, TaskEnded, TaskStarted
from agents.executors.process import ProcessExecutor
from agents.probes.prober import Prober
from agents.store import ShardStore
from agents.workers import build, read_token
from federation.errors import ConfigError
from federation.wire import Fetch, HeldShard, Launch, Output, Peer, Source
from policies.model import Needs

TOKEN = "not-a-secret"


def near(found_bps: int | None, true_bps: int) -> bool:
    """Within what a machine busy with other tests does to a transfer of a tenth of a second."""
    return found_bps is not None and 0.6 * true_bps < found_bps < 1.4 * true_bps


class Machine:
    """An agent without its core: what it is told to do is done, what it posts is kept."""

    def __init__(self, folder: Path, agent_id: str, site: str, **fields: object) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.folder = folder / agent_id
        self.folder.mkdir()
        config = msgspec.structs.replace(AgentConfig(agent_id=agent_id, site=site), **fields)
        self.workers = build(config, self.folder, self.events.put)
        self.agent_id, self.site, self.url = agent_id, site, ""
        assert isinstance(self.workers.store, ShardStore)
        self.store = self.workers.store

    async def start(self) -> None:
        await self.workers.store.open()
        self.url = await self.workers.data_server.start()

    async def next(self) -> Event:
        async with asyncio.timeout(20):
            return await self.events.get()

    async def fetch(self, shard: HeldShard, source: "Machine") -> FetchEnded:
        where = Source(url=f"{source.url}/shards/{shard.shard_id}", agent_id=source.agent_id, site=source.site)
        fetch = Fetch(shard_id=shard.shard_id, size_bytes=shard.size_bytes, name=shard.name, sources=(where,))
        await self.workers.fetcher.fetch(1, fetch)
        event = await self.next()
        assert isinstance(event, FetchEnded)
        return event


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Machine, Machine]]:
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    edge = Machine(tmp_path, "edge-1", "plant-a", token_file=str(token_file), uplink_bps=16_000_000)
    rack = Machine(tmp_path, "rack-1", "cloud", token_file=str(token_file))
    for machine in (edge, rack):
        await machine.start()
    yield edge, rack
    for machine in (edge, rack):
        await machine.workers.data_server.stop()


@pytest.mark.live
async def test_data_code_task_and_result_cross_two_sites(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    edge, rack = pair
    given = tmp_path / "given"
    given.write_bytes(bytes(1_000_000))
    data = edge.store.add_file(given, "digits/0")
    given.unlink()
    with tarfile.open(given, "w:gz") as tar:
        code = b"import sys; open(sys.argv[2], 'w').write(str(len(open(sys.argv[1], 'rb').read())))"
        info = tarfile.TarInfo("count.py")
        info.size = len(code)
        tar.addfile(info, io.BytesIO(code))
    artifact = edge.store.add_file(given, "")

    fetched = await rack.fetch(data, edge)
    assert fetched.ok and near(fetched.samples[0].bandwidth_bps, 16_000_000), "the edge's uplink"
    assert (await rack.fetch(artifact, edge)).ok
    launch = Launch(
        cmd_id=1, task_id="job/train/0", attempt=1, expires_in_us=1, needs=Needs(cpu_milli=1000),
        command=("python", "count.py", "{shard.path}", "{out}/model"),
        artifact=Fetch(shard_id=artifact.shard_id, size_bytes=artifact.size_bytes),
        reads=(Fetch(shard_id=data.shard_id, size_bytes=data.size_bytes, name=data.name),),
        outputs=(Output(name="model", path="model", bytes_max=100),),
    )  # fmt: skip
    running = asyncio.create_task(rack.workers.executor.run(launch))
    assert isinstance(await rack.next(), TaskStarted)
    rack.workers.executor.release("job/train/0", 1)
    ended = await rack.next()
    await running
    assert isinstance(ended, TaskEnded) and (ended.reason, ended.exit_code) == ("exit", 0), ended
    (model,) = ended.outputs
    assert model.shard_id == hashlib.sha256(b"1000000").hexdigest()
    assert (await edge.fetch(model, rack)).ok


@pytest.mark.live
async def test_a_peer_is_probed_through_its_uplink(pair: tuple[Machine, Machine]) -> None:
    edge, rack = pair
    await rack.workers.prober.probe(Peer(agent_id="edge-1", site="plant-a", data_url=edge.url), 262_144)
    event = await rack.next()
    assert isinstance(event, LinksMeasured)
    echo, rate = event.samples
    assert echo.rtt_us is not None and near(rate.bandwidth_bps, 16_000_000)


async def test_each_worker_is_its_port(tmp_path: Path) -> None:
    workers = Machine(tmp_path, "edge-1", "plant-a").workers
    assert isinstance(workers.executor, ProcessExecutor)
    assert isinstance(workers.fetcher, Fetcher)
    assert isinstance(workers.prober, Prober)
    assert isinstance(workers.data_server, DataServer)
    assert workers.gauge.total().cpu_milli > 0


def test_an_open_data_port_needs_a_token_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set token_file"):
        Machine(tmp_path, "edge-1", "plant-a", data_host="0.0.0.0", data_url="http://edge-1.plant-a:7000")


def test_token_files(tmp_path: Path) -> None:
    assert read_token("") == ""
    path = tmp_path / "token"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(str(path))
    for content in (b"", b"two words", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="token_file"):
            read_token(str(path))
    path.write_bytes(b"  word\n")
    assert read_token(str(path)) == "word"

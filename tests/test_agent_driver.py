"""The live agent as a process of its own on a real broker: joined, killed, cut off, and with a failing disk."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psutil
import pytest
from agent_live import AgentProcess, DeskMaster
from agent_world import World, launch

from agents.config import AgentConfig, read_config
from agents.driver import agent_folder
from agents.facts import Fact
from federation.broker import Broker, Kind, find_mosquitto, start_broker
from federation.errors import ConfigError
from federation.journal import Journal
from federation.wire import (
    CommandBatch,
    Death,
    FetchShard,
    Kill,
    Launch,
    MasterState,
    NetReport,
    Offer,
    Output,
    RebirthRequest,
    Source,
    encode,
)
from federation.wire import Fetch as WireFetch
from policies.model import Needs
from tests.executor_world import ESCAPE
from tests.live_world import KINDS, broker_of

pytestmark = pytest.mark.live


class Site:
    """One broker, one master, one agent that can be started again."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder = folder
        self.broker = broker
        self.master = DeskMaster(self.broker.url, "cam-1")
        self.config = AgentConfig(
            agent_id="cam-1",
            site="plant-a",
            broker=self.broker.url,
            data_dir=str(folder / "data"),
            speed_milli=1000,
            cpu_milli=4000,
            memory_bytes=2**30,
            disk_bytes=2**30,
        )
        self.agent: AgentProcess | None = None
        self._n_commands = 0

    def start_agent(self, **options: int) -> AgentProcess:
        self.agent = AgentProcess(self.config, self.folder, **options)
        return self.agent

    async def joined(self, boot: int) -> None:
        await self.master.until(lambda: any(isinstance(m, Offer) and m.boot == boot for m in self.master.heard))

    def launch(self, task_id: str, script: str, **fields: object) -> Launch:
        self._n_commands += 1
        values = {
            "expires_in_us": 60_000_000,
            "needs": Needs(cpu_milli=100, memory_bytes=2**24),
            "kill_grace_us": 200_000,
            "command": ("/bin/sh", "-c", script),
        }
        command = Launch(
            cmd_id=self._n_commands,
            task_id=task_id,
            attempt=1,
            **{**values, **fields},
        )  # type: ignore[arg-type]
        self.master.order(command)
        return command

    def next_cmd(self) -> int:
        self._n_commands += 1
        return self._n_commands


@asynccontextmanager
async def site_of(folder: Path, kind: Kind | None) -> AsyncIterator[Site]:
    async with broker_of(folder / "broker", kind) as broker:
        site = Site(folder, broker)
        await site.master.start()
        try:
            yield site
        finally:
            if site.agent is not None and site.agent.process.poll() is None:
                for task in {m.task_id for m in site.master.statuses.values() if hasattr(m, "task_id")}:
                    site.master.order(Kill(cmd_id=site.next_cmd(), task_id=task, attempt=1))
                await site.agent.leave()
            await site.master.stop()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """On the broker that an operator would get here."""
    async with site_of(tmp_path, None) as site:
        yield site


@pytest.fixture(params=KINDS)
async def each_site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """What leans on the broker holds on both."""
    async with site_of(tmp_path, request.param) as site:
        yield site


async def test_it_joins_measures_runs_a_task_and_leaves(each_site: Site) -> None:
    site = each_site
    agent = site.start_agent()
    await site.joined(1)
    birth = site.master.births[0]
    assert (birth.site, birth.seq, birth.total.cpu_milli, birth.data_url[:17]) == (
        "plant-a",
        0,
        4000,
        "http://127.0.0.1:",
    )
    site.launch(
        "job/train/0",
        "echo hello; printf model > {out}/m.bin",
        outputs=(Output(name="model", path="m.bin", bytes_max=100),),
    )
    end = await site.master.until(lambda: site.master.end_of("job/train/0"))
    assert (end.state, end.exit_code, end.log_tail.strip()) == ("finished", 0, "hello")
    (model,) = end.outputs
    assert (model.shard_id, model.name) == (hashlib.sha256(b"model").hexdigest(), "job/train/0/model")
    assert site.master.states("job/train/0") == ["running", "finished"]
    site.master.say(RebirthRequest(term=1))
    await site.master.until(lambda: len(site.master.births) == 2)
    assert site.master.births[1].shards == (model,)
    assert await agent.leave() == 0
    death = await site.master.until(lambda: [m for m in site.master.heard if isinstance(m, Death)])
    assert [(d.boot, d.conn, d.reason) for d in death] == [(1, 1, "shutdown")]


async def test_both_round_trips_are_told_apart(site: Site) -> None:
    site.config = msgspec.structs.replace(site.config, net_report_every_us=1_000_000)
    site.start_agent()

    def methods() -> set[str]:
        return {s.method for m in site.master.heard if isinstance(m, NetReport) for s in m.samples if s.rtt_us}

    await site.master.until(lambda: methods() >= {"tcp_info", "mqtt_echo"})


async def test_a_killed_agent_adopts_what_runs_and_tells_its_end_once(each_site: Site) -> None:
    site = each_site
    agent = site.start_agent()
    await site.joined(1)
    gate = site.folder / "gate"
    site.launch("job/a/0", f"echo $$ > {site.folder}/pid; while [ ! -e {gate} ]; do sleep 0.05; done; exit 3")
    site.launch("job/b/0", "exit 0")
    await site.master.until(lambda: site.master.states("job/a/0") == ["running"] and site.master.end_of("job/b/0"))
    agent.kill()
    again = site.start_agent()
    await site.joined(2)
    assert ("job/a/0", "running") in [(task.task_id, task.state) for task in site.master.births[-1].tasks]
    again.kill()
    gate.touch()  # It ends while nobody watches.
    site.start_agent()
    await site.joined(3)
    end = await site.master.until(lambda: site.master.end_of("job/a/0"))
    assert (end.state, end.reason, end.exit_code) == ("failed", "exit", 3)
    assert site.master.states("job/a/0") == ["running", "failed"]


async def test_kills_at_any_moment_run_nothing_twice_and_lose_no_status(each_site: Site) -> None:
    """Each task appends one line to its file; the agent is killed thirteen times while they come and go."""
    site = each_site
    n_tasks = 0
    site.start_agent()
    for boot in range(1, 14):
        await site.joined(boot)
        for _ in range(3):
            script = f"echo run >> {site.folder}/ran-{n_tasks}; sleep 0.{n_tasks % 4}"
            site.launch(f"job/t/{n_tasks}", script)
            n_tasks += 1
        await asyncio.sleep(0.013 * boot)  # Each kill hits another moment of the launches' way.
        assert site.agent is not None
        site.agent.kill()
        site.start_agent()
    await site.joined(14)
    await site.master.until(lambda: all(site.master.end_of(f"job/t/{n}") for n in range(n_tasks)))
    for n in range(n_tasks):
        states = site.master.states(f"job/t/{n}")
        ran = site.folder / f"ran-{n}"
        lines = ran.read_text().splitlines() if ran.exists() else []
        assert len(lines) <= 1, f"task {n} ran {len(lines)} times: {states}"
        assert states.count("finished") + states.count("failed") == 1, states
        assert states[-1] == "failed" or lines == ["run"]
    assert sorted(site.master.statuses) == list(range(1, len(site.master.statuses) + 1)), "no status is missing"


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed; amqtt cannot die without its process")
async def test_a_broker_killed_and_back_loses_nothing(site: Site) -> None:
    site.start_agent()
    await site.joined(1)
    site.launch("job/a/0", "sleep 0.5")
    await site.master.until(lambda: site.master.states("job/a/0") == ["running"])
    await site.broker.kill()
    await asyncio.sleep(1.0)  # The task ends while nobody hears it.
    again = await start_broker(site.folder / "again", "mosquitto", port=urlsplit(site.broker.url).port)
    end = await site.master.until(lambda: site.master.end_of("job/a/0"))
    assert end.state == "finished"
    lives = [(birth.boot, birth.conn, birth.seq) for birth in site.master.births]
    assert lives[0] == (1, 1, 0)
    assert lives[-1][0] == 1 and lives[-1][1] >= 2
    await again.stop()


async def test_statuses_that_nobody_takes_are_told_again_until_one_does(each_site: Site) -> None:
    site = each_site
    site.master.acks_statuses = False
    site.start_agent()
    await site.joined(1)
    site.launch("job/a/0", "true")
    await site.master.until(lambda: min(site.master.times_told.get(n, 0) for n in (1, 2)) >= 2)
    site.master.acks_statuses = True
    told = dict(site.master.times_told)
    await site.master.until(lambda: min(site.master.times_told[n] - told[n] for n in (1, 2)) == 1)


async def test_duplicates_other_lives_and_garbage_do_no_harm(each_site: Site) -> None:
    site = each_site
    site.start_agent()
    await site.joined(1)
    order = site.launch("job/a/0", f"echo run >> {site.folder}/ran")
    for _ in range(3):
        site.master.order(order)
    site.master.say(CommandBatch(term=1, boot=9, conn=9, commands=(order,)))
    site.master.say_bytes(b"\xc1garbage", "cmd")
    site.master.say_bytes(b"", "ctl")
    site.master.say_bytes(b"\x91" * 200_000, "cmd")
    site.master.say_bytes(encode(MasterState(term=7, online=False)), "ctl")  # Not its topic.
    await site.master.until(lambda: site.master.end_of("job/a/0"))
    site.launch("job/b/0", "true")
    assert (await site.master.until(lambda: site.master.end_of("job/b/0"))).state == "finished"
    assert (site.folder / "ran").read_text() == "run\n"
    assert site.agent is not None
    assert site.agent.log().count("garbage from the broker") == 4


async def test_killing_ends_the_whole_tree(site: Site) -> None:
    site.start_agent()
    await site.joined(1)
    site.launch("job/a/0", "sleep 100 & sleep 100")
    await site.master.until(lambda: site.master.states("job/a/0") == ["running"])
    site.master.order(Kill(cmd_id=site.next_cmd(), task_id="job/a/0", attempt=1, reason="cancelled"))
    end = await site.master.until(lambda: site.master.end_of("job/a/0"))
    assert (end.state, end.reason) == ("killed", "cancelled")


async def test_a_shard_goes_from_agent_to_agent_and_is_measured_on_the_way(site: Site) -> None:
    source = site.folder / "own"
    source.mkdir()
    data = bytes(range(256)) * 4096
    (source / "digits").write_bytes(data)
    site.config = msgspec.structs.replace(site.config, shards_folder=str(source), shards_folder_every_us=200_000)
    site.start_agent()
    await site.joined(1)
    shard_id = hashlib.sha256(data).hexdigest()
    await site.master.until(lambda: 0 in site.master.statuses or any(birth.shards for birth in site.master.births))
    other = AgentConfig(
        agent_id="rack-1", site="cloud", broker=site.broker.url, data_dir=str(site.folder / "data"), speed_milli=1000
    )
    master = DeskMaster(site.broker.url, "rack-1")
    await master.start()
    rack = AgentProcess(other, site.folder)
    try:
        await master.until(lambda: any(isinstance(m, Offer) for m in master.heard))
        fetch = WireFetch(
            shard_id=shard_id,
            size_bytes=len(data),
            name="digits",
            sources=(Source(url=site.master.births[0].data_url, agent_id="cam-1", site="plant-a"),),
        )
        master.order(FetchShard(cmd_id=1, fetch=fetch))
        await master.until(
            lambda: any(s.status_id and getattr(s, "state", "") == "held" for s in master.statuses.values())
        )
        samples = await master.until(
            lambda: [s for m in master.heard if isinstance(m, NetReport) for s in m.samples if s.method == "transfer"]
        )
        assert (samples[0].from_agent, samples[0].to_agent) == ("cam-1", "rack-1")
        assert len(data) // 2 < samples[0].bytes <= len(data)  # What came before the first block is not timed.
    finally:
        await rack.leave()
        await master.stop()


async def test_a_daemon_that_outlives_its_task_unseen_is_found(site: Site) -> None:
    """It leaves session, parents and environment behind, and the task ends at once: no look saw it. It becomes the
    agent's child, who ends it, and whose other tasks are left alone."""
    agent = site.start_agent()
    await site.joined(1)
    site.launch("job/stays/0", "exec sleep 50.5")
    await site.master.until(lambda: "running" in site.master.states("job/stays/0"))
    for n in range(5):
        command = ("python", "-c", ESCAPE.format(seconds=f"98.{n}"))
        site.launch(f"job/flees/{n}", "", command=command, needs=Needs(cpu_milli=100, memory_bytes=2**25))
    await site.master.until(lambda: all(site.master.end_of(f"job/flees/{n}") for n in range(5)))
    assert {site.master.end_of(f"job/flees/{n}").state for n in range(5)} == {"finished"}  # type: ignore[union-attr]
    alive = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in alive if line and line[0] == "sleep" and line[1].startswith("98.")]
    assert ["sleep", "50.5"] in alive
    children = psutil.Process(agent.process.pid).children()
    assert [child.status() for child in children if child.status() == psutil.STATUS_ZOMBIE] == []
    site.master.order(Kill(cmd_id=site.next_cmd(), task_id="job/stays/0", attempt=1))
    await site.master.until(lambda: site.master.end_of("job/stays/0"))


async def test_a_long_journal_is_rewritten_to_its_shortest_form(site: Site) -> None:
    world = World(site.config)
    world.boot()
    for n in range(1, 1000):
        world.order(launch(n, f"j/t/{n}"))
        world.task_started(f"{n}:0", f"j/t/{n}")
        world.task_ended(f"j/t/{n}")
        world.ack_all()
        world.clear()
    folder = agent_folder(site.config)
    folder.mkdir(parents=True)
    journal: Journal[Fact] = Journal.open(folder / "journal.sqlite", Fact)
    await journal.commit(world.journal)
    await journal.close()
    agent = site.start_agent()
    await site.joined(2)
    await agent.leave()
    site.agent = None
    journal = Journal.open(folder / "journal.sqlite", Fact)
    recovered = journal.recover()
    await journal.close()
    assert recovered.state is not None and len(recovered.facts) < 10
    again = site.start_agent()
    await site.joined(3)
    site.launch("j/t/1", "true")  # Command 1 was taken by an earlier life: it is acknowledged and not run.
    await site.master.until(lambda: not site.master.commands)
    site.master.order(Kill(cmd_id=5000, task_id="j/t/1", attempt=1))
    assert (await site.master.until(lambda: site.master.end_of("j/t/1"))).detail == "the agent holds no such attempt"
    assert "task started" not in again.log()


# --- what the operator sees ------------------------------------------------------------------------------------------


async def test_a_failing_disk_ends_the_agent_with_one_clear_sentence(site: Site) -> None:
    agent = site.start_agent(fsize_max=512 * 100)
    await site.joined(1)
    for n in range(40):
        site.launch(f"job/t/{n}", "true", env={"FILL": "x" * 4000})
    assert await agent.ended() == 1
    assert "error: the journal " in agent.log()
    assert "free or replace the disk" in agent.log()
    assert "Traceback" not in agent.log()


async def test_two_agents_on_one_folder_are_one_too_many(site: Site) -> None:
    site.start_agent()
    await site.joined(1)
    twin = AgentProcess(site.config, site.folder)
    assert await twin.ended() == 1
    assert "is in use by another process" in twin.log()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('agent_id = "a"\nsite = "s"\nbrokr = "x"', "unknown key 'brokr'; did you mean 'broker'?"),
        ('site = "s"', "agent_id is missing; set it there or give --id"),
        ('agent_id = "A!"\nsite = "s"', "agent_id: "),
        ('agent_id = "a"\nsite = "s"\ndata_port = "80"', "data_port: Expected `int`, got `str`"),
        ("agent_id = ", "is not TOML"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(f"{text}\n")
    with pytest.raises(ConfigError) as told:
        read_config(path, {})
    assert says in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("brokr", "unknown key 'brokr'; did you mean 'broker'?"),
        ("broker", "broker: '/nowhere' is not a broker"),
        ("token_file", "token_file /nowhere cannot be read"),
    ],
)
def test_a_wrong_configuration_ends_the_command_and_the_agent_itself(tmp_path: Path, key: str, says: str) -> None:
    """What is wrong in the file, and what only the agent can find."""
    path = tmp_path / "agent.toml"
    path.write_text(f'agent_id = "a"\nsite = "s"\n{key} = "/nowhere"\ndata_dir = "{tmp_path}"\n')
    done = subprocess.run(
        [sys.executable, "-c", "from agents.cli import app; app()", "run", "--config", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_options_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('agent_id = "a"\nsite = "s"\ntier = "cloud"\nlabels = { zone = "b" }\n')
    config = read_config(path, {"agent_id": "b", "tier": None})
    assert (config.agent_id, config.site, config.tier, config.labels) == ("b", "s", "cloud", {"zone": "b"})
    assert agent_folder(config).name == "b"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_config(tmp_path / "no.toml", {})


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "agents.md").read_text()
    assert [key for key in AgentConfig.__struct_fields__ if f"`{key}`" not in text] == []


def test_the_agents_process_loads_no_command_line_and_no_master() -> None:
    """Each of these costs megabytes for as long as the agent runs."""
    unwanted = ("typer", "pydantic", "rich", "structlog", "aiohttp", "numba", "numpy", "networkx", "amqtt")
    code = "import sys, agents.__main__, agents.workers; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code, *unwanted], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

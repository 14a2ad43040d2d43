"""The demo's processes: a broker, a master, one rack agent and three edge agents, each for itself on loopback."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from federation.api import StatusView
from federation.broker import Broker, free_port, start_broker
from federation.cli.client import Client
from federation.cli.exits import CommandError
from federation.errors import OfferflowError

RACK = "rack-1"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
EDGE_CORE_MILLI = 250  # An edge device's core, emulated: a quarter of this machine's.


@dataclass(frozen=True)
class Plant:
    """An edge site with one gateway behind an uplink of that rate."""

    site: str
    agent_id: str
    uplink_bps: int


PLANTS = (
    Plant("plant-slow", "gw-slow", 2_000_000),
    Plant("plant-mid", "gw-mid", 20_000_000),
    Plant("plant-fast", "gw-fast", 200_000_000),
)
AGENT_IDS = (*(plant.agent_id for plant in PLANTS), "vm")


class Stage:
    """Everything running for one policy. `async with Stage(folder, policy) as stage: stage.client …`"""

    def __init__(self, folder: Path, policy: str, data: Path) -> None:
        self.client = Client(f"http://127.0.0.1:{free_port()}")
        self._folder = folder
        self._policy = policy
        self._data = data
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._broker: Broker | None = None

    async def __aenter__(self) -> "Stage":
        self._folder.mkdir(parents=True)
        try:
            self._broker = await start_broker(self._folder / "broker")
            await self._spawn(
                "master",
                *("master", "run", "--broker", self._broker.url, "--policy", self._policy),
                *("--http", self.client.url.removeprefix("http://"), "--state-dir", str(self._folder / "master")),
            )
            for plant in PLANTS:
                emulated = f"uplink_bps = {plant.uplink_bps}\ncpu_share_milli = {EDGE_CORE_MILLI}\n"
                await self._spawn_agent(plant.agent_id, plant.site, "edge", 1000, emulated)
            await self._spawn_agent("vm", RACK, "cloud", 2000, "")
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    @property
    def broker_kind(self) -> str:
        assert self._broker is not None
        return self._broker.kind

    async def wait_until_measured(self) -> None:
        """Until all agents are online with their shards and each plant's link from and to the rack is measured."""
        wanted = {(f"site:{plant.site}", f"site:{RACK}") for plant in PLANTS}
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                self._check_alive()
                status = await self._ask()
                if (
                    status is not None
                    and status.state == "serving"
                    and status.agents.get("online", 0) == len(AGENT_IDS)
                ):
                    links = await asyncio.to_thread(self.client.network)
                    known = {(link.from_id, link.to_id) for link in links if link.bandwidth_bps and link.rtt_us}
                    shards = await asyncio.to_thread(self.client.shards)
                    n_files = sum(1 for path in self._data.rglob("*") if path.is_file())
                    if wanted <= known and len(shards) >= n_files:
                        return
                await asyncio.sleep(0.1)

    async def _ask(self) -> StatusView | None:
        try:
            return await asyncio.to_thread(self.client.status)
        except CommandError:
            return None  # The master is still starting; a dead one is noticed by `_check_alive`.

    async def _spawn_agent(self, agent_id: str, site: str, tier: str, cpu_milli: int, emulated: str) -> None:
        assert self._broker is not None
        config = self._folder / f"{agent_id}.toml"
        config.write_text(
            f'agent_id = "{agent_id}"\nsite = "{site}"\ntier = "{tier}"\nbroker = "{self._broker.url}"\n'
            f'data_dir = "{self._folder / "agents"}"\nshards_folder = "{self._data / site}"\n'
            f'cpu_milli = {cpu_milli}\nhardware = "{"demo-edge" if tier == "edge" else "demo-rack"}"\n{emulated}'
        )
        await self._spawn(agent_id, "agent", "run", "--config", str(config))

    async def _spawn(self, name: str, *arguments: str) -> None:
        # Tasks are single-threaded programs: a BLAS that starts a thread per core would blur every measurement.
        env = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "federation.cli.main", *arguments),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True,
            )  # fmt: skip

    def _check_alive(self) -> None:
        for name, process in self._processes.items():
            if process.returncode is not None:
                log = self._folder / f"{name}.log"
                last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                raise OfferflowError(f"{name} ended with exit code {process.returncode}: {last} (see {log})")

    async def _stop(self) -> None:
        """Agents first, so that each says goodbye; then the master, the broker last."""
        agents = [process for name, process in self._processes.items() if name != "master"]
        await asyncio.gather(*(_end(process) for process in agents))
        if "master" in self._processes:
            await _end(self._processes["master"])
        if self._broker is not None:
            await self._broker.stop()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

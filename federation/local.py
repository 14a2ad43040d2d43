"""A whole system on one machine: a private broker, the master in this process, agents as processes of their own."""

import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from federation import views
from federation.api import CancelJob
from federation.broker import Broker, die_with_parent, start_broker
from federation.config import HTTP_PORT, LiveConfig
from federation.driver import LiveMaster
from federation.errors import ConfigError, StorageError
from federation.machine import cpu_milli_total, memory_available_bytes
from federation.serving import run_master, set_up_logging
from federation.states import PLACED_STATES
from federation.units import format_cpu

_AGENT_STOP_S: Final = 10.0  # Its own shutdown takes 5 s at most.
_JOIN_S: Final = 30.0  # An agent measures its machine before it joins; slow machines take seconds.
_RACK: Final = "rack"
# A task asks for one core and 256 MiB unless its job says otherwise: an agent that offered less would never get one.
_CPU_MILLI_MIN: Final = 1000
_MEMORY_BYTES_MIN: Final = 512 * 2**20


class Local:
    """`run` starts everything and returns once everything has gone. `say` gets results, `note` gets remarks.

    `broker` is a URL, "embedded", or "" for a private one: Mosquitto if there is one, else embedded.
    """

    def __init__(
        self,
        settings: LiveConfig,
        n_agents: int,
        state_dir: Path | None,
        broker: str,
        say: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._n_agents = n_agents
        self._state_dir = state_dir
        self._broker = broker
        self._is_done = False
        self._say, self._note = say, note
        self._agents: dict[str, asyncio.subprocess.Process] = {}
        self._watches: list[asyncio.Task[None]] = []
        self._leaving = asyncio.Event()
        self._folder = Path()

    async def run(self) -> None:
        """Raises `ConfigError` and `StorageError`; the folder then stays, for its logs."""
        self._folder = await asyncio.to_thread(self._make_folder)
        broker: Broker | None = None
        with (self._folder / "master.log").open("a", buffering=1) as log:
            set_up_logging(self._settings.log_level, self._settings.log_format, log)
            try:
                if self._broker in ("", "embedded"):
                    broker = await start_broker(self._folder / "broker", "amqtt" if self._broker else None)
                    self._say(f"broker   {broker.kind} at {broker.url}")
                await self._run_master(broker.url if broker is not None else self._broker)
            except (ConfigError, asyncio.CancelledError):
                self._is_done = True  # Nothing happened yet that the folder could tell.
                raise
            except StorageError:
                self._note(f"what happened is in {self._folder}")
                raise
            else:
                self._is_done = True
            finally:
                for watch in self._watches:
                    watch.cancel()
                await self._stop_agents()
                if broker is not None:
                    await broker.stop()
                if self._is_done and self._state_dir is None:
                    await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        self._say("stopped")

    async def _run_master(self, broker_url: str) -> None:
        settings = msgspec.structs.replace(self._settings, broker=broker_url, folder=str(self._folder / "master"))
        if settings.http.token and not settings.http.data_token:  # Agents need no more than to read shards.
            http = msgspec.structs.replace(settings.http, data_token=secrets.token_urlsafe(24))
            settings = msgspec.structs.replace(settings, http=http)

        def ready(live: LiveMaster, url: str) -> None:
            self._say(f"master   {url}, policy {settings.policy}")
            self._watches = [
                asyncio.create_task(self._join(broker_url, settings.http.data_token, live, url)),
                asyncio.create_task(self._leave(live)),
            ]

        await run_master(settings, ready, self._leaving.set)

    def _make_folder(self) -> Path:
        if self._state_dir is None:
            return Path(tempfile.mkdtemp(prefix="offerflow-"))
        folder = self._state_dir.expanduser().resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"the folder {folder} cannot be made ({error.strerror}): name another one") from None
        return folder

    # --- agents ------------------------------------------------------------------------------------------------------

    async def _join(self, broker_url: str, token: str, live: LiveMaster, url: str) -> None:
        names = [
            _RACK if index == 0 and self._n_agents > 1 else f"edge-{index or 1}" for index in range(self._n_agents)
        ]
        token_file = self._folder / "data-token"
        if token:
            token_file.touch(mode=0o600)
            token_file.write_text(token)
        settings = msgspec.structs.replace(self._settings, broker=broker_url)
        share = _share(self._n_agents, self._folder)
        for name in names:
            config = self._folder / f"{name}.toml"
            config.touch(mode=0o600)  # The broker's address may hold a password.
            config.write_text(_agent_config(name, share, settings, self._folder, token_file if token else None))
            await self._spawn(name, config)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_JOIN_S):
                await _until(live, lambda: _n_online(live) >= len(names))
        missing = "" if _n_online(live) >= len(names) else f" ({_n_online(live)} joined so far)"
        self._say(f"agents   {', '.join(names) or 'none'}{missing}{_share_text(share, len(names))}")
        if not live.broker_status().startswith("connected"):
            self._note(f"no agent can join: the broker is {live.broker_status()}")
        kept = "kept" if self._state_dir else "removed at the end; --state-dir keeps it"
        self._say(f"state    {self._folder} ({kept})")
        master = "" if url.endswith(f"127.0.0.1:{HTTP_PORT}") else f"export OFFERFLOW_URL={url}; "
        self._say(f"ready    {master}offerflow status; offerflow job submit FILE — Ctrl-C stops everything")

    async def _spawn(self, name: str, config: Path) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "agents", str(config), self._settings.log_level),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C comes to us; we stop it in its turn.
                preexec_fn=die_with_parent,
            )  # fmt: skip
        self._agents[name] = process
        self._watches.append(asyncio.create_task(self._watch(name, process)))

    async def _watch(self, name: str, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        if not self._leaving.is_set():
            log = self._folder / f"{name}.log"
            lines = (await asyncio.to_thread(log.read_text, errors="replace")).strip().splitlines()
            self._note(f"agent {name} ended with code {code}: {lines[-1] if lines else 'it said nothing'} (see {log})")

    async def _stop_agents(self) -> None:
        self._leaving.set()
        alive = [process for process in self._agents.values() if process.returncode is None]
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_AGENT_STOP_S):
                await asyncio.gather(*(process.wait() for process in alive))
        except TimeoutError:
            for process in alive:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    # --- leaving -----------------------------------------------------------------------------------------------------

    async def _leave(self, live: LiveMaster) -> None:
        """At the first signal: tasks (where nothing is to be kept), then agents, then the master; the broker last."""
        await self._leaving.wait()
        self._note("stopping …")
        try:
            if self._state_dir is None:
                await self._cancel_jobs(live)
            await self._stop_agents()
        finally:
            live.stop()

    async def _cancel_jobs(self, live: LiveMaster) -> None:
        grace_s = self._settings.master.kill_grace_us / 1e6 + 2
        with contextlib.suppress(TimeoutError, StorageError):
            async with asyncio.timeout(grace_s):
                for view in views.jobs(live.master):
                    if view.state == "running":
                        await live.ask(CancelJob(job_id=view.job_id))
                await _until(live, lambda: not _has_placed_tasks(live))


async def _until(live: LiveMaster, condition: Callable[[], bool]) -> None:
    """Look again after each durable fact."""
    if not condition():
        async with contextlib.aclosing(live.subscribe()) as facts:
            async for _ in facts:
                if condition():
                    return


def _has_placed_tasks(live: LiveMaster) -> bool:
    return any(views.tasks(live.master, state=state, limit=1).tasks for state in sorted(PLACED_STATES))


def _n_online(live: LiveMaster) -> int:
    return sum(agent.state == "online" for agent in views.agents(live.master))


def _share(n_agents: int, folder: Path) -> dict[str, int]:
    """What each of the agents may promise. The machine is divided evenly, since agents that all offered the whole of it
    would promise it several times; but each has a core and some memory, or it could take no task at all."""
    memory_bytes, n = memory_available_bytes() * 9 // 10, max(1, n_agents)
    return {
        "cpu_milli": max(_CPU_MILLI_MIN, cpu_milli_total() // n),
        "memory_bytes": min(memory_bytes, max(_MEMORY_BYTES_MIN, memory_bytes // n)),
        "disk_bytes": shutil.disk_usage(folder).free * 9 // 10 // n,
    }


def _share_text(share: dict[str, int], n_agents: int) -> str:
    """What each offers, and whether the machine has it."""
    if not n_agents:
        return ""
    has_milli = cpu_milli_total()
    each = f", {_cores(share['cpu_milli'])}{' each' if n_agents > 1 else ''}"
    if share["cpu_milli"] * n_agents <= has_milli:
        return each
    return f"{each} (emulated: this machine has {_cores(has_milli)} for all, so tasks that run together share them)"


def _cores(cpu_milli: int) -> str:
    return f"{format_cpu(cpu_milli)} core{'' if cpu_milli == 1000 else 's'}"


def _agent_config(name: str, share: dict[str, int], master: LiveConfig, folder: Path, token_file: Path | None) -> str:
    """An agent's settings as TOML. Its CPU is set, so it is a promise: what else runs on this machine does not lessen
    it, or a busy desktop with one core would never run a task."""
    access = {
        key: getattr(master, key)
        for key in ("broker", "broker_user", "broker_password_file", "tls_ca_file", "tls_cert_file", "tls_key_file")
    }
    settings: dict[str, str | int] = {
        "agent_id": name,
        "site": name,
        "tier": "cloud" if name == _RACK else "edge",
        **{key: value for key, value in access.items() if value},
        "data_dir": str(folder / "agents"),
        **share,
        **({"token_file": str(token_file)} if token_file else {}),
    }
    # A JSON string or number is a TOML one.
    return "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in settings.items())

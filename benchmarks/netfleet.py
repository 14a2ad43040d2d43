"""A whole federation on two hosts of `benchmarks.netns`: broker, master and an agent on host 0, an agent on host 1.

Agents and broker are the programs an operator starts, as processes of their own; the master is the live one, in a
thread of this process that has moved to host 0 (as a process it would first load its kernels, for seconds). Everything
between the agents, their control connections included, crosses the shaped link.
"""

import asyncio
import contextlib
import ctypes
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from benchmarks import netns
from federation.broker import find_mosquitto
from federation.cli.client import Client
from federation.config import LiveConfig, MasterConfig
from federation.driver import LiveMaster
from federation.http.app import serve
from federation.http.settings import HttpConfig
from policies.model import Link

SITES = ("cloud", "plant")  # of host 0 and host 1
AGENTS = ("rack-1", "cam-1")
PATIENCE_S = 60.0
_LOOK_S = 0.05
_CLONE_NEWNET = 0x40000000
_BROKER_PORT = 1883
_BROKER_CONF = "allow_anonymous true\nuser root\npersistence false\nlistener {port} {host}\n"
_HTTP_PORT = 8642

T = TypeVar("T")


def why_not() -> str:
    """What keeps this machine from it; "" for nothing."""
    return netns.why_not() or ("" if find_mosquitto() else "mosquitto is not installed (apt-get install mosquitto)")


class _Master:
    """The live master and its HTTP side, until `stop`."""

    def __init__(self, config: LiveConfig, namespace: str) -> None:
        self._config = config
        self._namespace = namespace
        self._serving = threading.Event()
        self._live: LiveMaster | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="master")
        self._thread.start()
        self._serving.wait(PATIENCE_S)

    def stop(self) -> None:
        if self._loop is not None and self._live is not None:
            self._loop.call_soon_threadsafe(self._live.stop)
        self._thread.join()

    def _run(self) -> None:
        _enter(self._namespace)
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._live = await asyncio.to_thread(LiveMaster.open, self._config)
        try:
            async with serve(self._live, self._config.http) as serving:
                self._serving.set()
                await self._live.run(serving.url)
        finally:
            await self._live.journal.close()


class Fleet:
    def __init__(self, pair: netns.Pair, folder: Path, addresses: tuple[str, str], is_tls: bool) -> None:
        self.pair = pair
        self.addresses = addresses
        self.broker = f"mqtt{'s' if is_tls else ''}://{addresses[0]}:{_BROKER_PORT}"
        self.ca_file = str(folder / "certificate") if is_tls else ""
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.master: _Master | None = None
        self._threads = ThreadPoolExecutor(1, initializer=_enter, initargs=(pair.names[0],))
        self._client = Client(f"http://127.0.0.1:{_HTTP_PORT}", timeout_s=20)
        (folder / "token").write_text(secrets.token_hex(16))

    def ask(self, question: Callable[[Client], T]) -> T:
        """Put a question to the master, from host 0: it serves on loopback."""
        return self._threads.submit(question, self._client).result()

    def link(self, from_host: int) -> Link | None:
        """What the master believes of the way from that host's site to the other's; None: nothing yet."""
        ends = f"site:{SITES[from_host]}", f"site:{SITES[1 - from_host]}"
        return next((link for link in self.ask(Client.network) if (link.from_id, link.to_id) == ends), None)

    def bandwidth_bps(self, from_host: int) -> int:
        """What it plans with; 0: nothing yet."""
        link = self.link(from_host)
        return (link.bandwidth_bps or 0) if link is not None else 0

    def start(self, name: str, host: int, *command: str) -> None:
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                ["ip", "netns", "exec", self.pair.names[host], *command], cwd=netns.ROOT, text=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(netns.ROOT)},
            )  # fmt: skip

    def start_agent(self, host: int, settings: dict[str, Any]) -> None:
        name = AGENTS[host]
        shards = self.shards_folder(host)
        shards.mkdir(exist_ok=True)
        defaults = {
            "agent_id": name, "site": SITES[host], "tier": ("cloud", "edge")[host], "broker": self.broker,
            "data_dir": str(self.folder / name), "data_host": self.addresses[host], "cpu_milli": 1000,
            "token_file": str(self.folder / "token"), "tls_ca_file": self.ca_file,
            "shards_folder": str(shards), "shards_folder_every_us": 200_000,
        }  # fmt: skip
        self.start(
            name, host, netns.PYTHON, "-P", "-m", "agents", msgspec.json.encode(defaults | settings).decode(), "warning"
        )

    def certify(self) -> str:
        """Make a key and a certificate for the broker; the lines of its configuration."""
        key = self.folder / "key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=broker", "-addext",
             f"subjectAltName=IP:{self.addresses[0]}", "-keyout", str(key), "-out", self.ca_file],
            check=True, capture_output=True,
        )  # fmt: skip
        return f"certfile {self.ca_file}\nkeyfile {key}\n"

    def shards_folder(self, host: int) -> Path:
        return self.folder / f"shards-{host}"

    def last_words(self) -> str:
        logs = {path.name: path.read_text(errors="replace").strip()[-500:] for path in self.folder.glob("*.log")}
        return "; ".join(f"{name}: {text!r}" for name, text in sorted(logs.items()))

    def close(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in reversed(self.processes.values()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        if self.master is not None:
            self.master.stop()
        self._threads.shutdown()


@contextlib.contextmanager
def fleet(
    pair: netns.Pair,
    folder: Path,
    *,
    master: MasterConfig | None = None,
    agents: tuple[dict[str, Any], dict[str, Any]] = ({}, {}),
    addresses: tuple[str, str] = netns.ADDRESSES,
    is_tls: bool = False,
) -> Iterator[Fleet]:
    """Both agents have joined when the block begins; `agents` are settings beside the usual ones; with `is_tls` (needs
    openssl) they speak to the broker over TLS. Raises `TimeoutError` with the last words of who did not come."""
    built = Fleet(pair, folder, addresses, is_tls)
    try:
        conf = folder / "mosquitto.conf"
        conf.write_text(_BROKER_CONF.format(host=addresses[0], port=_BROKER_PORT) + (built.certify() if is_tls else ""))
        built.start("mosquitto", 0, str(find_mosquitto()), "-c", str(conf))
        for host, more in enumerate(agents):
            built.start_agent(host, more)
        config = LiveConfig(
            folder=str(folder / "master"), broker=built.broker, policy="fifo", http=HttpConfig(port=_HTTP_PORT),
            master=master or MasterConfig(), tls_ca_file=built.ca_file,
        )  # fmt: skip
        built.master = _Master(config, pair.names[0])
        try:
            wait_for(lambda: built.ask(Client.status).agents.get("online") == len(AGENTS), "both agents to join")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {built.last_words()}") from None
        yield built
    finally:
        built.close()


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> float:
    """Seconds until it held. Raises `TimeoutError`."""
    begun_s = time.monotonic()
    while not condition():
        if time.monotonic() - begun_s > timeout_s:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(_LOOK_S)
    return time.monotonic() - begun_s


def _enter(namespace: str) -> None:
    """Move the calling thread there: sockets that it opens, and threads that it starts, are there."""
    with open(f"/run/netns/{namespace}", "rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")

"""A private broker for one machine: Mosquitto where it is installed, else amqtt inside this process.

Either listens on loopback only, on a port of its own, and keeps nothing on disk: durable facts never depend on a
broker's memory. (Mosquitto's own persistence, killed with default settings, restores its last autosave: it loses new
messages and delivers old ones again.)

amqtt speaks MQTT 3.1.1 and serves a handful of agents: it delivers 5,600 messages/s to one connection and 459/s with
fifty, where Mosquitto delivers 51,000 (docs/decisions). It leaks retained messages past filters, so nothing may rely
on it for isolation.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from federation.errors import ConfigError

Kind = Literal["mosquitto", "amqtt"]

_START_S: Final = 10.0
_STOP_S: Final = 5.0
_PORT_ATTEMPTS: Final = 5  # Another process may take the free port between our look and the broker's bind.

_MOSQUITTO_CONF: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
{user}persistence false
# Flow control is the receiver's business (receive maximum, reading no further), never dropping.
max_inflight_messages 0
max_queued_messages 0
max_queued_bytes 268435456
max_packet_size 1048576
set_tcp_nodelay true
sys_interval 0
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages false
"""


class Broker(Protocol):
    """A running broker. `url` is where clients connect; `stop` ends it and waits until it has gone."""

    kind: Kind
    url: str

    async def stop(self) -> None: ...

    async def kill(self) -> None:
        """Without warning, as a crash would."""


def find_mosquitto() -> str | None:
    """The installed Mosquitto. Debian puts it in /usr/sbin, which is not on every user's path."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


async def start_broker(folder: Path, kind: Kind | None = None, *, port: int | None = None) -> Broker:
    """Start a broker with its files in `folder`; `kind` None takes Mosquitto where there is one, `port` None any that
    is free (the embedded one always does).

    Raises `ConfigError` when it cannot start, with the broker's own last words.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    mosquitto = find_mosquitto()
    if kind == "amqtt" or (kind is None and mosquitto is None):
        return await _Embedded.start()
    if mosquitto is None:
        raise ConfigError("mosquitto is not installed: apt-get install mosquitto, or leave the choice of broker open")
    return await _Mosquitto.start(mosquitto, folder, port)


def die_with_parent() -> None:
    """For `preexec_fn`: a child that ends (SIGTERM) when its parent does, however the parent ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, prctl(2)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Mosquitto:
    kind: Kind = "mosquitto"

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.url = f"mqtt://127.0.0.1:{port}"

    @classmethod
    async def start(cls, binary: str, folder: Path, wanted_port: int | None) -> "_Mosquitto":
        log = folder / "mosquitto.log"
        for _ in range(_PORT_ATTEMPTS):
            port = wanted_port or free_port()
            conf = folder / "mosquitto.conf"
            # Started by root it would become user mosquitto, who cannot read a private folder.
            conf.write_text(_MOSQUITTO_CONF.format(port=port, user="user root\n" if os.geteuid() == 0 else ""))
            with log.open("wb") as out:
                process = await asyncio.create_subprocess_exec(
                    binary, "-c", str(conf), stdout=out, stderr=out, stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is ours to handle: the broker goes last.
                    preexec_fn=die_with_parent,
                )  # fmt: skip
            if await _answers(process, port):
                return cls(process, port)
            if process.returncode is None:
                process.kill()
                await process.wait()
        lines = log.read_text(errors="replace").strip().splitlines()
        raise ConfigError(f"mosquitto did not start ({lines[-1] if lines else 'it said nothing'}); see {log}")

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()


async def _answers(process: asyncio.subprocess.Process, port: int) -> bool:
    """Whether the process listens on the port before it ends or the time is up."""
    deadline = asyncio.get_running_loop().time() + _START_S
    while process.returncode is None and asyncio.get_running_loop().time() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        await asyncio.sleep(0)
        return process.returncode is None
    return False


class _Embedded:
    kind: Kind = "amqtt"

    def __init__(self, broker: Any, port: int) -> None:
        self._broker = broker
        self.url = f"mqtt://127.0.0.1:{port}?protocol=3.1.1"  # It never answers a version 5 greeting.

    @classmethod
    async def start(cls) -> "_Embedded":
        try:
            from amqtt.broker import Broker as AmqttBroker
            from amqtt.contexts import BrokerConfig, ListenerConfig
            from amqtt.errors import AMQTTError
        except ImportError:
            raise ConfigError(
                "there is no broker: install mosquitto, or the embedded one with pip install 'offerflow[master]'"
            ) from None
        for name in ("amqtt", "transitions"):  # They log every packet's fate as a warning.
            logging.getLogger(name).setLevel(logging.CRITICAL)
        detail = ""
        for _ in range(_PORT_ATTEMPTS):
            port = free_port()
            config = BrokerConfig(
                listeners={"default": ListenerConfig(bind=f"127.0.0.1:{port}")},
                plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            )
            broker = AmqttBroker(config)
            try:
                await broker.start()
            except (AMQTTError, OSError) as error:
                detail = str(error)
                continue
            return cls(broker, port)
        raise ConfigError(f"the embedded broker did not start: {detail}")

    async def kill(self) -> None:
        await self.stop()

    async def stop(self) -> None:
        with contextlib.suppress(Exception):  # It fails on clients that left while it stops; it is gone either way.
            async with asyncio.timeout(_STOP_S):
                await self._broker.shutdown()

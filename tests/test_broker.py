"""The private brokers: started on a port of their own, ended with all they are, gone when their owner is."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from federation import broker as module
from federation.broker import Kind, find_mosquitto, free_port, start_broker
from federation.errors import ConfigError
from federation.mqtt import parse_url

pytestmark = pytest.mark.live
needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto (apt-get install mosquitto)")
KINDS = [pytest.param("mosquitto", marks=needs_mosquitto), "amqtt"]


async def listens(url: str) -> bool:
    address = parse_url(url)
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize("kind", KINDS)
async def test_it_listens_on_loopback_until_it_is_stopped(tmp_path: Path, kind: Kind) -> None:
    first, second = await asyncio.gather(start_broker(tmp_path / "1", kind), start_broker(tmp_path / "2", kind))
    assert first.kind == kind and first.url != second.url
    assert await listens(first.url) and await listens(second.url)
    addresses = {c.laddr.ip for c in psutil.net_connections() if c.laddr and c.laddr.port == parse_url(first.url).port}
    assert addresses <= {"127.0.0.1"}
    await first.stop()
    assert not await listens(first.url) and await listens(second.url)
    await second.stop()
    await second.stop()
    assert not await listens(second.url)


@needs_mosquitto
async def test_mosquitto_is_taken_where_there_is_one(tmp_path: Path) -> None:
    broker = await start_broker(tmp_path)
    assert broker.kind == "mosquitto"
    await broker.stop()


async def test_the_embedded_one_is_taken_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_mosquitto", lambda: None)
    broker = await start_broker(tmp_path)
    assert broker.kind == "amqtt"
    await broker.stop()
    with pytest.raises(ConfigError, match="apt-get install mosquitto"):
        await start_broker(tmp_path, "mosquitto")


async def test_a_broker_that_cannot_start_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "mosquitto"
    wrong.write_text("#!/bin/sh\necho 'Error: the cat sat on it' >&2\nexit 3\n")
    wrong.chmod(0o755)
    monkeypatch.setattr(module, "find_mosquitto", lambda: str(wrong))
    with pytest.raises(ConfigError, match="the cat sat on it"):
        await start_broker(tmp_path / "b")


@needs_mosquitto
def test_mosquitto_ends_with_its_owner(tmp_path: Path) -> None:
    """Even where the owner is killed: an orphan would hold its port and its memory for ever."""
    code = (
        "import asyncio, sys, pathlib\nfrom federation.broker import start_broker\n"
        "async def main():\n    b = await start_broker(pathlib.Path(sys.argv[1]))\n"
        "    print(b.process.pid, flush=True)\n    await asyncio.sleep(60)\nasyncio.run(main())"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert psutil.pid_exists(pid)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
    assert not psutil.pid_exists(pid)


def test_free_ports_are_free() -> None:
    assert 1024 < free_port() < 65_536

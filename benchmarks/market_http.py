"""Frameworks against a real master over HTTP: offers and accepts a second, and the memory each framework takes.

Real are the broker, the master process with its journal (`synchronous=FULL`) and its scheduler endpoint; agents are the
production core over simulated devices (`benchmarks/fleet.py`); clients are raw sockets, two for each framework, all in
this process. Everything shares the machine, so the figures are a floor. Used by `benchmarks.market`.
"""

import asyncio
import contextlib
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.control_plane import HERE, _ask, _say, _settle, _spawn, _until_serving
from federation.broker import free_port, start_broker
from federation.cli.client import Client
from federation.http.mesos.recordio import Unframer

N_AGENTS = 1_000
SECONDS = 5.0
TASK_US = 20_000
CONNECTING_MAX = 50  # at once
FILES = 16_384
START_S = 240.0  # on a busy machine the imports alone take a minute
CONFIG = "[http]\nconnections_max = 4_096\n"


class Framework:
    """Declines what it is offered, or accepts each offer with one small task, and acknowledges every update."""

    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self._name = f"framework-{number}"
        self._n_tasks = 0
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.accepts = False
        self.n_offers = self.n_accepts = 0

    async def open(self) -> None:
        self._reader, self._stream = await asyncio.open_connection("127.0.0.1", self._port)
        info = {"user": "bench", "name": self._name, "role": f"role-{hash(self._name) % 10}", "failover_timeout": 60}
        self._write(self._stream, {"type": "SUBSCRIBE", "subscribe": {"framework_info": info}})
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200"), head
        self._stream_id = next(line for line in head.split("\r\n") if line.startswith("Mesos-Stream-Id"))
        self._answers, self._calls = await asyncio.open_connection("127.0.0.1", self._port)
        self._listening = asyncio.create_task(self._listen())
        self._calling = asyncio.create_task(self._call_all())

    def _write(self, writer: asyncio.StreamWriter, tree: dict[str, Any], *headers: str) -> None:
        body = json.dumps(tree).encode()
        fields = ("Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
        writer.write("\r\n".join(("POST /api/v1/scheduler HTTP/1.1", *fields, "", "")).encode() + body)

    async def _listen(self) -> None:
        unframer = Unframer()
        while True:
            size = int(await self._reader.readline(), 16)
            data = await self._reader.readexactly(size + 2)
            for record in unframer.feed(data[:-2]):
                event = json.loads(record)
                kind = event["type"]
                if kind == "SUBSCRIBED":
                    self._framework_id = event["subscribed"]["framework_id"]
                elif kind == "OFFERS":
                    self._answer(event["offers"]["offers"])
                elif kind == "UPDATE" and "uuid" in event["update"]["status"]:
                    status = event["update"]["status"]
                    fields = {name: status[name] for name in ("agent_id", "task_id", "uuid")}
                    self._waiting.put_nowait({"type": "ACKNOWLEDGE", "acknowledge": fields})

    def _answer(self, offers: list[dict[str, Any]]) -> None:
        self.n_offers += len(offers)
        filters = {"refuse_seconds": 0}
        if not self.accepts:
            ids = [offer["id"] for offer in offers]
            self._waiting.put_nowait({"type": "DECLINE", "decline": {"offer_ids": ids, "filters": filters}})
            return
        for offer in offers:
            self._n_tasks += 1
            task = {
                "name": "t", "task_id": {"value": f"t{self._n_tasks}"}, "agent_id": offer["agent_id"],
                "resources": [
                    {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
                    {"name": "mem", "type": "SCALAR", "scalar": {"value": 32}},
                ],
                "command": {"value": "true"}, "offerflow": {"simulated_run_us": TASK_US},
            }  # fmt: skip
            operation = {"type": "LAUNCH", "launch": {"task_infos": [task]}}
            accept = {"offer_ids": [offer["id"]], "operations": [operation], "filters": filters}
            self._waiting.put_nowait({"type": "ACCEPT", "accept": accept})

    async def _call_all(self) -> None:
        """One call after the other, as a client with one connection for its calls."""
        while True:
            call = await self._waiting.get()
            self._write(self._calls, {"framework_id": self._framework_id, **call}, self._stream_id)
            head = await self._answers.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 202"), head
            self.n_accepts += call["type"] == "ACCEPT"

    async def close(self) -> None:
        for task in (self._listening, self._calling):
            task.cancel()
        failures = await asyncio.gather(self._listening, self._calling, return_exceptions=True)
        for failure in failures:
            if not isinstance(failure, asyncio.CancelledError) and failure is not None:
                raise failure
        self._stream.close()
        self._calls.close()


async def measure(n_frameworks: int) -> dict[str, float]:
    """Rates of one master with so many frameworks connected."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    with tempfile.TemporaryDirectory(prefix="offerflow-bench-") as name:
        folder = Path(name)
        (folder / "master.toml").write_text(CONFIG)
        broker = await start_broker(folder / "broker", "mosquitto")
        client = Client(f"http://127.0.0.1:{free_port()}")
        master = await _spawn(
            HERE, folder / "master.log",
            *("federation.cli.main", "master", "run", "--broker", broker.url, "--policy", "fifo"),
            *("--http", client.url.removeprefix("http://"), "--state-dir", str(folder / "state")),
            *("--config", str(folder / "master.toml")),
        )  # fmt: skip
        fleet = await _spawn(HERE, None, "benchmarks.fleet", "--broker", broker.url, "--agents", str(N_AGENTS))
        try:
            await _serving(client)
            await _ask(fleet, None)
            await _ask(fleet, "births")
            await _settle(client)
            return await _with_frameworks(n_frameworks, int(client.url.rpartition(":")[2]), psutil.Process(master.pid))
        finally:
            with contextlib.suppress(ProcessLookupError):
                _say(fleet, "stop")
                fleet.terminate()
                master.terminate()
            await fleet.wait()
            await master.wait()
            await broker.stop()


async def _serving(client: Client) -> None:
    async with asyncio.timeout(START_S):
        while True:
            try:
                return await _until_serving(client)
            except TimeoutError:
                continue


async def _with_frameworks(n_frameworks: int, port: int, master: psutil.Process) -> dict[str, float]:
    before = master.memory_info().rss
    frameworks = [Framework(port, number) for number in range(n_frameworks)]
    for first in range(0, n_frameworks, CONNECTING_MAX):
        await asyncio.gather(*(each.open() for each in frameworks[first : first + CONNECTING_MAX]))
    rss = master.memory_info().rss - before
    offers_per_s = await _rate(frameworks, "n_offers")
    for framework in frameworks:
        framework.accepts = True
    accepts_per_s = await _rate(frameworks, "n_accepts")
    for framework in frameworks:
        await framework.close()
    return {"offers_per_s": offers_per_s, "accepts_per_s": accepts_per_s, "rss_bytes_per_framework": rss / n_frameworks}


async def _rate(frameworks: list[Framework], counter: str) -> float:
    await asyncio.sleep(1)
    before, began = sum(getattr(each, counter) for each in frameworks), time.monotonic()
    await asyncio.sleep(SECONDS)
    count: int = sum(getattr(each, counter) for each in frameworks) - before
    return count / (time.monotonic() - began)

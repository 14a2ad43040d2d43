"""The scheduler endpoint with the real core behind real sockets, time as the test says, and a client of it."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from federation.api import Answer
from federation.commands import Command, Emit
from federation.config import MasterConfig
from federation.events import FrameworkCalled, StreamClosed
from federation.market.protocol import Call
from federation.streams import FrameworkStreams
from policies.flow import Flow
from tests.market_world import MarketWorld
from tests.mesos_world import Wire, serving, subscribe

UUID = base64.b64encode(bytes(16)).decode()


class Served(MarketWorld):
    """A world whose frameworks come over HTTP."""

    def __init__(self, **config: Any) -> None:
        self.streams = FrameworkStreams(self._gone)
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._n_calls = 0
        super().__init__(MasterConfig(**{"round_every_us": 0, "allocate_every_us": 0, **config}), policy=Flow())

    def handle(self, event: Any) -> list[Command]:
        commands = super().handle(event)
        for command in commands:
            if isinstance(command, Emit):
                self.streams.emit(command)
        for request_id in [key for key in self._waiting if key in self.replies]:
            self._waiting.pop(request_id).set_result(self.replies[request_id])
        return commands

    async def call(self, call: Call, framework_id: str, stream_id: str, principal: str = "") -> Answer:
        self._n_calls += 1
        request_id = f"http-{self._n_calls}"
        self._waiting[request_id] = asyncio.get_running_loop().create_future()
        waiting = self._waiting[request_id]
        self.handle(
            FrameworkCalled(
                request_id=request_id, framework_id=framework_id, stream_id=stream_id, principal=principal, call=call
            )
        )
        return await waiting

    def _gone(self, framework_id: str, stream_id: str) -> None:
        self.handle(StreamClosed(framework_id=framework_id, stream_id=stream_id))

    def gauges(self) -> dict[str, int]:
        return {}

    def counters(self) -> dict[str, int]:
        return {}


def id_of(value: str) -> dict[str, str]:
    return {"value": value}


def scalars(cpus: float = 1, mem: float = 64, **fields: Any) -> list[dict[str, Any]]:
    amounts = {"cpus": cpus, "mem": mem}
    return [{"name": name, "type": "SCALAR", "scalar": {"value": value}} | fields for name, value in amounts.items()]


def task(task_id: str, resources: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    command = {"shell": False, "value": "sleep", "arguments": ["sleep", "9"]}
    return {
        "name": task_id, "task_id": id_of(task_id), "agent_id": id_of("gw-1"), "resources": resources or scalars(),
        "command": command, **fields,
    }  # fmt: skip


def launch(*tasks: dict[str, Any]) -> dict[str, Any]:
    return {"type": "LAUNCH", "launch": {"task_infos": list(tasks)}}


class Client:
    def __init__(self, world: Served, port: int, stream: Wire, calls: Wire, framework_id: str) -> None:
        self.world, self.port, self.stream, self.calls, self.framework_id = world, port, stream, calls, framework_id
        self._passed: list[dict[str, Any]] = []  # heard, and not asked for yet

    async def until(self, kind: str, wanted: Callable[[dict[str, Any]], bool] = lambda event: True) -> dict[str, Any]:
        for event in self._passed:
            if event["type"] == kind and wanted(event):
                self._passed.remove(event)
                return event
        while True:
            event = await self.stream.event()
            if event["type"] == kind and wanted(event):
                return event
            self._passed.append(event)

    async def call(self, kind: str, body: Any = None, **headers: str) -> int:
        tree = {"framework_id": id_of(self.framework_id), "type": kind} | ({} if body is None else {kind.lower(): body})
        headers.setdefault("Mesos_Stream_Id", self.stream.headers["mesos-stream-id"])
        return (await self.calls.ask(tree, **headers))[0]

    async def offer(self) -> dict[str, Any]:
        (offer,) = (await self.until("OFFERS"))["offers"]["offers"]
        return dict(offer)

    async def accept(self, offer: dict[str, Any], *operations: dict[str, Any]) -> None:
        await self.accept_all([offer], *operations)

    async def accept_all(self, offers: list[dict[str, Any]], *operations: dict[str, Any]) -> None:
        ids = [offer["id"] for offer in offers]
        body = {"offer_ids": ids, "operations": list(operations), "filters": {"refuse_seconds": 0}}
        assert await self.call("ACCEPT", body) == 202

    async def status(self, task_id: str, state: str) -> dict[str, Any]:
        while True:
            event = await self.until("UPDATE", lambda e: e["update"]["status"]["task_id"] == id_of(task_id))
            status: dict[str, Any] = event["update"]["status"]
            if "uuid" in status:
                body = {name: status[name] for name in ("agent_id", "task_id", "uuid")}
                assert await self.call("ACKNOWLEDGE", body) == 202
            if status["state"] == state:
                return status

    async def operation(self, operation_id: str) -> str:
        wanted = id_of(operation_id)
        event = await self.until(
            "UPDATE_OPERATION_STATUS", lambda e: e["update_operation_status"]["status"]["operation_id"] == wanted
        )
        status = event["update_operation_status"]["status"]
        if "uuid" in status:
            body = {"operation_id": wanted, "uuid": status["uuid"]["value"], "agent_id": status["agent_id"]}
            assert await self.call("ACKNOWLEDGE_OPERATION_STATUS", body) == 202
        return str(status["state"])


@contextlib.asynccontextmanager
async def market(**config: Any) -> AsyncIterator[tuple[Served, int]]:
    world = Served(**config)
    async with serving(world) as port:
        yield world, port


async def join(world: Served, port: int, name: str = "mesos", **fields: Any) -> Client:
    fields.setdefault("capabilities", [{"type": "PARTITION_AWARE"}, {"type": "RESERVATION_REFINEMENT"}])
    fields.setdefault("failover_timeout", 60)
    stream = await Wire.open(port)
    await stream.send(subscribe(name, **fields))
    assert await stream.head() == 200, await stream.body()
    event = await stream.event()
    return Client(world, port, stream, await Wire.open(port), event["subscribed"]["framework_id"]["value"])


# A right body of each call.
BODIES: dict[str, Any] = {
    "ACCEPT": {"offer_ids": [id_of("o")], "operations": [launch(task("t"))]},
    "DECLINE": {"offer_ids": [id_of("o")]},
    "ACCEPT_INVERSE_OFFERS": {"inverse_offer_ids": [id_of("o")]},
    "DECLINE_INVERSE_OFFERS": {"inverse_offer_ids": [id_of("o")]},
    "REVIVE": {"roles": ["default"]},
    "SUPPRESS": {"roles": ["default"]},
    "KILL": {"task_id": id_of("t")},
    "SHUTDOWN": {"executor_id": id_of("e"), "agent_id": id_of("a")},
    "ACKNOWLEDGE": {"agent_id": id_of("a"), "task_id": id_of("t"), "uuid": UUID},
    "ACKNOWLEDGE_OPERATION_STATUS": {"operation_id": id_of("o"), "uuid": UUID},
    "RECONCILE": {"tasks": [{"task_id": id_of("t")}]},
    "RECONCILE_OPERATIONS": {"operations": [{"operation_id": id_of("o")}]},
    "MESSAGE": {"agent_id": id_of("a"), "executor_id": id_of("e"), "data": UUID},
    "REQUEST": {"requests": [{"resources": scalars()}]},
    "UPDATE_FRAMEWORK": {"framework_info": {"user": "me", "name": "n"}},
}
ACKNOWLEDGEMENTS = ("ACKNOWLEDGE", "ACKNOWLEDGE_OPERATION_STATUS")

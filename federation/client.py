"""An asyncio SDK for frameworks: offers come, tasks go, and what Mesos leaves to every framework is done here.

    async with Framework("http://127.0.0.1:8642", "trainer", roles=("ml",)) as framework:
        async for offer in framework.offers():
            await framework.launch(offer, task("t1", ["python", "train.py"], cpus=1))
            print(await framework.ended("t1"))

The stream is opened again when it breaks, with growing pauses; tasks the framework knows are reconciled then, until
each was heard of. Updates are acknowledged once they are noted; those told twice are noted and shown once, also across
a restart of the master. An offer that the loop did not use is declined.
See docs/frameworks.md.
"""

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec
import structlog

from federation.errors import PeerError
from federation.http.mesos.peer import decode_event, encode_call
from federation.http.mesos.recordio import Unframer
from federation.jobs import Artifact, Write
from federation.market.protocol import (
    Accept,
    Acknowledge,
    AcknowledgeOperation,
    Call,
    Claim,
    Decline,
    Error,
    FrameworkInfo,
    FrameworkOffer,
    KillTask,
    KnownTask,
    Launch,
    LeastOffer,
    Offers,
    Operation,
    Reconcile,
    Request,
    Rescind,
    Revive,
    StreamEvent,
    Subscribe,
    Subscribed,
    Suppress,
    TaskSpec,
    Teardown,
    Update,
    UpdateOperation,
    WantedOffer,
)  # fmt: skip
from policies.gpus import WHOLE, milli_of

_PATH: Final = "/api/v1/scheduler"
_BACKOFF_S: Final = (0.1, 15.0)  # the first pause and the longest; Mesos recommends at most 15 s
_BEATS_MISSED_MAX: Final = 5
_CALL_S: Final = 75.0  # for an answer, as Mesos recommends
_QUEUED_MAX: Final = 10_000  # events for one reader of `events`; a slower one loses the oldest
_TASKS_ENDED_MAX: Final = 10_000
_UUIDS_MAX: Final = 100_000  # of updates heard; the master tells one again for hours at most
_RECONCILE_S: Final = (1.0, 60.0)  # the first pause between two questions for the same tasks, and the longest
_ENDED: Final = frozenset(
    {"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST", "TASK_DROPPED", "TASK_GONE"}
)
_CAPABILITIES: Final = frozenset(
    {"MULTI_ROLE", "RESERVATION_REFINEMENT", "PARTITION_AWARE", "TASK_KILLING_STATE", "REGION_AWARE"}
)
log = structlog.get_logger("offerflow.client")


class FrameworkError(Exception):
    """The master refused: `status` is that of HTTP, 0 where the stream told it. Not worth repeating."""

    def __init__(self, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.status = status


def task(
    task_id: str,
    command: Iterable[str],
    *,
    cpus: float = 1.0,
    memory_bytes: int = 256 * 2**20,
    disk_bytes: int = 0,
    gpus: float = 0,
    env: dict[str, str] | None = None,
    reads: Iterable[str] = (),
    writes: Iterable[Write] = (),
    artifact: Artifact | None = None,
) -> TaskSpec:
    """A task of unreserved resources. `reads` are shard ids; `{in}`, `{out}`, `{shard.path}` in `command` are filled in
    by the agent. `gpus` below 1 is a share of one. Whatever else a task can have: make a `TaskSpec`."""
    claim = Claim(
        cpu_milli=round(cpus * 1000),
        memory_bytes=memory_bytes,
        disk_bytes=disk_bytes,
        gpus=int(gpus) if gpus >= 1 else 0,
        gpu_milli=round(gpus * 1000) if gpus < 1 else 0,
    )
    return TaskSpec(
        task_id=task_id,
        claims=(claim,),
        command=tuple(command),
        env=env or {},
        reads=tuple(reads),
        writes=tuple(writes),
        artifact=artifact,
    )


def fits(offer: FrameworkOffer, tasks: Iterable[TaskSpec]) -> bool:
    """Whether the offer holds all that these tasks claim, together. Offers may be small: what one task left behind."""
    left: dict[Any, list[int]] = {}
    for portion in offer.portions:
        have, sums = portion.resources, left.setdefault((portion.reservation, portion.revocable), [0] * 4)
        amounts = (have.cpu_milli, have.memory_bytes, have.disk_bytes, milli_of(have.gpus))
        sums[:] = [total + amount for total, amount in zip(sums, amounts, strict=True)]
    for claim in (claim for spec in tasks for claim in spec.claims):
        sums = left.setdefault((claim.reservation, claim.revocable), [0] * 4)
        gpu_milli = claim.gpu_milli or max(claim.gpus, len(claim.gpu_uuids)) * WHOLE
        wanted = (claim.cpu_milli, claim.memory_bytes, claim.disk_bytes, gpu_milli)
        sums[:] = [total - amount for total, amount in zip(sums, wanted, strict=True)]
    return all(total >= 0 for sums in left.values() for total in sums)


class Framework:
    """A framework's connection to a master, open within `async with`. At the end of the block the framework is torn
    down and its tasks are killed, unless `keep`: then they run on for `failover_timeout_s`, and who subscribes with
    its `framework_id` goes on with them."""

    def __init__(
        self,
        url: str,
        name: str,
        roles: Iterable[str] = ("default",),
        *,
        user: str = "",
        principal: str = "",
        secret: str = "",
        token: str = "",
        framework_id: str = "",
        failover_timeout_s: float = 60.0,
        gpus: bool = False,
        revocable: bool = False,
        constraints: dict[str, tuple[str, ...]] | None = None,
        least_offers: dict[str, tuple[LeastOffer, ...]] | None = None,
        keep: bool = False,
        automatic: bool = True,
    ) -> None:
        """`constraints`: predicates on offers by role ("" for all); `least_offers`: how much of one is worth an offer.
        Without `automatic`, `acknowledge` is yours."""
        capabilities = set(_CAPABILITIES) | ({"GPU_RESOURCES"} if gpus else set())
        self.info = FrameworkInfo(
            name=name,
            user=user,
            roles=tuple(roles),
            capabilities=frozenset(capabilities | ({"REVOCABLE_RESOURCES"} if revocable else set())),  # type: ignore[arg-type]
            failover_timeout_us=round(failover_timeout_s * 1e6),
            principal=principal,
            constraints=constraints or {},
            least_offers=least_offers or {},
        )
        self.framework_id = framework_id
        self.tasks: OrderedDict[str, Update] = OrderedDict()  # the newest update of each task
        self._url = url.rstrip("/") + _PATH
        self._auth = _authorization(principal, secret, token)
        self._keep, self._automatic = keep, automatic
        self._session: aiohttp.ClientSession | None = None
        self._running: asyncio.Task[None] | None = None
        self._stream_id = ""
        self._offers: OrderedDict[str, FrameworkOffer] = OrderedDict()  # not answered, not looked at
        self._held: set[str] = set()  # looked at, not answered
        self._failure: FrameworkError | None = None
        self._changed = asyncio.Condition()
        self._taps: set[asyncio.Queue[StreamEvent]] = set()
        self._launched: dict[str, str] = {}  # task → agent, where no update came yet
        self._heard: OrderedDict[bytes, None] = OrderedDict()  # uuids of updates
        self._unheard: set[str] = set()  # tasks not heard of since the stream was opened again
        self._reconciling: asyncio.Task[None] | None = None

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Subscribed. Raises `FrameworkError` where the master refuses; waits for one that is not there."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._session = aiohttp.ClientSession(headers=self._auth, timeout=timeout)
        self._running = asyncio.create_task(self._run(), name="framework")
        try:
            await self._until(lambda: bool(self._stream_id))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._keep and self._stream_id:
            with contextlib.suppress(FrameworkError, aiohttp.ClientError, TimeoutError):
                await self.call(Teardown())
        await self._close()

    async def _close(self) -> None:
        for task in (self._reconciling, self._running):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    # --- what happens ------------------------------------------------------------------------------------------------

    async def offers(self) -> AsyncGenerator[FrameworkOffer, None]:
        """Offers as they come. One that the loop left unanswered is declined when it asks for the next."""
        while True:
            await self._until(lambda: bool(self._offers))
            offer_id, offer = self._offers.popitem(last=False)
            self._held.add(offer_id)
            try:
                yield offer
            finally:
                if offer_id in self._held and self._stream_id:
                    with contextlib.suppress(FrameworkError, aiohttp.ClientError):
                        await self.decline(offer)

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Every event from now on, as it comes; offers and updates are handled all the same."""
        queue: asyncio.Queue[StreamEvent] = asyncio.Queue(_QUEUED_MAX)
        self._taps.add(queue)
        try:
            while True:
                getting = asyncio.ensure_future(queue.get())
                failing = asyncio.ensure_future(self._until(lambda: False))
                try:
                    await asyncio.wait((getting, failing), return_when=asyncio.FIRST_COMPLETED)
                    if not getting.done():
                        failing.result()
                    yield getting.result()
                finally:
                    getting.cancel()
                    failing.cancel()
                    await asyncio.gather(getting, failing, return_exceptions=True)
        finally:
            self._taps.discard(queue)

    async def ended(self, task_id: str) -> Update:
        """The last update of a task, once it has ended, or nobody knows of it (TASK_UNKNOWN: its agent is gone)."""
        over = _ENDED | {"TASK_UNKNOWN"}
        await self._until(lambda: task_id in self.tasks and self.tasks[task_id].state in over)
        return self.tasks[task_id]

    # --- calls -------------------------------------------------------------------------------------------------------

    async def launch(self, offer: FrameworkOffer, *tasks: TaskSpec) -> None:
        """Use an offer for these tasks; what they leave of it returns."""
        self._launched |= {spec.task_id: offer.agent_id for spec in tasks}
        await self.accept([offer], [Launch(tasks=tasks)])

    async def accept(
        self, offers: Iterable[FrameworkOffer], operations: Iterable[Operation], refuse_s: float = 0.0
    ) -> None:
        """Offers of one agent, and what is to be done with them, in order. The rest is offered again soon."""
        ids = self._answered(offers)
        await self.call(Accept(offer_ids=ids, operations=tuple(operations), refuse_us=round(refuse_s * 1e6)))

    async def decline(self, *offers: FrameworkOffer, refuse_s: float = 5.0) -> None:
        ids = self._answered(offers)
        await self.call(Decline(offer_ids=ids, refuse_us=round(refuse_s * 1e6)))

    def _answered(self, offers: Iterable[FrameworkOffer]) -> tuple[str, ...]:
        ids = tuple(offer.offer_id for offer in offers)
        for offer_id in ids:
            self._held.discard(offer_id)
            self._offers.pop(offer_id, None)
        return ids

    async def request(self, *wants: WantedOffer) -> None:
        """Say what is needed: the offers that answer are where the optimum puts it."""
        await self.call(Request(wants=wants))

    async def revive(self, *roles: str) -> None:
        await self.call(Revive(roles=roles))

    async def suppress(self, *roles: str) -> None:
        await self.call(Suppress(roles=roles))

    async def kill(self, task_id: str, grace_s: float | None = None) -> None:
        grace_us = None if grace_s is None else round(grace_s * 1e6)
        await self.call(KillTask(task_id=task_id, agent_id=self._agent_of(task_id), kill_grace_us=grace_us))

    async def reconcile(self) -> None:
        """Ask for the state of every task that is known and has not ended."""
        await self._ask_for(self._open_tasks())

    def _open_tasks(self) -> list[str]:
        return [*self._launched, *(key for key, update in self.tasks.items() if update.state not in _ENDED)]

    async def _ask_for(self, task_ids: Iterable[str]) -> None:
        known = tuple(KnownTask(task_id=task_id, agent_id=self._agent_of(task_id)) for task_id in task_ids)
        if known:
            await self.call(Reconcile(tasks=known))

    async def _reconcile_all(self) -> None:
        """Until each task was heard of: of agents that have not come back after a restart a master says nothing."""
        pause_s = _RECONCILE_S[0]
        while self._unheard:
            if self._stream_id:
                await self._soon(self._ask_for(sorted(self._unheard)))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RECONCILE_S[1])

    async def acknowledge(self, update: Update) -> None:
        """Only what carries a `uuid` is acknowledged; done by itself where `automatic`."""
        if update.uuid:
            await self.call(Acknowledge(task_id=update.task_id, agent_id=update.agent_id, uuid=update.uuid))

    async def call(self, call: Call) -> None:
        """Any call. Raises `FrameworkError` where it is refused."""
        if self._failure is not None:
            raise self._failure
        assert self._session is not None, "outside of `async with`"
        body = msgspec.json.encode(encode_call(call, self.framework_id))
        headers = {"Content-Type": "application/json", "Mesos-Stream-Id": self._stream_id}
        timeout = aiohttp.ClientTimeout(total=_CALL_S)
        async with self._session.post(self._url, data=body, headers=headers, timeout=timeout) as answer:
            if answer.status not in (200, 202):
                raise FrameworkError(_detail(await answer.text()), answer.status)

    def _agent_of(self, task_id: str) -> str:
        update = self.tasks.get(task_id)
        return update.agent_id if update is not None else self._launched.get(task_id, "")

    # --- the stream --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Stay subscribed until cancelled or refused for good."""
        pause_s = _BACKOFF_S[0]
        try:
            while True:
                try:
                    await self._stream()
                    pause_s = _BACKOFF_S[0]
                except (aiohttp.ClientError, TimeoutError, OSError, PeerError) as error:
                    log.warning("the stream broke", name=self.info.name, reason=str(error) or type(error).__name__)
                if self._stream_id:
                    pause_s = _BACKOFF_S[0]
                self._stream_id = ""
                self._offers.clear()  # They are void, and the master gives out new ones.
                self._held.clear()
                # Spread, so that the frameworks of a master that restarts do not all come at once.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, _BACKOFF_S[1])
        except FrameworkError as error:
            self._failure, self._stream_id = error, ""
        except Exception as error:  # A bug must not leave those who wait waiting.
            log.exception("the framework's stream failed")
            self._failure = FrameworkError(f"the client failed: {error!r}")
        await self._tell()

    async def _stream(self) -> None:
        """One subscription, until it breaks. Raises `FrameworkError` where there will be no other."""
        assert self._session is not None
        body = msgspec.json.encode(encode_call(Subscribe(framework=self.info, framework_id=self.framework_id)))
        tree: dict[str, Any] = msgspec.json.decode(body)
        if self.framework_id:
            tree["framework_id"] = {"value": self.framework_id}
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        async with self._session.post(self._url, data=msgspec.json.encode(tree), headers=headers) as answer:
            if answer.status != 200:
                detail = _detail(await answer.text())
                if answer.status in (429, 503, 504) or answer.status >= 500:
                    raise aiohttp.ClientConnectionError(f"{answer.status}: {detail}")
                raise FrameworkError(detail, answer.status)
            stream_id, unframer, silence_s = answer.headers.get("Mesos-Stream-Id", ""), Unframer(), 60.0
            while True:
                async with asyncio.timeout(silence_s):
                    data = await answer.content.readany()
                if not data:
                    raise aiohttp.ClientConnectionError("the master closed the stream")
                for record in unframer.feed(data):
                    event = decode_event(record)
                    if isinstance(event, Subscribed):
                        silence_s = _BEATS_MISSED_MAX * event.heartbeat_us / 1e6
                        await self._begin(event, stream_id)
                    elif event is not None:
                        await self._take(event)

    async def _begin(self, event: Subscribed, stream_id: str) -> None:
        is_new = not self.framework_id
        self.framework_id, self._stream_id = event.framework_id, stream_id
        if not is_new:
            self._unheard = set(self._open_tasks())
            if self._reconciling is not None:
                self._reconciling.cancel()
            self._reconciling = asyncio.create_task(self._reconcile_all(), name="framework-reconciling")
        await self._tell(event)

    async def _take(self, event: StreamEvent) -> None:
        match event:
            case Offers(offers=offers):
                self._offers |= {offer.offer_id: offer for offer in offers}
            case Rescind(offer_id=offer_id):
                self._offers.pop(offer_id, None)
                self._held.discard(offer_id)
            case Update():
                is_new = self._is_new(event)
                if is_new:
                    self._note(event)
                if self._automatic:
                    await self._soon(self.acknowledge(event))
                if not is_new:
                    return
            case UpdateOperation() if self._automatic and event.uuid:
                acknowledgement = AcknowledgeOperation(
                    operation_id=event.operation_id, uuid=event.uuid, agent_id=event.agent_id
                )
                await self._soon(self.call(acknowledgement))
            case Error(message=message):
                raise FrameworkError(message)
        await self._tell(event)

    def _is_new(self, update: Update) -> bool:
        """False for what is told again because its acknowledgement was lost, or with the master that heard it."""
        if not update.uuid:
            return True
        if update.uuid in self._heard:
            return False
        self._heard[update.uuid] = None
        if len(self._heard) > _UUIDS_MAX:
            self._heard.popitem(last=False)
        return True

    def _note(self, update: Update) -> None:
        earlier = self.tasks.get(update.task_id)
        self._unheard.discard(update.task_id)
        self._launched.pop(update.task_id, None)
        if earlier is not None and earlier.state in _ENDED and update.state not in _ENDED:
            return  # An old one, told again.
        self.tasks[update.task_id] = update
        self.tasks.move_to_end(update.task_id)
        if len(self.tasks) > _TASKS_ENDED_MAX:
            oldest = next((task_id for task_id, known in self.tasks.items() if known.state in _ENDED), None)
            if oldest is not None:
                del self.tasks[oldest]

    async def _soon(self, calling: Any) -> None:
        """A call the stream needs: where it fails, the master will say the same again."""
        with contextlib.suppress(FrameworkError, aiohttp.ClientError, TimeoutError):
            await calling

    async def _tell(self, event: StreamEvent | None = None) -> None:
        if event is not None:
            for tap in self._taps:
                if tap.full():
                    tap.get_nowait()
                tap.put_nowait(event)
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Any) -> None:
        """Raises `FrameworkError` once the framework is over."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._failure is not None or condition())
        if self._failure is not None and not condition():
            raise self._failure


def _authorization(principal: str, secret: str, token: str) -> dict[str, str]:
    if token:
        return {"Authorization": f"Bearer {token}"}
    return {"Authorization": aiohttp.BasicAuth(principal, secret).encode()} if principal else {}


def _detail(text: str) -> str:
    """Of a problem document, or the text itself."""
    try:
        document = msgspec.json.decode(text)
        return str(document.get("detail") or document.get("title"))
    except (msgspec.DecodeError, AttributeError):
        return text[:500]

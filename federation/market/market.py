"""The market's door: calls of frameworks come in here, timers too, and after each event it looks who can be offered."""

from collections.abc import Hashable

from federation.agents_book import AgentEntry
from federation.api import Answer, Problem
from federation.commands import Reply
from federation.core import Core
from federation.events import FrameworkCalled
from federation.market import inverse, operations, running, subscriptions, wants
from federation.market.accepting import accept, decline
from federation.market.allocation import allocate_if_due
from federation.market.book import Bucket, FrameworkEntry, Waiting
from federation.market.facts import OperationAcknowledged, UpdateAcknowledged
from federation.market.leasing import emit, end_filters, rescind, rescind_agent, rescind_expired
from federation.market.protocol import (
    Accept,
    AcceptInverse,
    Acknowledge,
    AcknowledgeOperation,
    Call,
    CallTaken,
    Decline,
    DeclineInverse,
    KillTask,
    Message,
    Reconcile,
    ReconcileOperations,
    Request,
    Revive,
    Shutdown,
    Subscribe,
    Suppress,
    Teardown,
    UpdateFramework,
    UpdateOperation,
)
from federation.market.subscriptions import refusal

MILLI = 1_000


# --- calls -----------------------------------------------------------------------------------------------------------


def called(core: Core, event: FrameworkCalled) -> None:
    """Answer a call, or let it wait for its principal's turn."""
    if not core.started:
        _reply(core, event.request_id, refusal(503, "recovering", "The master is not serving yet"))
        return
    bucket = _bucket(core, event.principal)
    if bucket is not None:
        if bucket.queue or bucket.tokens_milli < MILLI:
            if len(bucket.queue) >= core.config.calls_waiting_max:
                core.count("calls_refused")
                problem = refusal(
                    429, "too_many_calls", "Too many calls wait for their turn",
                    f"{core.config.calls_per_s} calls a second are taken, and {len(bucket.queue)} wait",
                )  # fmt: skip
                _reply(core, event.request_id, problem)
                return
            core.count("calls_delayed")
            bucket.queue.append(
                Waiting(event.request_id, event.framework_id, event.stream_id, event.principal, event.call)
            )
            _plan_turn(core, event.principal, bucket)
            return
        bucket.tokens_milli -= MILLI
    _take(core, event)


def _bucket(core: Core, principal: str) -> Bucket | None:
    """The principal's tokens as of now; None when nobody is limited. A bucket holds one second's worth."""
    per_s = core.config.calls_per_s
    if not per_s:
        return None
    bucket = core.market.buckets.get(principal)
    if bucket is None:
        if len(core.market.buckets) >= core.config.frameworks_max:
            full = [name for name, other in core.market.buckets.items() if not other.queue]
            for name in full[: max(1, len(full) // 2)]:
                del core.market.buckets[name]
        bucket = core.market.buckets[principal] = Bucket(per_s * MILLI, core.now_us)
    gained = (core.now_us - bucket.updated_us) * per_s // 1_000
    if gained > 0:
        bucket.tokens_milli = min(per_s * MILLI, bucket.tokens_milli + gained)
        bucket.updated_us = core.now_us
    return bucket


def _plan_turn(core: Core, principal: str, bucket: Bucket) -> None:
    wait_us = -(-(MILLI - bucket.tokens_milli) * 1_000 // core.config.calls_per_s)
    core.deadlines.set_earlier(("market", "turn", principal), core.now_us + max(1, wait_us))


def _next_turn(core: Core, principal: str) -> None:
    bucket = _bucket(core, principal)
    if bucket is None:
        return
    while bucket.queue and bucket.tokens_milli >= MILLI:
        bucket.tokens_milli -= MILLI
        waiting = bucket.queue.popleft()
        _take(
            core,
            FrameworkCalled(
                request_id=waiting.request_id,
                framework_id=waiting.framework_id,
                stream_id=waiting.stream_id,
                principal=waiting.principal,
                call=waiting.call,
            ),
        )
    if bucket.queue:
        _plan_turn(core, principal, bucket)


def _take(core: Core, event: FrameworkCalled) -> None:
    core.count("framework_calls")
    call = event.call
    answer: Answer
    if isinstance(call, Subscribe):
        answer = subscriptions.subscribe(core, event, call)
    else:
        framework = core.market.frameworks.get(event.framework_id)
        problem = _stranger(framework, event)
        if problem is not None or framework is None:
            assert problem is not None
            answer = problem
        else:
            answer = _do(core, framework, call)
    if isinstance(answer, Problem):
        core.count("calls_refused")
    _reply(core, event.request_id, answer)


def _stranger(framework: FrameworkEntry | None, event: FrameworkCalled) -> Problem | None:
    """Why the caller may not speak for the framework."""
    if framework is None:
        return refusal(403, "not_subscribed", "Framework is not subscribed", f"{event.framework_id!r} is not known")
    if framework.principal != event.principal:
        return refusal(403, "other_principal", "The framework belongs to another principal")
    if not framework.stream_id:
        return refusal(403, "not_subscribed", "Framework is not subscribed", "its stream is closed: subscribe again")
    if framework.stream_id != event.stream_id:
        return refusal(
            400, "other_stream",
            "The stream ID included in this request didn't match the stream ID currently associated with framework ID "
            f"'{framework.framework_id}'",
        )  # fmt: skip
    return None


def _reply(core: Core, request_id: str, answer: Answer) -> None:
    core.out.append(Reply(request_id=request_id, answer=answer))


def _do(core: Core, framework: FrameworkEntry, call: Call) -> Answer:
    match call:
        case UpdateFramework():
            return subscriptions.update(core, framework, call)
        case Revive():
            return subscriptions.revive(core, framework, call)
        case Suppress():
            return subscriptions.suppress(core, framework, call)
        case Request():
            return wants.request(core, framework, call)
        case Teardown():
            stream_id = framework.stream_id
            subscriptions.end(core, framework, "torn down")
            core.out.append(subscriptions.closing(framework.framework_id, stream_id, "Framework was torn down"))
        case Accept():
            accept(core, framework, call)
        case Decline():
            decline(core, framework, call)
        case AcceptInverse() | DeclineInverse():
            inverse.answer(core, framework, call)
        case KillTask():
            _kill(core, framework, call)
        case Shutdown():
            for task in list(framework.tasks.values()):
                if task.spec.executor_id == call.executor_id and task.agent_id == call.agent_id:
                    running.kill_task(core, task)
        case Acknowledge():
            _acknowledge(core, framework, call)
        case AcknowledgeOperation():
            _acknowledge_operation(core, framework, call)
        case Reconcile():
            _reconcile(core, framework, call)
        case ReconcileOperations():
            _reconcile_operations(core, framework, call)
        case Message():
            core.count("executor_messages_dropped")
        case Subscribe():
            raise AssertionError("taken before")
    return CallTaken(framework_id=framework.framework_id)


def _kill(core: Core, framework: FrameworkEntry, call: KillTask) -> None:
    task = framework.tasks.get(call.task_id)
    if task is not None and task.is_open:
        running.kill_task(core, task, grace_us=call.kill_grace_us)
    else:
        _say_state(core, framework, call.task_id, call.agent_id)


def _acknowledge(core: Core, framework: FrameworkEntry, call: Acknowledge) -> None:
    task = framework.tasks.get(call.task_id)
    if task is None or not task.updates or task.updates[0].uuid != call.uuid:
        core.count("acknowledgements_stale")  # It was told twice, and acknowledged twice.
        return
    framework.retries.pop(call.task_id, None)
    core.persist(
        UpdateAcknowledged(
            at_us=core.now_us, framework_id=framework.framework_id, task_id=call.task_id, uuid=call.uuid
        )
    )  # fmt: skip
    running.tell(core, framework, task)


def _acknowledge_operation(core: Core, framework: FrameworkEntry, call: AcknowledgeOperation) -> None:
    operation = framework.operations.get(call.operation_id)
    if operation is None or not call.uuid or operation.fact.uuid != call.uuid:
        core.count("acknowledgements_stale")
        return
    framework.retries.pop(operations.RETRY_KEY + call.operation_id, None)
    core.persist(
        OperationAcknowledged(
            at_us=core.now_us, framework_id=framework.framework_id, operation_id=call.operation_id, uuid=call.uuid
        )
    )  # fmt: skip


# --- reconciliation --------------------------------------------------------------------------------------------------


def _reconcile(core: Core, framework: FrameworkEntry, call: Reconcile) -> None:
    if call.tasks:
        for known in call.tasks:
            _say_state(core, framework, known.task_id, known.agent_id)
    else:
        for task_id in list(framework.tasks):
            _say_state(core, framework, task_id, "")


def _say_state(core: Core, framework: FrameworkEntry, task_id: str, agent_id: str) -> None:
    """The latest state, without a uuid. While its agent has not reconciled after a restart nothing is said: the
    framework asks again."""
    task = framework.tasks.get(task_id)
    reason = "REASON_RECONCILIATION"
    if task is not None:
        if task.agent_id not in core.awaited:
            state = task.updates[-1].state if task.updates else task.state
            running.say(core, framework, task_id, task.agent_id, state, reason)  # type: ignore[arg-type]
        return
    if agent_id and agent_id in core.awaited:
        return
    state = "TASK_GONE" if core.agents.is_here(agent_id) else "TASK_UNKNOWN"
    running.say(core, framework, task_id, agent_id, running.lost_state(framework, state), reason, "it is not known")  # type: ignore[arg-type]


def _reconcile_operations(core: Core, framework: FrameworkEntry, call: ReconcileOperations) -> None:
    for operation_id in call.operation_ids or tuple(framework.operations):
        operation = framework.operations.get(operation_id)
        if operation is not None:
            emit(core, framework, operations.update_of(operation.fact, b""))
        else:
            emit(core, framework, UpdateOperation(operation_id=operation_id, state="OPERATION_UNKNOWN"))


# --- what happens ----------------------------------------------------------------------------------------------------


def begin(core: Core) -> None:
    """A term begins: frameworks have until their failover timeout to come back."""
    if core.config.congestion_us:
        core.deadlines.set(("market", "congestion"), core.now_us + core.config.inverse_offer_us)
    for framework in core.market.frameworks.values():
        framework.gone_us = core.now_us
        core.deadlines.set(
            ("market", "failover", framework.framework_id), core.now_us + framework.info.failover_timeout_us
        )  # fmt: skip


def stream_closed(core: Core, framework_id: str, stream_id: str) -> None:
    framework = core.market.frameworks.get(framework_id)
    if framework is not None and framework.stream_id == stream_id and stream_id:
        subscriptions.disconnect(core, framework)


def roles_changed(core: Core, path: str) -> None:
    """A quota or weight is another: offers of the role made under the old one return, and all is looked at anew."""
    entry = core.shares.roles[path]
    if entry.quota is not None:
        for made in list(core.market.leases.values()):
            if made.offer.role == path or made.offer.role.startswith(f"{path}/"):
                rescind(core, made, "quota")
    subscriptions.changed(core)


def mode_changed(core: Core, entry: AgentEntry) -> None:
    """Maintenance begins or ends."""
    if entry.mode == "active":
        core.market.mark(entry.agent_id)
        inverse.withdraw(core, entry)
    else:
        rescind_agent(core, entry, entry.mode)
        if entry.mode == "draining":
            inverse.ask_back(core, entry, "drain")


def look_around(core: Core) -> None:
    """After every event: allocate if it is time to."""
    if core.market.held:
        wants.serve_held(core)
    if core.market.frameworks:
        allocate_if_due(core)


def pass_deadline(core: Core, key: tuple[Hashable, ...]) -> None:
    kind = key[1]
    if kind == "leases":
        rescind_expired(core)
    elif kind == "filters":
        end_filters(core)
    elif kind == "cycle":
        pass  # `look_around` looks at the time itself.
    elif kind == "turn":
        _next_turn(core, str(key[2]))
    elif kind == "holds":
        wants.look_at_holds(core)
    elif kind == "congestion":
        inverse.look_at_links(core)
    else:
        framework = core.market.frameworks[str(key[2])]
        match kind:
            case "heartbeat":
                subscriptions.heartbeat(core, framework)
            case "retry":
                operations.retell(core, framework)
            case "failover":
                subscriptions.end(core, framework, "its failover timeout has passed")
            case "inverse":
                inverse.ask_again(core, framework)

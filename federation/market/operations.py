"""Operations of an accept other than launches: reservations, and replicas of shards on the offer's agent.

A reservation is done when its fact is. A replica is ordered from the agent and done when the agent reports it. Those
with an id are told of, with a uuid until acknowledged; those without one succeed or fail silently, as in Mesos.
"""

import hashlib

from federation.agents_book import AgentEntry, SentCommand
from federation.core import Core
from federation.launches import begin_move
from federation.market import running
from federation.market.book import FrameworkEntry
from federation.market.facts import OperationChanged
from federation.market.leasing import emit
from federation.market.protocol import OperationState, Portion, UpdateOperation
from federation.wire import DropShard, ShardStatus
from policies.model import ShardMove

RETRY_KEY = "/"  # No task id begins so: operations are told from tasks by it.
_RETRY_DOUBLINGS_MAX = 6


def finish(
    core: Core,
    framework: FrameworkEntry,
    operation_id: str,
    agent_id: str,
    state: OperationState,
    message: str = "",
    left: tuple[str, ...] = (),
    converted: tuple[Portion, ...] = (),
) -> None:
    """Write and tell the state of an operation that has an id."""
    if not operation_id:
        return
    core.market.n_uuids += 1
    uuid = b""
    if state != "OPERATION_PENDING":
        uuid = hashlib.blake2b(f"{core.term}/{core.market.n_uuids}".encode(), digest_size=16).digest()
    core.persist(
        OperationChanged(
            at_us=core.now_us,
            framework_id=framework.framework_id,
            operation_id=operation_id,
            state=state,
            agent_id=agent_id,
            uuid=uuid,
            message=message,
            left=left,
            converted=converted,
        )
    )
    tell(core, framework, operation_id)


def tell(core: Core, framework: FrameworkEntry, operation_id: str) -> None:
    fact = framework.operations[operation_id].fact
    if fact.state == "OPERATION_PENDING" or not framework.stream_id:
        return
    wait_us = framework.retries.get(RETRY_KEY + operation_id, (0, core.config.update_retry_us))[1]
    framework.retries[RETRY_KEY + operation_id] = (core.now_us + wait_us, wait_us)
    core.deadlines.set_earlier(("market", "retry", framework.framework_id), core.now_us + wait_us)
    emit(core, framework, update_of(fact, fact.uuid))


def update_of(fact: OperationChanged, uuid: bytes) -> UpdateOperation:
    return UpdateOperation(
        operation_id=fact.operation_id,
        state=fact.state,
        agent_id=fact.agent_id,
        uuid=uuid,
        message=fact.message,
        converted=fact.converted,
    )


def retell(core: Core, framework: FrameworkEntry) -> None:
    """What was told, of tasks and operations, and not acknowledged in time is told again, then after twice as long."""
    most_us = core.config.update_retry_us << _RETRY_DOUBLINGS_MAX
    for key, (due_us, wait_us) in list(framework.retries.items()):
        operation_id = key.removeprefix(RETRY_KEY) if key.startswith(RETRY_KEY) else ""
        if (operation_id or key) not in (framework.operations if operation_id else framework.tasks):
            del framework.retries[key]
        elif due_us <= core.now_us:
            framework.retries[key] = (due_us, min(most_us, 2 * wait_us))
            core.count("updates_retold")
            if operation_id:
                tell(core, framework, operation_id)
            else:
                running.tell(core, framework, framework.tasks[key])
    if framework.retries and framework.stream_id:
        due_us = min(due_us for due_us, _ in framework.retries.values())
        core.deadlines.set(("market", "retry", framework.framework_id), max(due_us, core.now_us + 1))


def refuse(
    core: Core, framework: FrameworkEntry, operation_id: str, agent_id: str, message: str, *, is_stale: bool
) -> None:  # fmt: skip
    """An operation that never began: told once, nothing durable rests on it."""
    core.count("operations_refused")
    if operation_id:
        state: OperationState = "OPERATION_DROPPED" if is_stale else "OPERATION_ERROR"
        emit(
            core,
            framework,
            UpdateOperation(operation_id=operation_id, state=state, agent_id=agent_id, message=message),
        )


def create(
    core: Core, framework: FrameworkEntry, entry: AgentEntry, shard_ids: tuple[str, ...], operation_id: str
) -> None:  # fmt: skip
    """Order a replica of each shard that the agent does not hold yet."""
    left: list[str] = []
    for shard_id in shard_ids:
        if shard_id in entry.shards:
            continue
        move = ShardMove(shard_id=shard_id, from_agent="", to_agent=entry.agent_id)
        if (shard_id, entry.agent_id) not in core.moves.in_flight and not begin_move(core, move):
            message = f"shard {shard_id[:12]}… cannot be copied to {entry.agent_id}"
            finish(core, framework, operation_id, entry.agent_id, "OPERATION_FAILED", message)
            return
        left.append(shard_id)
    state: OperationState = "OPERATION_PENDING" if left else "OPERATION_FINISHED"
    finish(core, framework, operation_id, entry.agent_id, state, left=tuple(left))


def destroy(
    core: Core, framework: FrameworkEntry, entry: AgentEntry, shard_ids: tuple[str, ...], operation_id: str
) -> None:  # fmt: skip
    """Drop replicas; one that is the last, or that fewer than wanted would be left without, stays."""
    for shard_id in shard_ids:
        shard = core.shards.entries.get(shard_id)
        if shard is None or shard_id not in entry.shards:
            continue
        others = [agent_id for agent_id in core.shards.live_replicas(shard) if agent_id != entry.agent_id]
        if len(others) + shard.in_store < max(1, shard.replicas_wanted):
            message = f"shard {shard_id[:12]}… would have too few replicas"
            finish(core, framework, operation_id, entry.agent_id, "OPERATION_FAILED", message)
            return
    left = tuple(shard_id for shard_id in shard_ids if shard_id in entry.shards)
    for shard_id in left:
        cmd_id = core.new_cmd_id()
        core.remember(entry, SentCommand(cmd_id=cmd_id, kind="drop", key=shard_id, sent_us=core.now_us))
        core.order(entry, [DropShard(cmd_id=cmd_id, shard_id=shard_id)])
    state: OperationState = "OPERATION_PENDING" if left else "OPERATION_FINISHED"
    finish(core, framework, operation_id, entry.agent_id, state, left=left)


def on_shard(core: Core, entry: AgentEntry, status: ShardStatus) -> None:
    """An agent has or has lost a shard, or could not get it: operations that waited for it go on."""
    shard_id = status.shard.shard_id
    for framework in core.market.frameworks.values():
        for operation_id, operation in list(framework.operations.items()):
            fact = operation.fact
            if fact.state != "OPERATION_PENDING" or fact.agent_id != entry.agent_id or shard_id not in fact.left:
                continue
            if status.state == "failed":
                finish(core, framework, operation_id, entry.agent_id, "OPERATION_FAILED", status.detail)
                continue
            left = tuple(other for other in fact.left if other != shard_id)
            state: OperationState = "OPERATION_PENDING" if left else "OPERATION_FINISHED"
            finish(core, framework, operation_id, entry.agent_id, state, left=left)

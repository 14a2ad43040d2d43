"""Operations of ACCEPT: JSON → the market's values. A task or operation that cannot be done as it is written becomes a
`Refusal` with its reason, as Mesos answers it with TASK_ERROR or OPERATION_ERROR; the others of the call are done.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from federation.errors import PeerError
from federation.http.mesos import messages as m
from federation.http.mesos.amounts import claims_of
from federation.market.protocol import (
    Create,
    Destroy,
    Launch,
    LaunchGroup,
    Operation,
    Refusal,
    Reserve,
    TaskSpec,
    Unreserve,
)  # fmt: skip

_SHELL: Final = ("/bin/sh", "-c")
# A container that asks for none of these is a plain process in a folder of its own, which is what agents run.
_CONTAINER_PARTS: Final = ("docker", "volumes", "network_infos", "linux_info", "rlimit_info", "tty_info")
_tasks = msgspec.msgpack.Decoder(TaskSpec)
_operations = msgspec.msgpack.Decoder(Operation)


def operations_of(parts: Iterable[m.OperationPart]) -> tuple[tuple[Operation, ...], tuple[Refusal, ...]]:
    """Those that can be done, in order, and what cannot. Raises `PeerError("invalid")` where one lacks its body."""
    operations: list[Operation] = []
    refusals: list[Refusal] = []
    for part in parts:
        if part.type in _BODIES and getattr(part, part.type.lower()) is None:
            raise PeerError("invalid", f"Expecting '{part.type.lower()}' in the operation to be present")
        if part.type == "LAUNCH" and part.launch is not None:
            specs, refused = _tasks_of(part.launch.task_infos)
            refusals += refused
            if specs:
                operations.append(Launch(tasks=specs))
        elif part.type == "LAUNCH_GROUP" and part.launch_group is not None:
            _group(part.launch_group, operations, refusals)
        else:
            operation_id = part.id.value if part.id is not None else ""
            try:
                operations.append(_checked(_operations, _other(part, operation_id)))
            except PeerError as error:
                refusals.append(Refusal(operation_id=operation_id[:255], problem=_short(error)))
    return tuple(operations), tuple(refusals)


def _other(part: m.OperationPart, operation_id: str) -> Operation:
    if part.type == "RESERVE" and part.reserve is not None:
        return Reserve(claims=claims_of(part.reserve.resources), operation_id=operation_id)
    if part.type == "UNRESERVE" and part.unreserve is not None:
        return Unreserve(claims=claims_of(part.unreserve.resources), operation_id=operation_id)
    if part.type == "CREATE" and part.create is not None:
        return Create(shard_ids=_shards(part.create), operation_id=operation_id)
    if part.type == "DESTROY" and part.destroy is not None:
        return Destroy(shard_ids=_shards(part.destroy), operation_id=operation_id)
    raise PeerError("invalid", f"operation {part.type[:80]!r} is not done here: volumes are shard replicas")


def _shards(part: m.VolumesPart) -> tuple[str, ...]:
    ids = []
    for volume in part.volumes:
        if volume.disk is None or volume.disk.persistence is None:
            raise PeerError("invalid", "a volume is a shard's replica: its disk.persistence.id is the shard's id")
        ids.append(volume.disk.persistence.id)
    return tuple(dict.fromkeys(ids))


# --- tasks -----------------------------------------------------------------------------------------------------------


def _tasks_of(parts: Iterable[m.TaskInfo]) -> tuple[tuple[TaskSpec, ...], list[Refusal]]:
    specs: list[TaskSpec] = []
    refusals: list[Refusal] = []
    for part in parts:
        try:
            specs.append(_checked(_tasks, _task(part)))
        except PeerError as error:
            refusals.append(Refusal(task_id=part.task_id.value, problem=_short(error)))
    return tuple(specs), refusals


def _group(part: m.LaunchGroupPart, operations: list[Operation], refusals: list[Refusal]) -> None:
    """All of its tasks, or a refusal of each."""
    parts = part.task_group.tasks
    specs, refused = _tasks_of(parts)
    problem = refused[0].problem if refused else ""
    try:
        _check_executor(part.executor)
        if not problem:
            executor_id = part.executor.executor_id.value
            operations.append(_checked(_operations, LaunchGroup(tasks=specs, executor_id=executor_id)))
            return
    except PeerError as error:
        problem = _short(error)
    refusals += [Refusal(task_id=each.task_id.value, is_grouped=True, problem=problem) for each in parts]


def _task(part: m.TaskInfo) -> TaskSpec:
    if part.executor is not None:
        _check_executor(part.executor)
    _check_container(part.container)
    if part.command is None:
        raise PeerError("invalid", "the task has no 'command'")
    for name in ("health_check", "check"):
        if getattr(part, name) is not None:
            raise PeerError("invalid", f"agents make no health checks: leave {name!r} out")
    if part.limits:
        raise PeerError("invalid", "agents hold tasks to their 'resources': leave 'limits' out")
    for resource in part.resources:
        if resource.disk is not None and resource.disk.persistence is not None:
            raise PeerError("invalid", "volumes are not mounted: name the shard in the task's offerflow.reads")
    extension = part.offerflow
    limit_ns = part.max_completion_time.nanoseconds if part.max_completion_time is not None else None
    if limit_ns is not None and limit_ns < 0:
        raise PeerError("invalid", "'max_completion_time' is negative")
    return TaskSpec(
        task_id=part.task_id.value,
        agent_id=part.agent_id.value if part.agent_id is not None else "",
        claims=claims_of(part.resources),
        command=_command(part.command),
        name=part.name,
        env=_environment(part.command.environment),
        artifact=extension.artifact,
        reads=extension.reads,
        writes=extension.writes,
        executor_id=part.executor.executor_id.value if part.executor is not None else "",
        kill_grace_us=grace_us_of(part.kill_policy),
        time_limit_us=extension.time_limit_us,
        max_completion_us=max(1, limit_ns // 1000) if limit_ns is not None else None,
        labels=labels_of(part.labels),
        data=part.data,
        simulated_run_us=extension.simulated_run_us,
    )


def _check_executor(executor: m.ExecutorInfo) -> None:
    # Mesos takes one with a command and no type for a custom one.
    is_custom = executor.type == "CUSTOM" or (not executor.type and executor.command is not None)
    if is_custom or executor.type not in ("", "DEFAULT", "UNKNOWN"):
        raise PeerError("invalid", "agents run plain commands, no custom executors: leave 'executor' out")
    _check_container(executor.container)


def _check_container(container: dict[str, Any] | None) -> None:
    if container is None:
        return
    parts = [name for name in _CONTAINER_PARTS if container.get(name)]
    image = container["mesos"].get("image") if isinstance(container.get("mesos"), dict) else container.get("mesos")
    if container.get("type") != "MESOS" or parts or image:
        raise PeerError(
            "invalid", "agents run plain commands, no containers: only one of type MESOS that asks for nothing is taken"
        )


def _command(command: m.CommandInfo) -> tuple[str, ...]:
    if command.uris:
        raise PeerError("invalid", "'uris' are not fetched: name shards in the task's offerflow.reads and .artifact")
    if not command.value:
        raise PeerError("invalid", "'command.value' is empty")
    # Without a shell, the arguments begin with the program's own name, as execv(3) has it.
    return (*_SHELL, command.value) if command.shell else (command.value, *command.arguments[1:])


def _environment(environment: m.Environment) -> dict[str, str]:
    for variable in environment.variables:
        if variable.secret is not None or variable.type == "SECRET":
            raise PeerError("invalid", f"there is no store of secrets: {variable.name[:80]!r} needs a plain value")
    return {variable.name: variable.value or "" for variable in environment.variables}


def grace_us_of(policy: m.KillPolicy) -> int | None:
    if policy.grace_period is None:
        return None
    if policy.grace_period.nanoseconds < 0:
        raise PeerError("invalid", "'kill_policy.grace_period' is negative")
    return policy.grace_period.nanoseconds // 1000


def labels_of(labels: m.Labels) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((label.key, label.value) for label in labels.labels))


# --- checking --------------------------------------------------------------------------------------------------------


def _checked(decoder: Any, value: Any) -> Any:
    """The value, within the bounds its type sets. Raises `PeerError("invalid")`."""
    try:
        return decoder.decode(msgspec.msgpack.encode(value))
    except (msgspec.ValidationError, OverflowError, UnicodeEncodeError) as error:
        raise PeerError("invalid", str(error)) from None


def _short(error: PeerError) -> str:
    return error.detail[:1_000]


_BODIES: Final = frozenset({"LAUNCH", "LAUNCH_GROUP", "RESERVE", "UNRESERVE", "CREATE", "DESTROY"})

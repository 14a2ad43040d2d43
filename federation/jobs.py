"""What a person submits: a job of task groups. The master expands groups; `federation/jobfile.py` reads files."""

from typing import Annotated

import msgspec

from policies.model import Communication, Elastic, LatencyTarget, Needs, Record, Replicas, Where

Identifier = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,62})$")]
RolePath = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*(/[a-z0-9][a-z0-9-]*)*$", max_length=255)]
ShardGlob = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Arg = Annotated[str, msgspec.Meta(max_length=16 * 1024)]

TASKS_MAX = 1_000_000  # in one job


class Artifact(Record, frozen=True, kw_only=True):
    """Task code: a shard in the master's own store, unpacked into the task's folder."""

    shard_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    name: str = ""


class Write(Record, frozen=True, kw_only=True):
    """A file under `{out}` that becomes a shard named `{task_id}/{name}` when the task finishes."""

    name: Identifier
    path: str  # relative to {out}
    bytes_max: Annotated[int, msgspec.Meta(ge=0)]


class TaskGroup(Record, frozen=True, kw_only=True):
    """Equal tasks: `count` of them, or one for each shard whose name matches `for_each`.

    `reads` holds shard name globs; `{shard}` is the task's own. A glob that starts with `<group>/` of this job and a
    `*` reads what those tasks wrote (`train/*/model`), and is resolved when they have finished.
    In `command` and `env`: `{shard.path}`, `{shard.name}`, `{in}` (folder of all reads), `{out}`, `{index}`, `{job}`.
    """

    name: Identifier
    command: Annotated[tuple[Arg, ...], msgspec.Meta(min_length=1, max_length=1024)]
    needs: Needs = Needs(cpu_milli=1000, memory_bytes=256 * 2**20)
    count: Annotated[int, msgspec.Meta(ge=1, le=TASKS_MAX)] = 1
    for_each: ShardGlob | None = None
    reads: tuple[ShardGlob, ...] = ()
    writes: tuple[Write, ...] = ()
    after: tuple[Identifier, ...] = ()
    artifact: Artifact | None = None
    env: dict[str, Arg] = msgspec.field(default_factory=dict)
    where: Where = Where()
    profile: str = ""  # default: <job name>/<group>
    run_us: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000  # declared run time on the reference core
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    time_limit_us: Annotated[int, msgspec.Meta(ge=1)] | None = None
    deadline_us: Annotated[int, msgspec.Meta(ge=1)] | None = None  # from submission
    latency: tuple[LatencyTarget, ...] = ()
    service: bool = False  # runs until it is stopped: `run_us` says only when to expect its end
    replicas: Replicas | None = None  # of a service: how many run is found out; `count` is the most
    gang: bool = False  # all tasks of the group run together or not at all
    communication: Communication | None = None
    elastic: Elastic | None = None  # any number of the tasks makes progress; the policy says how many run
    simulated_run_us: Annotated[int, msgspec.Meta(ge=1)] | None = None  # what really happens, in a scenario


class Job(Record, frozen=True, kw_only=True):
    name: Identifier
    tasks: Annotated[tuple[TaskGroup, ...], msgspec.Meta(min_length=1, max_length=256)]
    role: RolePath = "default"
    priority: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50

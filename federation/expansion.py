"""From a job to its tasks: checks what no agent could ever mend, and resolves the globs that can be resolved now.

A refusal names the group and what to change. A demand that today's agents cannot meet is no refusal: it stays pending
and `why` says what is short.
"""

from fnmatch import fnmatchcase
from typing import NamedTuple

from federation.api import Problem
from federation.config import MasterConfig
from federation.jobs import TASKS_MAX, Job, TaskGroup
from federation.shards import ShardBook
from policies.gpus import WHOLE
from policies.model import Needs

OWN_SHARD = "{shard}"
AMOUNT_MAX = 2**60
COMMAND_BYTES_MAX = 64 * 1024  # A launch must stay well below the wire's 256 KiB; more belongs in an artifact.


class Expansion(NamedTuple):
    each: dict[str, tuple[str, ...]]  # group → the shard ids of its tasks, for groups with `for_each`
    reads: dict[str, tuple[tuple[str, str], ...]]  # group → (shard id, name) that all its tasks read
    n_tasks: int


def upstream_group(glob: str, groups: frozenset[str]) -> str | None:
    """The group of the same job whose outputs a glob names; None when it names shards that exist already."""
    head, slash, _ = glob.partition("/")
    return head if slash and head in groups else None


def groups_before(group: TaskGroup, groups: frozenset[str]) -> tuple[str, ...]:
    """What must finish first: declared by `after`, or implied by reading its outputs. Sorted."""
    implied = {upstream_group(glob, groups) for glob in group.reads} - {None}
    return tuple(sorted({*group.after, *(name for name in implied if name is not None)}))


def output_glob(glob: str) -> str:
    """The part of an upstream glob that is matched against `<index>/<write name>`."""
    return glob.partition("/")[2]


def expand(job: Job, shards: ShardBook, config: MasterConfig) -> Expansion | Problem:
    names = [group.name for group in job.tasks]
    groups = frozenset(names)
    if len(groups) != len(names):
        twice = sorted(name for name in groups if names.count(name) > 1)
        return _refusal("duplicate_group", f"task groups need their own names; {', '.join(twice)} is there twice")
    problem = _dependency_problem(job, groups)
    if problem is not None:
        return problem
    each: dict[str, tuple[str, ...]] = {}
    reads: dict[str, tuple[tuple[str, str], ...]] = {}
    n_tasks = 0
    for group in job.tasks:
        if group.for_each is not None:
            each[group.name] = tuple(dict.fromkeys(shard_id for shard_id, _ in shards.matching(group.for_each)))
            if not each[group.name]:
                return _refusal("no_shards", f"{group.name}: no shard's name matches for_each {group.for_each!r}")
        n_tasks += len(each[group.name]) if group.for_each is not None else group.count
        fixed: dict[tuple[str, str], None] = {}
        for glob in group.reads:
            if glob == OWN_SHARD or upstream_group(glob, groups) is not None:
                continue
            found = shards.matching(glob)
            if not found:
                return _refusal("no_shards", f"{group.name}: no shard's name matches {glob!r} in reads")
            fixed.update(dict.fromkeys(found))
        reads[group.name] = tuple(fixed)
    counts = {group.name: len(each[group.name]) if group.name in each else group.count for group in job.tasks}
    for group in job.tasks:
        problem = _group_problem(group, groups, counts, each, reads, job, shards, config)
        if problem is not None:
            return problem
    if n_tasks > TASKS_MAX:
        return _refusal("too_many_tasks", f"the job has {n_tasks} tasks; one job may have {TASKS_MAX}")
    return Expansion(each=each, reads={name: ids for name, ids in reads.items() if ids}, n_tasks=n_tasks)


def _refusal(code: str, detail: str) -> Problem:
    return Problem(status=422, code=code, title="The job cannot be accepted", detail=detail)


def _dependency_problem(job: Job, groups: frozenset[str]) -> Problem | None:
    before = {group.name: groups_before(group, groups) for group in job.tasks}
    for group in job.tasks:
        for name in group.after:
            if name not in groups:
                known = ", ".join(sorted(groups))
                return _refusal("unknown_group", f"{group.name}: after names {name!r}; the job has {known}")
    done: set[str] = set()
    path: list[str] = []

    def cycle_from(name: str) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        path.append(name)
        for above in before[name]:
            found = cycle_from(above)
            if found:
                return found
        path.pop()
        done.add(name)
        return None

    for name in sorted(groups):
        cycle = cycle_from(name)
        if cycle:
            return _refusal("cycle", f"task groups wait for each other: {' after '.join(cycle)}")
    return None


def _group_problem(
    group: TaskGroup,
    groups: frozenset[str],
    counts: dict[str, int],
    each: dict[str, tuple[str, ...]],
    reads: dict[str, tuple[tuple[str, str], ...]],
    job: Job,
    shards: ShardBook,
    config: MasterConfig,
) -> Problem | None:
    needs_problem = _needs_problem(group.needs)
    if needs_problem is not None:
        return _refusal("impossible_demand", f"{group.name}: {needs_problem}")
    if group.for_each is None:
        if OWN_SHARD in group.reads:
            return _refusal("no_own_shard", f"{group.name}: reads {OWN_SHARD} needs for_each")
        if any("{shard." in text for text in (*group.command, *group.env.values())):
            return _refusal("no_own_shard", f"{group.name}: {{shard.…}} in command or env needs for_each")
    n_reads = len(reads[group.name]) + (OWN_SHARD in group.reads)
    for glob in group.reads:
        name = None if glob == OWN_SHARD else upstream_group(glob, groups)
        if name is None:
            continue
        above = next(other for other in job.tasks if other.name == name)
        pattern = output_glob(glob)
        written = [w.name for w in above.writes if fnmatchcase(w.name, pattern.rpartition("/")[2])]
        if not written or "/" not in pattern:
            return _refusal(
                "no_such_output",
                f"{group.name}: {glob!r} matches nothing that {name} writes; say {name}/*/<name of a write>",
            )
        n_reads += len(written) * (counts[name] if pattern.startswith("*") else 1)
    n_bytes = sum(len(text.encode()) for text in (*group.command, *group.env, *group.env.values()))
    if n_bytes > COMMAND_BYTES_MAX:
        return _refusal("command_too_long", f"{group.name}: command and env have {n_bytes} bytes, at most 65,536")
    if n_reads > config.reads_max:
        return _refusal("too_many_reads", f"{group.name}: each task reads {n_reads} shards, at most {config.reads_max}")
    if len({write.name for write in group.writes}) != len(group.writes):
        return _refusal("duplicate_write", f"{group.name}: writes need their own names")
    for write in group.writes:
        if write.path.startswith("/") or ".." in write.path.split("/") or not write.path:
            return _refusal("bad_path", f"{group.name}: writes {write.name}: {write.path!r} must stay under {{out}}")
    replicas_problem = _replicas_problem(group)
    if replicas_problem is not None:
        return _refusal("bad_replicas", f"{group.name}: {replicas_problem}")
    return _contradiction(group, each, reads, shards)


def _replicas_problem(group: TaskGroup) -> str | None:
    replicas = group.replicas
    if replicas is None:
        return None
    if not group.service or not group.latency:
        return "replicas are of a service with clients: it needs service and latency"
    if group.gang or group.elastic is not None or group.for_each is not None or group.communication is not None:
        return "replicas are added one by one: no gang, elastic or for_each"
    if not replicas.least <= replicas.most:
        return f"at least {replicas.least} replicas, but at most {replicas.most}"
    if group.count != replicas.most:
        return f"count {group.count} is not the most replicas, {replicas.most}"
    if len({target.site for target in group.latency}) != len(group.latency):
        return "latency names a client site twice"
    return None


def _needs_problem(needs: Needs) -> str | None:
    for name, value in (
        ("cpu_milli", needs.cpu_milli), ("memory_bytes", needs.memory_bytes), ("disk_bytes", needs.disk_bytes),
    ):  # fmt: skip
        if not 0 <= value <= AMOUNT_MAX:
            return f"needs {name} {value} is not within 0 … 2^60"
    if needs.gpu is not None and not (1 <= needs.gpu.count <= 1024 and 0 <= needs.gpu.memory_bytes <= AMOUNT_MAX):
        return "needs 1 … 1,024 gpus of 0 … 2^60 bytes"
    if needs.gpu is not None and not (
        (1 <= needs.gpu.milli < WHOLE and needs.gpu.count == 1) or needs.gpu.milli == WHOLE
    ):
        return "needs whole gpus, or a share of one from 0.001 to 0.999 of it"
    for link in needs.links:
        if (link.rtt_us_max is not None and link.rtt_us_max < 0) or (
            link.bandwidth_bps_min is not None and link.bandwidth_bps_min < 0
        ):
            return f"the link to {link.site} needs a bound of 0 or more"
    return None


def _contradiction(
    group: TaskGroup,
    each: dict[str, tuple[str, ...]],
    reads: dict[str, tuple[tuple[str, str], ...]],
    shards: ShardBook,
) -> Problem | None:
    """Constraints that exclude each other on any agent there could be."""
    where = group.where
    if where.agents and set(where.agents) <= set(where.agents_avoided):
        return _refusal("contradiction", f"{group.name}: every agent of where.agents is also avoided")
    if len({key for key, _ in where.labels}) != len(set(where.labels)):
        return _refusal("contradiction", f"{group.name}: a label cannot have two values at once")
    common: set[str] | None = set(where.sites) if where.sites else None
    for shard_id, name in reads[group.name]:
        common = _narrowed(common, shards.entries[shard_id].sites)
        if common is not None and not common:
            return _refusal(
                "residency", f"{group.name}: shard {name} may not live at any site where all else it needs is"
            )
    own = each.get(group.name, ()) if OWN_SHARD in group.reads else ()
    for shard_id in own:
        left = _narrowed(common, shards.entries[shard_id].sites)
        if left is not None and not left:
            name = shards.entries[shard_id].name or shard_id[:12]
            return _refusal("residency", f"{group.name}: shard {name} may not live at any site the task may run at")
    return None


def _narrowed(common: set[str] | None, sites: tuple[str, ...]) -> set[str] | None:
    if not sites:
        return common
    return set(sites) if common is None else common & set(sites)

"""The book of jobs and tasks.

Every change comes from a fact; what follows from one (dependents becoming pending, what an agent has left, what a role
has allocated, the demand classes) is derived here, so that replay derives it too.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from operator import attrgetter

import msgspec

from federation.agents_book import AgentBook
from federation.demands import DemandBook, demand_id_of
from federation.expansion import OWN_SHARD, output_glob, upstream_group
from federation.explanation import Explanation
from federation.facts import (
    JobAccepted,
    JobCancelled,
    JobEnded,
    ServiceAsked,
    ServiceBalanced,
    TaskRefused,
    TasksAssigned,
    TaskStateChanged,
)
from federation.shards import ShardBook
from federation.shares import ShareBook
from federation.states import (
    ASSIGNED,
    CANCELLED,
    FINISHED,
    KILLING,
    PENDING,
    PLACED_STATES,
    RUNNING,
    STAGING,
    STATES,
    TASK_EDGES,
    TERMINAL_STATES,
    UNKNOWN,
    WAITING,
    TaskState,
)
from federation.task_entries import GroupEntry, JobEntry, Read, TaskEntry, attach, detach, elastic_of
from policies.model import Demand, Gang, Where

AGAIN_REASONS = frozenset({"drain", "evicted", "gang", "moved"})
"""Why an attempt is killed whose task is to run again; any other reason but `SCALED` cancels the task."""

UNREACHED = "fetch"
"""Why an attempt ends whose data did not come: it goes elsewhere, whether or not that counts as its failure."""

SCALED = "scaled"
"""Why a replica starts or stops: its service needs more of them, or fewer. One that stops waits to be needed again."""


_group_of = attrgetter("group")


class TaskBook:
    def __init__(
        self,
        agents: AgentBook,
        shards: ShardBook,
        shares: ShareBook,
        *,
        deadline_grid_us: int,
        ended_jobs_max: int,
        ended_tasks_max: int,
        names_max: int,
    ) -> None:
        self._agents = agents
        self._shards = shards
        self._shares = shares
        self._deadline_grid_us = deadline_grid_us
        self._ended_jobs_max = ended_jobs_max
        self._ended_tasks_max = ended_tasks_max
        self._names_max = names_max
        self.jobs: dict[str, JobEntry] = {}
        self.tasks: dict[str, TaskEntry] = {}
        self.demands = DemandBook()
        self.counts: dict[TaskState, int] = dict.fromkeys(TaskState, 0)
        self.job_counts: dict[str, int] = dict.fromkeys(("running", "finished", "failed", "cancelled"), 0)
        self.submissions: dict[str, str] = {}  # submission id → job id
        self.serials: dict[str, int] = {}  # job name → the last number given under it
        self.ended: dict[str, None] = {}  # ended jobs, oldest first
        self.n_ended_tasks = 0
        self.services: dict[str, GroupEntry] = {}  # of open jobs, those whose replicas are added and removed
        self.drained: dict[str, None] = {}  # jobs without open tasks whose `JobEnded` is still to be written

    # --- facts -------------------------------------------------------------------------------------------------------

    def accept(self, fact: JobAccepted) -> None:
        job = JobEntry(fact)
        self.jobs[job.job_id] = job
        self.job_counts["running"] += 1
        if fact.submission_id:
            self.submissions[fact.submission_id] = job.job_id
        self._count_name(job)
        self._shares.ensure(job.job.role)
        for spec in fact.job.tasks:
            shard_ids = fact.each.get(spec.name, ())
            group = job.groups[spec.name] = GroupEntry(job, spec, shard_ids, fact.reads.get(spec.name, ()))
            count = len(shard_ids) if spec.for_each is not None else spec.count
            group.tasks = [
                TaskEntry(f"{job.job_id}/{spec.name}/{index}", group, index, WAITING, fact.at_us)
                for index in range(count)
            ]
            group.n_open = count
            job.n_tasks += count
            self.tasks.update((task.task_id, task) for task in group.tasks)
        self.note_services(job)
        job.n_open = job.n_tasks
        job.counts[WAITING] = job.n_tasks
        self.counts[WAITING] += job.n_tasks
        for group in job.groups.values():
            if group.ready:
                self._pend_all(group, fact.at_us)

    def assign(self, fact: TasksAssigned, term: int) -> None:
        for assignment in fact.assignments:
            explanation = Explanation(
                round_id=fact.round_id,
                term=term,
                policy=fact.policy,
                at_us=fact.at_us,
                agent_id=assignment.agent_id,
                terms=assignment.terms,
                alternatives=assignment.alternatives,
            )
            tasks = [self.tasks[task_id] for task_id in assignment.task_ids]
            for n, task in enumerate(tasks):
                task.attempt = assignment.attempts[n]
                task.agent_id = assignment.agent_id
                task.cmd_id = assignment.cmd_ids[n]
                task.gpus = assignment.gpus[n] if assignment.gpus else ()
                task.tuning = assignment.tuning
                task.launched_us = fact.at_us
                task.seen = False
                task.read_bytes = self._read_bytes(task)
                task.started_us = task.stage_us = task.run_us = task.exit_code = None
                task.fetched_bytes = 0
            for _, alike in groupby(tasks, _group_of):
                self._move(list(alike), ASSIGNED, fact.at_us)
            for task in tasks:
                task.explanation = explanation

    def _read_bytes(self, task: TaskEntry) -> int:
        group = task.group
        if not group.reads and not group.shard_ids:
            return 0
        reads = group.reads_of(task.index)
        entries, shard_ids = self._shards.entries, {shard_id for shard_id, _ in reads}
        return sum(entries[shard_id].size_bytes for shard_id in shard_ids if shard_id in entries)

    def refuse(self, fact: TaskRefused, term: int) -> None:
        found = self.demands.classes.get(fact.demand_id)
        if found is not None:
            found.explanation = Explanation(
                round_id=fact.round_id,
                term=term,
                policy=fact.policy,
                at_us=fact.at_us,
                blockers=fact.blockers,
                n_agents=fact.n_agents,
                waits_for=fact.waits_for,
            )

    def change(self, fact: TaskStateChanged) -> None:
        task, new = self.tasks[fact.task_id], STATES[fact.state]
        if fact.attempt_failed:
            task.n_failed += 1
        is_unreached = fact.reason == UNREACHED and new is PENDING
        if (fact.attempt_failed or is_unreached) and task.agent_id and task.agent_id not in task.failed_on:
            task.failed_on = tuple(sorted((*task.failed_on, task.agent_id)))
        task.reason, task.detail = fact.reason, fact.detail
        if fact.log_tail:
            task.log_tail = fact.log_tail
        if fact.exit_code is not None:
            task.exit_code = fact.exit_code
        task.fetched_bytes = fact.fetched_bytes or task.fetched_bytes
        task.stage_us = fact.stage_us if fact.stage_us is not None else task.stage_us
        task.run_us = fact.run_us if fact.run_us is not None else task.run_us
        if new in (STAGING, RUNNING):
            task.seen = True
            if new is RUNNING and task.started_us is None:
                task.started_us = fact.at_us
        if new is FINISHED:
            task.outputs = fact.outputs
            for held in fact.outputs:
                self._shards.output(held, task.agent_id)
        if new is PENDING and task.started_us is not None and not fact.attempt_failed:
            task.attained_us += fact.at_us - task.started_us
        if new is not KILLING or task.state is not KILLING:
            self._move((task,), new, fact.at_us)  # Else only what the kill is for has changed.

    def forget_whereabouts(self, agent_id: str, at_us: int) -> None:
        """The agent is disconnected: what it runs is unknown. Attempts being killed stay so."""
        for task_id in self._agents[agent_id].tasks:
            task = self.tasks[task_id]
            if task.state not in (KILLING, UNKNOWN):
                self._move((task,), UNKNOWN, at_us)

    def cancel(self, fact: JobCancelled) -> None:
        job = self.jobs[fact.job_id]
        job.cancelled = True
        for group in job.groups.values():
            for task in group.tasks:
                if task.state in (WAITING, PENDING):
                    task.reason = "cancel"
                    self._move((task,), CANCELLED, fact.at_us)
                elif task.state in PLACED_STATES:
                    task.reason = "cancel"
                    if task.state is not KILLING:
                        self._move((task,), KILLING, fact.at_us)

    def end(self, fact: JobEnded) -> None:
        job = self.jobs[fact.job_id]
        self.job_counts[job.state] -= 1
        job.state, job.ended_us, job.detail = fact.state, fact.at_us, fact.detail
        self.job_counts[job.state] += 1
        self.drained.pop(job.job_id, None)
        for group in job.groups.values():
            self.services.pop(group.group_id, None)
        self.ended[job.job_id] = None
        self.n_ended_tasks += job.n_tasks
        while self.ended and (len(self.ended) > self._ended_jobs_max or self.n_ended_tasks > self._ended_tasks_max):
            self._prune(next(iter(self.ended)))

    # --- what follows from facts -------------------------------------------------------------------------------------

    def _count_name(self, job: JobEntry) -> None:
        name, job_id = job.job.name, job.job_id
        number = 1 if job_id == name else int(job_id[len(name) + 1 :])
        self.serials.pop(name, None)
        self.serials[name] = number
        if len(self.serials) > self._names_max:
            del self.serials[next(iter(self.serials))]

    def _prune(self, job_id: str) -> None:
        job = self.jobs.pop(job_id)
        del self.ended[job_id]
        self.n_ended_tasks -= job.n_tasks
        self.job_counts[job.state] -= 1
        if job.fact.submission_id:
            self.submissions.pop(job.fact.submission_id, None)
        for group in job.groups.values():
            for task in group.tasks:
                del self.tasks[task.task_id]
                self.counts[task.state] -= 1

    def _pend_all(self, group: GroupEntry, at_us: int) -> None:
        group.ready = True
        group.reads = tuple(dict.fromkeys((*group.reads, *self._upstream_reads(group))))
        least = group.spec.replicas.least if group.spec.replicas is not None else len(group.tasks)
        waiting = [task for task in group.tasks[:least] if task.state is WAITING]
        if waiting:
            self._move(waiting, PENDING, at_us)

    def _upstream_reads(self, group: GroupEntry) -> list[Read]:
        groups = frozenset(group.job.groups)
        found: list[Read] = []
        for glob in group.spec.reads:
            name = None if glob == OWN_SHARD else upstream_group(glob, groups)
            if name is None:
                continue
            pattern = f"{group.job.job_id}/{name}/{output_glob(glob)}"
            for task in group.job.groups[name].tasks:
                found += [(held.shard_id, held.name) for held in task.outputs if fnmatchcase(held.name, pattern)]
        return found

    def _move(self, tasks: Sequence[TaskEntry], new: TaskState, at_us: int) -> None:
        """Take one legal edge and keep every derived book in step. The tasks are of one group, in one state and, if
        that state or the new one is a placed one, on one agent: what they have in common is done once for all."""
        first, n = tasks[0], len(tasks)
        old, group = first.state, first.group
        assert new in TASK_EDGES[old], f"task {first.task_id}: {old} → {new}"
        job = group.job
        if old is PENDING:
            for task in tasks:
                task.explanation = self.demands.remove(task.demand_id, task.task_id).explanation
                task.demand_id = ""
            self._shares.pend(job.job.role, -n)
        if old in PLACED_STATES:
            if new not in PLACED_STATES:
                detach(self._agents[first.agent_id], tasks)
                self._shares.release(job.job.role, group.amount_of(n), n)
            elif new is KILLING:
                self._agents[first.agent_id].changed()  # Policies see which of its tasks are ending.
        elif new in PLACED_STATES:
            attach(self._agents[first.agent_id], tasks)
            self._shares.allocate(job.job.role, group.amount_of(n), n)
        self.counts[old] -= n
        self.counts[new] += n
        job.counts[old] -= n
        job.counts[new] += n
        for task in tasks:
            task.state, task.since_us, task.running = new, at_us, None
        if new is PENDING:
            for task in tasks:
                task.agent_id, task.gpus = "", ()
            self.enter_class(tasks)
        elif new is WAITING:
            for task in tasks:
                task.agent_id, task.gpus, task.pending_us = "", (), None
        elif new in TERMINAL_STATES:
            for task in tasks:
                task.ended_us = at_us
                self._close(group, new, at_us)

    def enter_class(self, tasks: Sequence[TaskEntry]) -> None:
        """Let tasks of one group join the classes of equal pending tasks."""
        for task in tasks:
            if task.pending_us is None:
                task.pending_us = task.since_us
            template = self.template_of(task)
            task.demand_id = template.demand_id
            self.demands.add(template, task.task_id, task.since_us)
        self._shares.pend(tasks[0].group.job.job.role, len(tasks))

    def _reclass(self, group: GroupEntry) -> None:
        """A gang that lost members for good is a smaller gang."""
        for task in group.tasks:
            if task.state is PENDING:
                self.demands.remove(task.demand_id, task.task_id)
                self._shares.pend(group.job.job.role, -1)
                self.enter_class((task,))

    def _close(self, group: GroupEntry, new: TaskState, at_us: int) -> None:
        job = group.job
        group.n_open -= 1
        job.n_open -= 1
        if group.spec.gang and not job.cancelled:
            self._reclass(group)
        if new is FINISHED:
            group.n_finished += 1
            if group.n_finished == len(group.tasks):
                for other in job.groups.values():
                    if not other.ready and all(
                        job.groups[name].n_finished == len(job.groups[name].tasks) for name in other.after
                    ):
                        self._pend_all(other, at_us)
        else:
            group.n_failed += 1
            if group.n_failed == 1:
                self._cancel_dependents(group, at_us)
        if job.n_open == 0:
            self.drained[job.job_id] = None

    def _cancel_dependents(self, group: GroupEntry, at_us: int) -> None:
        """They can never start: what they come after did not finish."""
        for other in group.job.groups.values():
            if group.spec.name in other.after and not other.ready:
                for task in other.tasks:
                    if task.state is WAITING:
                        task.reason, task.detail = "dependency", f"{group.spec.name} did not finish"
                        self._move((task,), CANCELLED, at_us)

    def note_services(self, job: JobEntry) -> None:
        for group in job.groups.values():
            if group.spec.replicas is not None:
                self.services[group.group_id] = group

    def balance(self, fact: ServiceBalanced) -> None:
        group = self.services.get(f"{fact.job_id}/{fact.group}")
        if group is not None:
            group.weights = fact.weights

    def ask(self, fact: ServiceAsked) -> None:
        group = self.services.get(f"{fact.job_id}/{fact.group}")
        if group is not None:
            group.asked = dict(fact.asked)

    def facing_clients(self) -> Iterator[TaskEntry]:
        """Tasks of open jobs that have clients to answer in time, but those of services that are weighted. Cost
        O(jobs + such tasks)."""
        for job in self.jobs.values():
            if job.faces_clients and job.n_open:
                for group in job.groups.values():
                    if group.spec.latency and group.spec.replicas is None:
                        yield from group.tasks

    # --- demand classes ----------------------------------------------------------------------------------------------

    def template_of(self, task: TaskEntry) -> Demand:
        group = task.group
        if group.has_own:
            return self.make_template(group, group.reads_of(task.index), task.failed_on, _rounded(task.attained_us))
        key = (task.failed_on, group.n_open if group.spec.gang else 0, _rounded(task.attained_us))
        if key not in group.templates:
            group.templates[key] = self.make_template(group, group.reads, task.failed_on, key[2])
        return group.templates[key]

    def classes_of(self, group: GroupEntry) -> Iterator[tuple[Demand, int]]:
        """The classes a fresh group would make, with their sizes."""
        if group.has_own:
            for index in range(len(group.shard_ids)):
                yield self.make_template(group, group.reads_of(index), ()), 1
        else:
            yield self.make_template(group, group.reads, ()), group.n_open

    def make_template(
        self, group: GroupEntry, reads: tuple[Read, ...], failed_on: tuple[str, ...], attained_us: int = 0
    ) -> Demand:
        """The class of a task: everything a policy may see of it, with count and waiting time left at 0."""
        job, spec = group.job, group.spec
        where: Where = spec.where
        if failed_on:
            avoided = tuple(sorted({*where.agents_avoided, *failed_on}))
            where = msgspec.structs.replace(where, agents_avoided=avoided)
        deadline_us = None
        if spec.deadline_us is not None:
            deadline_us = (job.submitted_us + spec.deadline_us) // self._deadline_grid_us * self._deadline_grid_us
        gang = None
        if spec.gang:
            gang = Gang(gang_id=f"{job.job_id}/{spec.name}", size=group.n_open, communication=spec.communication)
        template = Demand(
            demand_id="",
            role=job.job.role,
            needs=spec.needs,
            count=0,
            oldest_us=0,
            priority=job.job.priority,
            where=where,
            reads=tuple(sorted({shard_id for shard_id, _ in reads})),
            output_bytes=sum(write.bytes_max for write in spec.writes),
            profile=group.profile,
            run_us=spec.run_us,
            deadline_us=deadline_us,
            latency=spec.latency,
            gang=gang,
            is_service=spec.service,
            service_id=group.group_id if spec.replicas is not None else "",
            attained_us=attained_us,
            elastic=elastic_of(group),
        )
        return msgspec.structs.replace(template, demand_id=demand_id_of(template))


def _rounded(attained_us: int) -> int:
    """Down to a power of two: tasks that ran about as long share a class."""
    return 1 << attained_us.bit_length() - 1 if attained_us > 0 else 0

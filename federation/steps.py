"""What workers of elastic jobs measure of their training steps: taken in, kept durably, and shown to policies.

A fact is written for a configuration (workers, agents, batch) not seen before and when its time has moved by a
twentieth: a job whose steps are steady costs the journal nothing. Cost of a report: O(configurations of its group).
"""

import msgspec

from federation.facts import StepsLearned
from federation.task_entries import GroupEntry
from federation.tasks import TaskBook
from federation.wire import Steps, TaskSteps
from policies.model import GroupSteps, StepTime

CONFIGURATIONS_MAX = 64  # of one group; the smallest make room, for those are known best
GROUPS_MAX = 1024  # those that spoke longest ago make room
_MOVED = 20  # by a twentieth


class StepBook:
    def __init__(self) -> None:
        self.groups: dict[str, GroupSteps] = {}  # by group id, who spoke last comes last

    def heard(self, group: GroupEntry, steps: Steps, now_us: int) -> StepsLearned | None:
        """The fact to write, when it says something new. Raises ValueError for what cannot be."""
        if group.spec.elastic is None:
            raise ValueError("the group is not elastic")
        if not steps.agents <= steps.workers <= len(group.tasks) or steps.batch < steps.workers:
            raise ValueError(f"{steps.workers} workers on {steps.agents} agents of {len(group.tasks)} tasks")
        group_id = f"{group.job.job_id}/{group.spec.name}"
        known = self.groups.get(group_id, GroupSteps(group_id=group_id))
        step = StepTime(workers=steps.workers, batch=steps.batch, step_us=steps.step_us, agents=steps.agents)
        before = next((other for other in known.steps if _key(other) == _key(step)), None)
        noise = steps.noise_scale or known.noise_scale
        moved = before is None or _has_moved(before.step_us, step.step_us) or _has_moved(known.noise_scale, noise)
        if not moved:
            return None
        return StepsLearned(at_us=now_us, group_id=group_id, step=_mean(before, step), noise_scale=noise)

    def learn(self, fact: StepsLearned) -> None:
        known = self.groups.pop(fact.group_id, GroupSteps(group_id=fact.group_id))
        steps = sorted((*(step for step in known.steps if _key(step) != _key(fact.step)), fact.step), key=_key)
        self.groups[fact.group_id] = GroupSteps(
            group_id=fact.group_id, steps=tuple(steps[-CONFIGURATIONS_MAX:]), noise_scale=fact.noise_scale
        )
        if len(self.groups) > GROUPS_MAX:
            del self.groups[next(iter(self.groups))]

    def snapshot(self, tasks: TaskBook) -> tuple[GroupSteps, ...]:
        """Of jobs that are not done."""
        found = []
        for group_id in sorted(self.groups):
            job = tasks.jobs.get(group_id.rpartition("/")[0])
            if job is not None and job.n_open:
                found.append(self.groups[group_id])
        return tuple(found)


def told_by(tasks: TaskBook, agent_id: str, told: TaskSteps) -> GroupEntry | None:
    """The group that an agent speaks of; None when the attempt is no longer its."""
    task = tasks.tasks.get(told.task_id)
    return task.group if task and (task.agent_id, task.attempt) == (agent_id, told.attempt) else None


def _has_moved(before: int, now: int) -> bool:
    return abs(now - before) * _MOVED > before


def _mean(before: StepTime | None, now: StepTime) -> StepTime:
    """Half of the way: each report is a median of many steps already, by one worker of several."""
    if before is None:
        return now
    return msgspec.structs.replace(now, step_us=(before.step_us + now.step_us) // 2)


def _key(step: StepTime) -> tuple[int, int, int]:
    return step.workers, step.agents, step.batch

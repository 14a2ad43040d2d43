"""How wrong the planner was about the tasks it placed: expected transfer and run time against what they took.

Both are in the journal: the expectation with the assignment, what happened with the statuses that follow.
"""

from typing import NamedTuple

from federation import facts
from federation.states import TaskState
from scenarios.world import START_US

ERROR_MAX = 10.0  # A tenth of what was expected, or ten times as long, is wrong all the same.


class Prediction(NamedTuple):
    """`at_us` after the start an attempt finished that had been expected to take `expected_us`, and took `took_us`."""

    at_us: int
    task_id: str
    expected_us: int
    took_us: int

    @property
    def error(self) -> float:
        return min(ERROR_MAX, abs(self.expected_us - self.took_us) / self.took_us)


def predictions(journal: tuple[facts.Fact, ...]) -> list[Prediction]:
    """Of every attempt that finished and was explained, in the order in which they finished, but those of elastic
    groups, whose number decides how long each runs. Cost O(facts)."""
    expected: dict[str, int] = {}
    stage: dict[str, int] = {}
    elastic: set[str] = set()  # groups
    found: list[Prediction] = []
    for fact in journal:
        match fact:
            case facts.JobAccepted(job_id=job_id, job=job):
                elastic |= {f"{job_id}/{group.name}" for group in job.tasks if group.elastic is not None}
            case facts.TasksAssigned(assignments=assignments):
                for each in assignments:
                    if each.terms is not None and each.task_ids[0].rpartition("/")[0] not in elastic:
                        terms = each.terms
                        whole_us = terms.transfer_us + terms.congestion_us + terms.run_us
                        expected |= dict.fromkeys(each.task_ids, whole_us)
            case facts.TaskStateChanged(task_id=task_id, state=state):
                if fact.stage_us:
                    stage[task_id] = fact.stage_us
                took_us = (fact.run_us or 0) + stage.get(task_id, 0)
                if state == TaskState.FINISHED and task_id in expected and took_us > 0:
                    found.append(Prediction(fact.at_us - START_US, task_id, expected[task_id], took_us))
            case _:
                pass
    return found


def thirds(journal: tuple[facts.Fact, ...]) -> tuple[float | None, float | None]:
    """The mean error of the first and of the last third of what finished; None of fewer than three."""
    errors = [each.error for each in predictions(journal)]
    n = len(errors) // 3
    return (sum(errors[:n]) / n, sum(errors[-n:]) / n) if n else (None, None)

"""What was expected of an attempt beside what happened: the error goes back into the map and into the counts.

An attempt's explanation holds the planner's expected transfer and run time, its statuses what they took; both are in
the journal. Run times teach profiles (`profiles.py`), transfers over one link teach that link's factor.
"""

from federation.core import Core
from federation.task_entries import TaskEntry
from federation.wire import TaskStatus

JUDGED_US_MIN = 500_000  # Shorter transfers are connections and requests; the link has little part in them.
PPM = 1_000_000


def judge_transfer(core: Core, task: TaskEntry, stage_us: int) -> None:
    """All inputs are there. If they came over one link, and from where they were planned to, it is judged."""
    terms = task.explanation.terms if task.explanation is not None else None
    ends = core.transfers.ends_of(task)
    if terms is None or ends is None:
        return
    planned_us = terms.transfer_us + terms.congestion_us
    is_tried = core.network.is_tried(*ends, core.now_us - stage_us)
    if planned_us >= JUDGED_US_MIN and stage_us > 0 and not is_tried:
        core.persist(core.network.judge(*ends, planned_us, stage_us, core.now_us))


def judge_prediction(core: Core, task: TaskEntry, status: TaskStatus) -> None:
    """Sums over all finished attempts: how many were predicted, and their relative errors."""
    terms = task.explanation.terms if task.explanation is not None else None
    if terms is None:
        return
    expected_us = terms.transfer_us + terms.congestion_us + terms.run_us
    took_us = status.run_us + (status.stage_us or task.stage_us or 0)
    if took_us > 0:
        core.count("predictions")
        core.count("prediction_error_ppm", min(10 * PPM, abs(expected_us - took_us) * PPM // took_us))

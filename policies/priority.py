"""Priority with preemption: what counts most runs first, and ends what counts less when nothing is free.

Highest priority first, then the longest wait, each on the first agent on which it fits. What does not fit anywhere may
end running work of lower priority: `policies/preemption.py` says whose, and what that costs. The freed room is kept for
it and given out once it is free; until then the task is refused with `planned_wait`. A gang is made room for whole or
not at all.
"""

from policies.greedy import Greedy, Round, seniority
from policies.model import Running
from policies.preemption import Preemption, Standing


class Priority(Greedy):
    """Ends only work that is at least `gap` priorities below what asks. Cost of a round: O(demands × agents), and
    O(running tasks) for each task that room is made for."""

    kernel = "preemptive-first-fit"

    def __init__(self, gap: int = 10) -> None:
        # Ten of a hundred: as much as doubles the weight in `flow`; less is not worth somebody's work.
        super().__init__()
        self._gap = gap

    def give_out(self, books: Round) -> None:
        preemption = Preemption(books)
        for c in sorted(range(len(books.demands)), key=lambda c: seniority(books.demands[c])):
            books.serve(c)
            demand = books.demands[c]
            below = demand.priority - self._gap

            def standing(task: Running, below: int = below) -> Standing | None:
                return (task.priority,) if task.priority <= below else None

            if books.remaining[c] and demand.gang is None:
                preemption.make_room(c, standing)
            elif books.remaining[c] and demand.gang is not None and c == books.members(demand.gang.gang_id)[0]:
                preemption.make_gang_room(demand.gang.gang_id, standing)

"""Least attained service in two queues (Tiresias, Gu et al., NSDI 2019): run times need not be known.

What a task attained is the time it ran, earlier attempts included, times what it holds: GPUs where it has any, else
cores. Below a threshold it is in the first queue, past it in the second; the first queue goes first, each queue in
order of age. When nothing is free, the first queue ends running work that has sunk to the second. So short work
overtakes long work without anybody having said which is which.

A task that waits `promote` times as long as it ever ran comes back to the first queue, so that none starves. Tasks
that are ended start again unless they keep checkpoints: what that costs is the price of not knowing.
"""

from policies.greedy import Greedy, Rank, Round
from policies.model import Needs, Running
from policies.preemption import Preemption, Standing

HOUR_US = 3_600_000_000


class Las(Greedy):
    """`threshold_us` is in GPU- (or core-) microseconds. Cost as `priority`'s."""

    kernel = "las-2"

    def __init__(self, threshold_us: int = HOUR_US, promote: int = 8) -> None:
        # One GPU-hour parts the many small jobs from the few that hold most of the service in the traces of Tiresias.
        super().__init__()
        self._threshold_us, self._promote = threshold_us, promote

    def give_out(self, books: Round) -> None:
        preemption = Preemption(books)
        for c in sorted(range(len(books.demands)), key=lambda c: self.rank(books, c)):
            books.serve(c)
            demand = books.demands[c]
            now_us, threshold_us = books.snapshot.now_us, self._threshold_us
            if books.remaining[c] and demand.gang is None and self._queue(books, c) == 0:

                def standing(task: Running, now_us: int = now_us, threshold_us: int = threshold_us) -> Standing | None:
                    ran_us = max(0, now_us - task.since_us) + task.attained_us
                    service_us = ran_us * _width_milli(task.needs) // 1000
                    return (-service_us,) if service_us >= threshold_us else None

                preemption.make_room(c, standing)

    def rank(self, books: Round, c: int) -> Rank:
        demand = books.demands[c]
        return self._queue(books, c), demand.oldest_us, demand.demand_id

    def _queue(self, books: Round, c: int) -> int:
        demand = books.demands[c]
        waited_us = max(0, books.snapshot.now_us - demand.oldest_us)
        if demand.attained_us and waited_us >= self._promote * demand.attained_us:
            return 0
        return int(demand.attained_us * _width_milli(demand.needs) // 1000 >= self._threshold_us)


def _width_milli(needs: Needs) -> int:
    """GPUs where it has any, else cores; in thousandths."""
    return needs.gpu.count * needs.gpu.milli if needs.gpu is not None and needs.gpu.count else max(1, needs.cpu_milli)

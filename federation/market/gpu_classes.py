"""GPUs by model and memory: each class of them is a kind of resource of its own when shares are compared.

Who has half of the few large ones has half of something, however many small ones there are beside. Found from the books
of those agents that have GPUs; of a cluster without any this costs nothing.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from federation.agents_book import HERE_STATES, AgentEntry
from federation.core import Core
from policies.kernels.jit import Int64s
from policies.model import Gpu

GpuClass = tuple[str, int]
"""(model, bytes of memory); what cannot be read is "" and 0."""


class GpuClasses(NamedTuple):
    version: int  # of the book of agents
    number: dict[GpuClass, int]
    whole: list[int]  # how many there are of each, of agents that are here
    entries: tuple[AgentEntry, ...]  # that have any


def class_of(gpu: Gpu) -> GpuClass:
    return gpu.model or "", gpu.memory_bytes or 0


def gpu_classes_of(core: Core) -> GpuClasses:
    """Made anew when an agent has come, gone or changed."""
    found: GpuClasses | None = core.market.gpu_classes
    if found is None or found.version != core.agents.version:
        entries = tuple(entry for entry in core.agents.sorted() if entry.gpus_by_uuid)
        counts: dict[GpuClass, int] = {}
        for entry in entries:
            for gpu in entry.gpus_by_uuid.values():
                counts[class_of(gpu)] = counts.get(class_of(gpu), 0) + (entry.state in HERE_STATES)
        number = {name: n for n, name in enumerate(counts)}
        # Of what no agent here has nothing can be offered; what somebody still holds of it counts as all of it.
        found = GpuClasses(core.agents.version, number, [max(1, count) for count in counts.values()], entries)
        core.market.gpu_classes = found
    return found


def gpus_allocated(
    core: Core,
    classes: GpuClasses,
    roles: Mapping[str, int],
    clients: Mapping[tuple[str, str], int],
    parents: list[int],
) -> Int64s:
    """[nodes, classes]: what tasks and leases have of each class, for a client, its role and all above."""
    found = np.zeros((len(parents), len(classes.whole)), np.int64)

    def book(framework_id: str, role: str, gpus: list[Gpu]) -> None:
        node = clients.get((framework_id, role), roles.get(role, -1))
        while node >= 0:
            for gpu in gpus:
                found[node, classes.number[class_of(gpu)]] += 1
            node = parents[node]

    for entry in classes.entries:
        by_uuid = entry.gpus_by_uuid
        for task in entry.holdings.tasks.values():
            gpus = [by_uuid[uuid] for uuid in task.all_gpus() if uuid in by_uuid]
            book(task.framework_id, task.role, gpus)
        for made in entry.holdings.leases:
            gpus = [gpu for portion in made.offer.portions for gpu in portion.resources.gpus if gpu.uuid in by_uuid]
            book(made.offer.framework_id, made.offer.role, gpus)
        for task_id in entry.tasks:
            placed = core.tasks.tasks[task_id]
            book("", placed.group.job.job.role, [by_uuid[uuid] for uuid in placed.gpus if uuid in by_uuid])
    return found

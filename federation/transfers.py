"""Bytes of placed work that are still to cross between sites: they slow down what is planned after them.

Of this term only. A transfer counts in full until the task it belongs to has started, for agents report no progress.
"""

from federation.agents_book import AgentEntry
from federation.states import TaskState
from federation.tasks import TaskEntry
from federation.wire import Launch
from policies.model import Transfer

_FETCHING = frozenset({TaskState.ASSIGNED, TaskState.STAGING})


class TransferBook:
    def __init__(self) -> None:
        self._fetching: dict[str, tuple[int, tuple[tuple[str, str, str, int], ...]]] = {}

    def begin(self, entry: AgentEntry, launch: Launch) -> None:
        """Note what a launch makes its agent fetch: (shard, from site, to site, bytes) each."""
        missing = tuple(
            (fetch.shard_id, fetch.sources[0].site, entry.site, fetch.size_bytes)
            for fetch in launch.reads
            if fetch.sources and fetch.shard_id not in entry.shards and fetch.sources[0].site != entry.site
        )
        if missing:
            self._fetching[launch.task_id] = (launch.attempt, missing)

    def snapshot(self, tasks: dict[str, TaskEntry]) -> tuple[Transfer, ...]:
        """The sum per pair of sites. A shard that several tasks of one agent wait for crosses once."""
        left: dict[tuple[str, str], int] = {}
        counted: set[tuple[str, str]] = set()
        for task_id, (attempt, missing) in list(self._fetching.items()):
            task = tasks.get(task_id)
            if task is None or task.attempt != attempt or task.state not in _FETCHING:
                del self._fetching[task_id]
                continue
            for shard_id, from_site, to_site, n_bytes in missing:
                if (task.agent_id, shard_id) not in counted:
                    counted.add((task.agent_id, shard_id))
                    left[from_site, to_site] = left.get((from_site, to_site), 0) + n_bytes
        return tuple(
            Transfer(from_site=from_site, to_site=to_site, left_bytes=n_bytes)
            for (from_site, to_site), n_bytes in sorted(left.items())
        )

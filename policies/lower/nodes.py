"""The columns that are kept of agents from one snapshot to the next: of ten thousand few change in a round."""

import numpy as np

from policies.lower.bounds import AMOUNT_MAX, Int64s, clip, round_to_bits
from policies.lower.resources import KINDS
from policies.model import Node

_SPEED_BITS = 6
_STRETCH = 128  # nodes
Key = tuple[str, str, tuple[tuple[str, str], ...], str, int, int]  # site, tier, labels, hardware, speed, price


class NodeColumns:
    """`update` costs O(N) comparisons in C and O(changed) beside; what it keeps is that of a fresh one."""

    def __init__(self) -> None:
        self.nodes: tuple[Node, ...] = ()
        self.free: Int64s = np.zeros((0, KINDS), np.int64)  # a new array whenever something of it changed
        self.keys: Int64s = np.zeros(0, np.int64)  # [N] → static key
        self.key_ids: dict[Key, int] = {}
        self.position: dict[str, int] = {}
        self._with_gpus: set[int] = set()
        self._releasing: set[int] = set()
        self._running: set[int] = set()

    @property
    def with_gpus(self) -> list[int]:
        """Who has some free, ascending."""
        return sorted(self._with_gpus)

    @property
    def releasing(self) -> tuple[int, ...]:
        return tuple(sorted(self._releasing))

    @property
    def running(self) -> list[int]:
        return sorted(self._running)

    def update(self, nodes: tuple[Node, ...]) -> None:
        old = self.nodes
        changed: list[int] = []
        is_same = len(old) == len(nodes) and len(self.key_ids) <= 2 * len(nodes)
        if is_same:
            changed = _differing(old, nodes)
            is_same = all(old[n].agent_id == nodes[n].agent_id for n in changed)
        if not is_same:
            changed = list(range(len(nodes)))
            self.free, self.keys = np.zeros((len(nodes), KINDS), np.int64), np.zeros(len(nodes), np.int64)
            self.key_ids = {}
            self.position = {node.agent_id: n for n, node in enumerate(nodes)}
            for kept in (self._with_gpus, self._releasing, self._running):
                kept.clear()
        self.nodes = nodes
        if changed:
            self._take(changed)

    def _take(self, changed: list[int]) -> None:
        rows = [self.nodes[n].free for n in changed]
        self.free = self.free.copy()
        self.free[changed] = np.array(
            [
                (
                    clip(row.cpu_milli, AMOUNT_MAX),
                    clip(row.memory_bytes, AMOUNT_MAX),
                    clip(row.disk_bytes, AMOUNT_MAX),
                )
                for row in rows
            ],
            np.int64,
        )
        ids = self.key_ids
        for n in changed:
            node = self.nodes[n]
            key = (
                node.site,
                node.tier,
                node.labels,
                node.hardware,
                round_to_bits(node.speed_milli, _SPEED_BITS),
                node.price_microusd_per_cpu_hour,
            )
            self.keys[n] = ids.setdefault(key, len(ids))
            for kept, has in (
                (self._with_gpus, node.free.gpus),
                (self._releasing, node.releases),
                (self._running, node.running),
            ):
                if has:
                    kept.add(n)
                else:
                    kept.discard(n)


def _differing(old: tuple[Node, ...], new: tuple[Node, ...]) -> list[int]:
    """Where two tuples of one length differ: whole stretches are compared first, whose same objects cost next to
    nothing."""
    found: list[int] = []
    for start in range(0, len(new), _STRETCH):
        before, now = old[start : start + _STRETCH], new[start : start + _STRETCH]
        if before != now:
            found += [start + n for n, (a, b) in enumerate(zip(before, now, strict=True)) if a is not b]
    return found

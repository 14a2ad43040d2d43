"""Timers of a core: a heap with lazy deletion. Every operation is O(log n) amortised; order is time, then age."""

import heapq
from collections.abc import Hashable, Iterator


class Deadlines:
    """At most one deadline a key; setting it again replaces it."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Hashable]] = []
        self._current: dict[Hashable, tuple[int, int]] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._current)

    def at(self, key: Hashable) -> int | None:
        entry = self._current.get(key)
        return None if entry is None else entry[0]

    def set(self, key: Hashable, at_us: int) -> None:
        self._serial += 1
        self._current[key] = (at_us, self._serial)
        heapq.heappush(self._heap, (at_us, self._serial, key))
        if len(self._heap) > 64 + 4 * len(self._current):
            self._compact()

    def set_earlier(self, key: Hashable, at_us: int) -> None:
        """Set unless a sooner one stands."""
        entry = self._current.get(key)
        if entry is None or at_us < entry[0]:
            self.set(key, at_us)

    def cancel(self, key: Hashable) -> None:
        self._current.pop(key, None)

    def next_us(self) -> int | None:
        heap = self._heap
        while heap:
            at_us, serial, key = heap[0]
            if self._current.get(key) == (at_us, serial):
                return at_us
            heapq.heappop(heap)
        return None

    def due(self, now_us: int) -> Iterator[Hashable]:
        """Take out and yield every key whose time has come, those set meanwhile included."""
        while (next_us := self.next_us()) is not None and next_us <= now_us:
            _, _, key = heapq.heappop(self._heap)
            del self._current[key]
            yield key

    def _compact(self) -> None:
        self._heap = [(at_us, serial, key) for key, (at_us, serial) in self._current.items()]
        heapq.heapify(self._heap)

"""The interface a model of a link's level has, and the rules all of them keep.

A model answers with one number: the mean rate it expects over the horizon. How wrong such numbers are is learned
beside it (`bands`), and which models are listened to beside that (`forecaster`).

Only +, −, ×, ÷ and square root of 64-bit floats are used, in a fixed order: IEEE 754 rounds these the same everywhere,
so that a replay on another machine forecasts the same to the last bit. Logarithms and powers are not so.
"""

from typing import Protocol

Numbers = tuple[int | float, ...]


class LevelModel(Protocol):
    """Never negative, never above the largest rate it was given unless it says so, O(1) state, O(1) an update."""

    def update(self, rate: float, at_us: int) -> float:
        """Take in a measured rate (bit/s, ≥ 0) of a moment not before the last; the level expected from now on."""
        ...

    def state(self) -> Numbers:
        """All it remembers, as plain numbers."""
        ...

    def restore(self, state: Numbers) -> None:
        """Become what the model was whose `state` this is."""
        ...

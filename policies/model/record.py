"""The base of all values, and what an agent can be."""

from typing import Literal

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every value that crosses a module, the wire or the journal.

    `kw_only` is not inherited, and mypy wants `frozen` on each subclass.
    """


Tier = Literal["edge", "cloud"]
TIERS: tuple[Tier, ...] = ("edge", "cloud")

"""The facts that the journal's tests keep: in a module of their own, for processes that are to write them at once."""

from policies.model import Record


class Put(Record, frozen=True, kw_only=True, tag="put"):
    key: str
    value: int = 0


class Removed(Record, frozen=True, kw_only=True, tag="removed"):
    key: str


Fact = Put | Removed

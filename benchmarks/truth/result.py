"""One published number beside ours."""

from policies.model import Record


class Result(Record, frozen=True, kw_only=True, omit_defaults=False):
    """`tolerance` is absolute, in the unit of the measure."""

    experiment: str
    policy: str
    measure: str
    measured: float
    reference: float
    tolerance: float
    below: bool = False  # the reference is one to stay below, by however much

    @property
    def error(self) -> float:
        return self.measured - self.reference

    @property
    def is_within(self) -> bool:
        return self.error < 0 if self.below else abs(self.error) <= self.tolerance

"""From a run that fails to the smallest that fails the same way: a low seed first, then as few faults as will do.

Faults are removed by delta debugging (Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, IEEE
TSE 28(2), 2002): halves, then quarters …, until no single one can be left out. Every try is a whole run.
"""

from collections.abc import Callable

import msgspec

from federation.errors import ConfigError
from policies.model import Record
from scenarios.crash import is_crash, same_crash
from scenarios.faults import sentence
from scenarios.runs import Case, Result, read_case, run_case

SEEDS_TRIED_MAX = 16  # seeds 0 … 15, as far as they are below the one that fails


class Shrunk(Record, frozen=True, kw_only=True):
    """`case` fails as the first did. `faults` says in words what its numbers mean."""

    case: Case
    failure: str
    faults: tuple[str, ...]
    n_faults_before: int
    n_runs: int
    result: Result


class _Tries:
    def __init__(self, failure: str, on_try: Callable[[Case, bool], None]) -> None:
        self.failure = failure
        self.n_runs = 1
        self._on_try = on_try

    def fails(self, case: Case) -> Result | None:
        """The result if it fails in the same way."""
        result = run_case(case)
        self.n_runs += 1
        same = failure_of(result) == self.failure
        self._on_try(case, same)
        return result if same else None


def failure_of(result: Result) -> str:
    """The number of the first law it broke, or who raised what and where; else the first expectation it missed; ""
    where all is well."""
    if result.summary.broken_laws:
        first = result.summary.broken_laws[0]
        return same_crash(first) if is_crash(first) else first.split()[0]
    own = (verdict for verdict in result.verdicts if not verdict.text.startswith("baseline("))
    return next((verdict.text for verdict in own if not verdict.ok), "")


def shrink(case: Case, on_try: Callable[[Case, bool], None] = lambda *_: None) -> Shrunk:
    """Raises `ConfigError` where the case does not fail. Expectations that compare with another policy are not judged:
    they take two runs."""
    scenario = read_case(case)
    seed = scenario.world.seed if case.seed is None else case.seed
    best = run_case(case)
    failure = failure_of(best)
    if not failure:
        raise ConfigError(
            f"{case.path}: with policy {case.policy} and seed {seed} nothing fails, so nothing can shrink"
        )
    tries = _Tries(failure, on_try)
    case = msgspec.structs.replace(case, seed=seed)
    for lower in range(min(seed, SEEDS_TRIED_MAX)):
        candidate = msgspec.structs.replace(case, seed=lower)
        if (found := tries.fails(candidate)) is not None:
            case, best = candidate, found
            break
    world = read_case(msgspec.structs.replace(case, faults=None)).world
    numbers = list(case.faults) if case.faults is not None else list(range(1, len(world.faults) + 1))
    n_before = len(numbers)
    case, best = _fewer(case, numbers, best, tries)
    return Shrunk(
        case=case,
        failure=best.summary.broken_laws[0] if best.summary.broken_laws else failure,
        faults=tuple(f"{number}: {sentence(world.faults[number - 1])}" for number in case.faults or ()),
        n_faults_before=n_before,
        n_runs=tries.n_runs,
        result=best,
    )


def _fewer(case: Case, numbers: list[int], best: Result, tries: _Tries) -> tuple[Case, Result]:
    """Leave out one of `n_parts` parts after the other; smaller parts where none can be left out."""
    case = msgspec.structs.replace(case, faults=tuple(numbers))
    n_parts = 1  # First without any: perhaps it never took a fault.
    while numbers:
        size = -(-len(numbers) // n_parts)
        for start in range(0, len(numbers), size):
            left = numbers[:start] + numbers[start + size :]
            candidate = msgspec.structs.replace(case, faults=tuple(left))
            if (found := tries.fails(candidate)) is not None:
                case, best, numbers = candidate, found, left
                n_parts = max(1, n_parts - 1)
                break
        else:
            if size == 1:
                break
            n_parts = min(len(numbers), 2 * n_parts)
    return case, best

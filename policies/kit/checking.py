"""`offerflow policy check`: the conformance kit over generated worlds, and the smallest world that breaks it."""

from collections.abc import Callable
from typing import NamedTuple

from policies.api import Policy
from policies.conformance import ConformanceError, check_policy
from policies.model import Snapshot


class Verdict(NamedTuple):
    """`clause` is "" when all held, "raised" when the policy raised; `world` is then the smallest found."""

    n_snapshots: int
    clause: str = ""
    detail: str = ""
    world: tuple[Snapshot, ...] = ()


def check(make: Callable[[], Policy], n_examples: int, seed: int) -> Verdict:
    """Check a policy over `n_examples` sequences of up to three snapshots. Needs hypothesis."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    from policies import strategies

    count = 0
    broken: list[tuple[str, str, tuple[Snapshot, ...]]] = []  # the last one is the smallest

    @seeded(seed)
    @settings(
        max_examples=n_examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(strategies.sequences())
    def run(snapshots: list[Snapshot]) -> None:
        nonlocal count
        try:
            count += check_policy(make, snapshots)
        except ConformanceError as error:
            broken.append((error.clause, error.detail, tuple(snapshots)))
            raise
        except Exception as error:
            broken.append(("raised", f"{type(error).__name__}: {error}", tuple(snapshots)))
            raise

    try:
        run()
    except Exception:
        if not broken:
            raise
        return Verdict(count, *broken[-1])
    return Verdict(count)

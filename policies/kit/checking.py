"""`offerflow policy check`: the conformance kit over generated worlds, and the smallest world that breaks it."""

import time
from collections.abc import Callable
from typing import NamedTuple

from policies.api import Policy
from policies.conformance import ConformanceError, check_policy
from policies.model import Snapshot

_Broken = tuple[str, str, tuple[Snapshot, ...]]  # clause, detail, the sequence


class Verdict(NamedTuple):
    """`clause` is "" when all held, "raised" when the policy raised; `world` is then the smallest found."""

    n_snapshots: int
    clause: str = ""
    detail: str = ""
    world: tuple[Snapshot, ...] = ()


def check(make: Callable[[], Policy], n_examples: int, seed: int, limit_us: int | None = None) -> Verdict:
    """Check a policy over `n_examples` sequences of up to three snapshots, each plan within `limit_us` where given.
    Needs hypothesis."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    from policies import strategies

    count = 0
    broken: list[_Broken] = []  # the last one is the smallest

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
            count += check_policy(make, snapshots, limit_us, _now_us)
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
        return Verdict(count, *_alone(make, limit_us, broken[-1]))
    return Verdict(count)


def _alone(make: Callable[[], Policy], limit_us: int | None, broken: _Broken) -> _Broken:
    """The same mistake on one snapshot of the sequence, where one is enough to show it."""
    clause, _, worlds = broken
    for world in worlds if clause != "raised" and len(worlds) > 1 else ():
        try:
            check_policy(make, [world], limit_us, _now_us)
        except ConformanceError as error:
            if error.clause == clause:
                return clause, error.detail, (world,)
        except Exception:
            continue
    return broken


def _now_us() -> int:
    return time.perf_counter_ns() // 1000

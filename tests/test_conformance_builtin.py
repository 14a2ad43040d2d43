"""The built-in policies keep every clause of the kit they ship with."""

from hypothesis import HealthCheck, given, settings

from policies import strategies
from policies.conformance import ConformanceError, check_policy
from policies.model import Snapshot
from policies.registry import entry, names


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(snapshots=strategies.sequences())
def test_every_policy_keeps_every_clause(snapshots: list[Snapshot]) -> None:
    for name in names():
        try:
            assert check_policy(entry(name).load(), snapshots) == len(snapshots)
        except ConformanceError as error:
            error.add_note(f"the policy {name}")
            raise

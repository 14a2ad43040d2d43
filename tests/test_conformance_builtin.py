"""The built-in policies keep every clause of the kit they ship with."""

import pytest
from hypothesis import HealthCheck, given, settings

from policies import strategies
from policies.conformance import check_policy
from policies.model import Snapshot
from policies.registry import entry, names

relaxed = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.mark.parametrize("name", names())
@relaxed
@given(snapshots=strategies.sequences())
def test_every_clause_holds(name: str, snapshots: list[Snapshot]) -> None:
    assert check_policy(entry(name).load(), snapshots) == len(snapshots)

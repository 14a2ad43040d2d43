"""Where a round's network begins: the targets that classes would take by themselves, held against plain code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kernels.greedy import spread, take_turns
from tests.reference import greedy as reference

pytestmark = pytest.mark.kernel
SEED = st.integers(0, 2**32 - 1)


@given(SEED)
@settings(deadline=None, max_examples=200)
def test_classes_take_turns_as_the_reference_has_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_classes, n_groups, n_resources = rng.integers(1, 6), rng.integers(1, 7), rng.integers(1, 3)
    kind = np.unique(rng.integers(0, 3, n_groups), return_inverse=True)[1].astype(np.int64)
    n_targets = n_groups + int(kind.max()) + 1
    order = np.argsort(kind, kind="stable")
    starts = np.searchsorted(kind[order], np.arange(n_targets - n_groups + 1))
    ranks = np.array([rng.permutation(n_targets) for _ in range(n_classes)])
    room = rng.integers(0, 9, (n_classes, n_targets)) * rng.integers(0, 2, (n_classes, n_targets))
    units, resource = rng.integers(1, 20, n_classes), rng.integers(0, n_resources, n_classes)
    left = rng.integers(0, 12, (n_resources, n_targets))
    expected_left, chosen = left.copy(), np.zeros((n_classes, n_targets), np.bool_)
    expected = reference.take_turns(ranks, room, units, resource, kind, expected_left)
    take_turns(ranks, room, units, resource, kind, order, starts, left, chosen)
    assert set(zip(*(each.tolist() for each in np.nonzero(chosen)), strict=True)) == expected
    assert left.tolist() == expected_left.tolist()


@given(SEED)
@settings(deadline=None, max_examples=200)
def test_tasks_are_spread_until_the_next_target_is_dearer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_classes, n_ranks = rng.integers(1, 5), rng.integers(1, 8)
    ranks = np.array([rng.permutation(n_ranks + 2)[:n_ranks] for _ in range(n_classes)])
    cost_us = np.sort(rng.integers(0, 50, (n_classes, n_ranks)), axis=1)
    step_us = rng.integers(0, 20, (n_classes, n_ranks)).astype(np.float64)
    room, tasks = rng.integers(0, 6, (n_classes, n_ranks)), rng.integers(1, 25, n_classes)
    chosen = np.zeros((n_classes, n_ranks + 2), np.bool_)
    spread(ranks, cost_us, step_us, room, tasks, chosen)
    for a in range(n_classes):
        kept = reference.spread(cost_us[a], step_us[a], room[a], int(tasks[a]))
        assert np.flatnonzero(chosen[a]).tolist() == sorted(ranks[a, 1:kept].tolist())

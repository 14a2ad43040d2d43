"""The max-min kernel against the obvious filling, after any history of flows in and out."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kernels import maxmin
from policies.kernels.maxmin import LEFT_MAX, N_CROWD, NEVER, ONE, OUT, RATE_MAX, Tables
from tests.reference import maxmin as reference

pytestmark = pytest.mark.kernel

N_SLOTS, N_LINKS, HOPS = 12, 6, 3

weights = st.one_of(st.just(ONE), st.integers(1, ONE), st.sampled_from([ONE // 2, ONE // 3, 1000]))
limits = st.one_of(st.just(RATE_MAX), st.integers(0, 60), st.integers(0, 10**9))
paths = st.lists(st.integers(0, N_LINKS - 1), max_size=HOPS, unique=True)
flows = st.tuples(paths, limits, weights)
some_capacities = st.one_of(
    st.lists(st.integers(0, 50), min_size=N_LINKS, max_size=N_LINKS),
    st.lists(st.sampled_from([10**6, 10**8, 10**9, RATE_MAX]), min_size=N_LINKS, max_size=N_LINKS),
)


def made(capacities: list[int]) -> Tables:
    tables = maxmin.tables(N_SLOTS, N_LINKS, HOPS)
    tables.links[:, maxmin.CAPACITY] = capacities
    return tables


def enter(tables: Tables, slot: int, flow: reference.Flow, left: int = LEFT_MAX, at_us: int = 0) -> None:
    path, limit, weight = flow
    maxmin.enter(tables.whole, slot, np.array(path, np.int64), left, limit, weight, at_us, at_us)


def rates(tables: Tables, slots: list[int]) -> list[int]:
    return [int(maxmin.rate_of(tables.whole, slot)) for slot in slots]


@given(some_capacities, st.lists(st.lists(st.one_of(flows, st.integers(0, 99)), min_size=1, max_size=4), max_size=12))
@settings(deadline=None, max_examples=300)
def test_rates_equal_the_obvious_filling_after_any_history(
    capacities: list[int], batches: list[list[reference.Flow | int]]
) -> None:
    """Batches of flows that come, and of flows that go (a number: which of those under way)."""
    tables = made(capacities)
    under_way: dict[int, reference.Flow] = {}
    for batch in batches:
        for change in batch:
            if isinstance(change, int):
                if under_way:
                    slot = list(under_way)[change % len(under_way)]
                    maxmin.leave(tables.whole, slot)
                    del under_way[slot]
            elif len(under_way) < N_SLOTS:
                slot = min(set(range(N_SLOTS)) - set(under_way))
                enter(tables, slot, change)
                under_way[slot] = change
        maxmin.share(tables.whole, 0)
        assert rates(tables, list(under_way)) == reference.rates(capacities, list(under_way.values()))


def test_rates_equal_the_obvious_filling_where_many_links_fill_at_one_level() -> None:
    """Links as wide as each other and many flows: levels tie, and one link's rise is held by another's."""
    n_slots, n_links, hops_max = 24, 7, 4
    for number in range(40):
        chance = random.Random(number)
        tables = maxmin.tables(n_slots, n_links, hops_max)
        tables.links[:, maxmin.CAPACITY] = capacities = [chance.choice((6, 7, 40, 10**6))] * n_links
        under_way: dict[int, reference.Flow] = {}
        for _ in range(40):
            slot = chance.randrange(n_slots)
            if slot in under_way:
                maxmin.leave(tables.whole, slot)
                del under_way[slot]
            else:
                path = chance.sample(range(n_links), chance.randint(1, hops_max))
                under_way[slot] = (path, RATE_MAX, chance.choice((ONE, ONE // 2, 1000, 1)))
                enter(tables, slot, under_way[slot])
            maxmin.share(tables.whole, 0)
            assert rates(tables, list(under_way)) == reference.rates(capacities, list(under_way.values())), number


class Crossing:
    """Flows of which most cross one of two links, in the kernel's tables and in the plainest book there can be."""

    CAPACITIES = (10**9, 7 * 10**8, 10**8, 10**9, 3 * 10**8, 10**9, 10**8, 10**9)

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.tables = maxmin.tables(48, len(self.CAPACITIES), 3)
        self.tables.links[:, maxmin.CAPACITY] = self.CAPACITIES
        self.flows: dict[int, reference.Flow] = {}
        self.left: dict[int, int] = {}
        self.rates: dict[int, int] = {}
        self.now_us = 0

    def enter(self) -> None:
        slot = min(set(range(48)) - set(self.flows))
        middle = [self.chance.randrange(2)] * (self.chance.random() < 0.8)
        path = [*middle, *self.chance.sample(range(2, len(self.CAPACITIES)), self.chance.randint(1, 2))]
        limit, weight = self.chance.choice((RATE_MAX, 10**7)), self.chance.choice((ONE, ONE // 2, 77))
        self.flows[slot], self.left[slot] = (path, limit, weight), self.chance.randint(1, 10**13)
        enter(self.tables, slot, self.flows[slot], self.left[slot], self.now_us)

    def leave(self, slot: int) -> None:
        del self.flows[slot], self.left[slot], self.rates[slot]

    def share(self) -> int:
        """When the next flow ends, by both."""
        due_us = int(maxmin.share(self.tables.whole, self.now_us))
        self.rates = dict(zip(self.flows, reference.rates(self.CAPACITIES, list(self.flows.values())), strict=True))
        assert rates(self.tables, list(self.flows)) == list(self.rates.values())
        ends = [self.now_us - -self.left[slot] // rate if rate else NEVER for slot, rate in self.rates.items()]
        assert due_us == min(ends, default=NEVER)
        return due_us

    def pass_until(self, now_us: int) -> None:
        for slot, rate in self.rates.items():
            self.left[slot] = max(0, self.left[slot] - rate * (now_us - self.now_us))
            assert maxmin.left_at(self.tables.whole, slot, now_us) == self.left[slot]
        self.now_us = now_us
        n_out = max(0, -maxmin.pass_due(self.tables.whole, now_us))
        out = sorted(self.tables.work[OUT, :n_out].tolist())
        assert out == sorted(slot for slot, left in self.left.items() if not left)
        for slot in out:
            self.leave(slot)


def test_flows_that_move_together_are_as_if_each_was_looked_at() -> None:
    """Rates, what is left and ends, while crowds gather, grow thin and are woken; and while tables grow under them."""
    n_crowd = 0
    for seed in range(4):
        world = Crossing(seed)
        for step in range(120):
            while len(world.flows) < 48 and world.chance.random() < (0.8 if step < 60 else 0.4):
                world.enter()
            due_us = world.share()
            if world.chance.random() < 0.1:
                slot = world.chance.choice(list(world.flows))
                maxmin.leave(world.tables.whole, slot)
                world.leave(slot)
                due_us = world.share()
            n_crowd = max(n_crowd, int(world.tables.links[:, N_CROWD].max()))
            if due_us == NEVER:
                continue
            if step == 50:
                world.tables = maxmin.grown(world.tables, 50, 9, 4)
            world.pass_until(due_us if world.chance.random() < 0.7 else min(due_us, world.now_us + 1000))
    assert n_crowd > 10


@given(some_capacities, st.lists(flows, max_size=N_SLOTS))
@settings(deadline=None)
def test_rates_are_weighted_max_min_fair(capacities: list[int], some: list[reference.Flow]) -> None:
    """No link is overfull; who is below its bound crosses a full link on which nobody rose higher."""
    tables = made(capacities)
    for slot, flow in enumerate(some):
        enter(tables, slot, flow)
    maxmin.share(tables.whole, 0)
    got = rates(tables, list(range(len(some))))
    users = [[f for f, (path, _, _) in enumerate(some) if link in path] for link in range(N_LINKS)]
    for link, capacity in enumerate(capacities):
        assert sum(got[f] for f in users[link]) <= capacity
    for f, (path, limit, weight) in enumerate(some):
        assert got[f] == min([limit, *(capacities[link] for link in path)]) or any(
            capacities[link] - sum(got[g] for g in users[link]) <= 2 * len(users[link])  # what rounding leaves
            and all(got[g] * weight <= (got[f] + 1) * some[g][2] + weight for g in users[link])
            for link in path
        )


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 1000)), min_size=1, max_size=N_SLOTS))
@settings(deadline=None)
def test_ends_come_in_order_and_all_bits_move(sizes: list[tuple[int, int]]) -> None:
    """Links so narrow that shares hardly ever divide evenly."""
    tables = made([71, 31, 53, 1, 1, 1])
    for slot, (size, link) in enumerate(sizes):
        enter(tables, slot, ([link % 3, (link + 1) % 3], RATE_MAX, ONE), size)
    now_us, out = 0, []
    while (next_us := maxmin.share(tables.whole, now_us)) != NEVER:
        assert next_us >= now_us
        now_us = next_us
        n_out = -maxmin.pass_due(tables.whole, now_us)
        assert n_out > 0
        out += tables.work[OUT, :n_out].tolist()
    assert sorted(out) == list(range(len(sizes)))
    moved = sum(size for size, _ in sizes)
    assert now_us * (71 + 31 + 53) >= moved  # no more than what all links together carry


def test_the_bounds_of_magnitudes_hold() -> None:
    """As much as can be, for as long as can be, over the widest link there may be."""
    tables = made([RATE_MAX] * N_LINKS)
    for slot in range(N_SLOTS):
        enter(tables, slot, ([0, 1], RATE_MAX, ONE if slot % 2 else 1))
    assert 0 < maxmin.share(tables.whole, 0) < NEVER
    assert sum(rates(tables, list(range(N_SLOTS)))) <= RATE_MAX
    tables = made([1] * N_LINKS)
    enter(tables, 0, ([0], RATE_MAX, ONE), at_us=2 * 10**15)
    assert maxmin.share(tables.whole, 2 * 10**15) == 2 * 10**15 + LEFT_MAX


def test_a_wrong_dtype_is_refused() -> None:
    tables = made([1] * N_LINKS)
    if hasattr(maxmin.share, "signatures"):  # compiled
        with pytest.raises(TypeError):
            maxmin.share(tables.whole.astype(np.int32), 0)


@given(some_capacities, st.lists(flows, max_size=8), st.lists(flows, max_size=4))
@settings(deadline=None)
def test_grown_tables_go_on_where_the_old_ones_were(
    capacities: list[int], before: list[reference.Flow], after: list[reference.Flow]
) -> None:
    tables = made(capacities)
    for slot, flow in enumerate(before):
        enter(tables, slot, flow)
    tables = maxmin.grown(tables, 2 * N_SLOTS, N_LINKS + 1, HOPS + 2)
    for slot, flow in enumerate(after, len(before)):
        enter(tables, slot, flow)
    maxmin.share(tables.whole, 0)
    assert rates(tables, list(range(len(before) + len(after)))) == reference.rates(capacities, before + after)

"""Resource arithmetic: what fits, what is short, what is left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import gpus as parts
from policies import resources
from policies.model import Amount, Gpu, GpuNeed, Needs, Reason, Resources

GIB = 2**30
BIG = Gpu(uuid="a-big", model="a100", memory_bytes=80 * GIB)
SMALL = Gpu(uuid="z-small", model="a100", memory_bytes=40 * GIB)
OTHER = Gpu(uuid="m-other", model="t4", memory_bytes=16 * GIB)
BLIND = Gpu(uuid="b-blind")


def test_the_smallest_matching_gpu_is_taken() -> None:
    free = Resources(cpu_milli=1000, gpus=(BIG, BLIND, OTHER, SMALL))
    left, uuids = resources.take(Needs(gpu=GpuNeed(count=1, memory_bytes=20 * GIB)), free)
    assert uuids == ("z-small",)
    assert left.gpus == (BIG, BLIND, OTHER)


def test_unreadable_memory_meets_only_a_need_of_none() -> None:
    assert parts.matches(GpuNeed(), BLIND)
    assert not parts.matches(GpuNeed(memory_bytes=1), BLIND)
    assert not parts.matches(GpuNeed(model="a100"), BLIND)


def test_shortfalls_name_kind_amount_and_unit() -> None:
    needs = Needs(cpu_milli=1500, memory_bytes=GIB, disk_bytes=5, gpu=GpuNeed(count=2, model="a100"))
    free = Resources(cpu_milli=1000, memory_bytes=GIB, disk_bytes=4, gpus=(BIG, OTHER))
    assert resources.shortfalls(needs, free) == (
        (Reason.CPU, 1500, 1000, "milli"),
        (Reason.DISK, 5, 4, "bytes"),
        (Reason.GPU, 2, 1, "count"),
    )


def test_taking_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        resources.take(Needs(cpu_milli=2), Resources(cpu_milli=1))
    with pytest.raises(ValueError, match="does not fit"):
        resources.take_copies(Needs(cpu_milli=1), Resources(cpu_milli=1), 2)


def test_a_quota_limits_only_the_kinds_it_names() -> None:
    quota = Amount(cpu_milli=4000)
    assert resources.within_quota(Amount(cpu_milli=4000, gpus=7), quota)
    assert not resources.within_quota(Amount(cpu_milli=4001), quota)
    assert resources.quota_copies(Needs(cpu_milli=1500), Amount(cpu_milli=500), quota, 9) == 2
    assert resources.quota_copies(Needs(memory_bytes=1), Amount(cpu_milli=9000), quota, 9) == 9


def test_roles_are_hierarchical_and_shares_dominant() -> None:
    assert resources.role_chain("ml/vision/x") == ("ml", "ml/vision", "ml/vision/x")
    whole = Amount(cpu_milli=1000, memory_bytes=100)
    assert resources.dominant_share_ppm(Amount(cpu_milli=100, memory_bytes=50, gpus=3), whole) == 500_000


SHARED = Gpu(uuid="s-shared", model="a100", memory_bytes=40 * GIB, isolation="shared")
BEGUN = Gpu(uuid="t-begun", model="a100", memory_bytes=40 * GIB, isolation="shared", milli=700,
            memory_left_bytes=10 * GIB)  # fmt: skip
gpus = st.lists(st.sampled_from((BIG, SMALL, OTHER, BLIND, SHARED, BEGUN)), unique=True, max_size=5).map(tuple)
frees = st.builds(
    Resources, cpu_milli=st.integers(0, 9), memory_bytes=st.integers(0, 9), disk_bytes=st.integers(0, 9), gpus=gpus
)
gpu_needs = (
    st.none()
    | st.builds(
        GpuNeed,
        count=st.integers(0, 2),
        model=st.sampled_from((None, "a100")),
        memory_bytes=st.sampled_from((0, 30 * GIB)),
    )
    | st.builds(
        GpuNeed,
        milli=st.sampled_from((1, 250, 300, 999)),
        model=st.sampled_from((None, "a100", "t4")),
        memory_bytes=st.sampled_from((0, 3 * GIB, 12 * GIB)),
    )
)
all_needs = st.builds(
    Needs, cpu_milli=st.integers(0, 4), memory_bytes=st.integers(0, 4), disk_bytes=st.integers(0, 4), gpu=gpu_needs
)


@given(all_needs, frees)
def test_it_fits_exactly_when_nothing_is_short(needs: Needs, free: Resources) -> None:
    assert resources.fits(needs, free) == (resources.shortfalls(needs, free) == ())


@given(all_needs, frees, st.integers(0, 5))
def test_copies_are_as_many_as_can_be_taken_one_by_one(needs: Needs, free: Resources, at_most: int) -> None:
    left, count = free, 0
    while count < at_most and resources.fits(needs, left):
        left, _ = resources.take(needs, left)
        count += 1
    assert resources.copies(needs, free, at_most) == count
    assert resources.take_copies(needs, free, count) == left


@given(all_needs, frees)
def test_what_is_given_back_is_as_before(needs: Needs, free: Resources) -> None:
    if resources.fits(needs, free):
        left, uuids = resources.take(needs, free)
        taken = [gpu for gpu in free.gpus if gpu.uuid in uuids]
        again = resources.give(needs, taken, left)
        assert resources.amount_of(again) == resources.amount_of(free)
        assert {gpu.uuid: gpu for gpu in again.gpus} == {gpu.uuid: gpu for gpu in free.gpus}

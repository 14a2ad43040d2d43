"""A GPU in shares, from the job file to the task's environment: never more than there is of it, and all of it said."""

from pathlib import Path

import msgspec
import pytest
from agent_world import World as AgentWorld
from agent_world import launch as order
from market_world import MarketWorld
from master_world import GIB, SECOND, World, group, job, resources
from policy_worlds import demand, node, snapshot

from agents.events import Measured, Started
from agents.executors.base import AttemptFolder, task_environment
from federation import views
from federation.api import SetRole, SubmitJob
from federation.errors import ConfigError, PeerError
from federation.http.mesos.amounts import claims_of
from federation.http.mesos.messages import Resource
from federation.jobfile import load_job
from federation.market.protocol import Claim
from federation.wire import Launch, Offer
from policies import registry
from policies.conformance import check_plan
from policies.gpus import memory_of
from policies.model import Amount, Gpu, GpuNeed, Needs, Node, Reason, Resources, Running, Snapshot

POLICIES = sorted(registry.names())
SHARED = Gpu(uuid="g0", model="a100", memory_bytes=40 * GIB, isolation="shared")


def share(milli: int, memory_bytes: int = 0) -> Needs:
    return Needs(cpu_milli=100, gpu=GpuNeed(milli=milli, memory_bytes=memory_bytes))


# --- in the master ---------------------------------------------------------------------------------------------------


def test_two_halves_fill_a_gpu_and_a_third_task_waits_for_one_to_end() -> None:
    world = World()
    fake = world.agent(total=resources(gpus=["a"], isolation="shared"))
    world.ask(SubmitJob(job=job("j", group("t", count=2, needs=share(500)))))
    world.ask(SubmitJob(job=job("k", group("t", needs=share(500)))))
    assert [(launch.gpus, launch.needs.gpu, launch.gpu_memory_bytes) for launch in fake.running.values()] == [
        (("a",), GpuNeed(milli=500), 20 * GIB)
    ] * 2
    (role,) = views.roles(world.master)
    assert (role.allocated.gpus, role.allocated.gpu_milli) == (1, 0)
    why = views.why(world.master, "k/t/0", world.now_us)
    assert why is not None
    (blocker,) = why.blockers
    assert blocker.nearest is not None
    assert (blocker.reason, blocker.nearest.needs, blocker.nearest.has, blocker.nearest.unit) == (
        Reason.GPU, 500, 0, "milli",
    )  # fmt: skip
    fake.end("j/t/0")
    assert sorted(task_id for task_id, _ in fake.running) == ["j/t/1", "k/t/0"]
    assert world.replayed() == world.master.durable()


def test_memory_of_a_gpu_is_not_given_out_twice_though_there_is_time_on_it() -> None:
    world = World()
    fake = world.agent(total=resources(gpus=["a"], isolation="shared"))
    world.ask(SubmitJob(job=job("i", group("t", needs=share(100, 25 * GIB)))))
    world.ask(SubmitJob(job=job("j", group("t", needs=share(100, 25 * GIB)))))
    assert [launch.gpu_memory_bytes for launch in fake.running.values()] == [25 * GIB]
    why = views.why(world.master, "j/t/0", world.now_us)
    assert why is not None and why.blockers[0].nearest is not None
    assert (why.blockers[0].nearest.needs, why.blockers[0].nearest.unit) == (25 * GIB, "bytes")
    world.ask(SubmitJob(job=job("k", group("t", needs=share(900, 15 * GIB)))))
    assert len(fake.running) == 2, "what is left of both is enough for another"


def test_whole_gpus_and_shares_keep_out_of_each_others_way() -> None:
    world = World()
    fake = world.agent(total=resources(gpus=["a", "b"], isolation="shared"))
    world.ask(SubmitJob(job=job("half", group("t", needs=share(500)))))
    world.ask(SubmitJob(job=job("whole", group("t", count=2, needs=Needs(gpu=GpuNeed())))))
    assert [launch.gpus for launch in fake.running.values()] == [("a",), ("b",)]
    world.ask(SubmitJob(job=job("rest", group("t", needs=share(500)))))
    assert [launch.gpus for launch in fake.running.values()][-1] == ("a",), "the begun one, not the free one"


@pytest.mark.parametrize("isolation", ["whole", None])
def test_a_gpu_that_is_not_shared_is_given_whole_or_not_at_all(isolation: str | None) -> None:
    world = World()
    fake = world.agent(total=resources(gpus=["a"], isolation=isolation))  # type: ignore[arg-type]
    world.ask(SubmitJob(job=job("j", group("t", needs=share(500)))))
    assert not fake.running


def test_a_share_survives_a_restart_of_the_master() -> None:
    world = World()
    fake = world.agent(total=resources(gpus=["a"], isolation="shared"))
    world.ask(SubmitJob(job=job("j", group("t", count=2, needs=share(600)))))
    assert len(fake.running) == 1
    world.crash()
    fake.connect()
    fake.offer()
    assert len(fake.running) == 1
    world.ask(SubmitJob(job=job("small", group("t", needs=share(400)))))
    assert len(fake.running) == 2, "and what was left of it is there still"


def test_quotas_count_thousandths() -> None:
    world = World()
    fake = world.agent(total=resources(gpus=["a", "b"], isolation="shared"))
    world.ask(SetRole(path="ml", quota=Amount(gpus=1, gpu_milli=200)))
    world.ask(SubmitJob(job=job("j", group("t", count=3, needs=share(500)), role="ml")))
    assert len(fake.running) == 2
    why = views.why(world.master, "j/t/2", world.now_us)
    assert why is not None and "quota of ml +0.3 gpus" in why.hints


def test_an_agent_cannot_offer_part_of_a_gpu_that_is_not_shared() -> None:
    world = World()
    fake = world.agent(total=resources(gpus=["a"]), offer=False)
    part = msgspec.structs.replace(fake.total, gpus=(Gpu(uuid="a", milli=500, memory_bytes=40 * GIB),))
    fake.offer(part)
    entry = world.master.core.agents["gw-1"]
    assert entry.offer is None and "500 of 1000 milli" in entry.broken_word


@pytest.mark.parametrize(
    "need", [GpuNeed(milli=0), GpuNeed(milli=1001), GpuNeed(count=2, milli=500), GpuNeed(milli=-5)]
)
def test_what_is_no_share_is_refused(need: GpuNeed) -> None:
    world = World()
    answer = world.ask(SubmitJob(job=job("j", group("t", needs=Needs(gpu=need)))))
    assert answer.status == 422 and "share of one" in answer.detail


# --- old journals and wires ------------------------------------------------------------------------------------------


def test_what_was_written_before_there_were_shares_is_read_and_whole_gpus_are_written_as_before() -> None:
    old = b'{"uuid":"g","model":"t4","memory_bytes":16,"isolation":"whole"}'
    gpu = msgspec.json.decode(old, type=Gpu)
    assert gpu == Gpu(uuid="g", model="t4", memory_bytes=16, isolation="whole") and gpu.milli == 1000
    assert msgspec.json.encode(gpu) == old
    assert msgspec.json.decode(b'{"count":2}', type=GpuNeed) == GpuNeed(count=2)
    assert msgspec.json.encode(Amount(gpus=2)) == b'{"gpus":2}'
    launch = order(1, gpus=("g",), needs=Needs(gpu=GpuNeed(count=1)))
    assert b"gpu_memory_bytes" not in msgspec.json.encode(launch) and b"milli" not in msgspec.json.encode(launch.needs)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(launch), type=Launch) == launch


# --- on the agent ----------------------------------------------------------------------------------------------------


def test_an_agent_offers_what_is_left_and_refuses_more_than_that() -> None:
    total = Resources(cpu_milli=4000, gpus=(SHARED,))
    world = AgentWorld()
    world.event(Started(total=total))
    world.event(Measured(usable=total))
    world.connect()
    world.order(order(1, gpus=("g0",), needs=share(700, 30 * GIB)))
    world.pass_time(6 * SECOND)
    (left,) = world.take(Offer)[-1].free.gpus
    assert (left.milli, memory_of(left)) == (300, 10 * GIB)
    world.order(order(2, "job/train/1", gpus=("g0",), needs=share(300, 11 * GIB)))
    assert ("refused", "no_room") in world.states()


def test_a_task_is_told_its_gpu_and_its_share(tmp_path: Path) -> None:
    launch = order(1, gpus=("GPU-1",), needs=share(250), gpu_memory_bytes=10 * GIB)
    env = task_environment(AttemptFolder(tmp_path), launch, "gw-1", "lab", "mark")
    assert {key: value for key, value in env.items() if "GPU" in key or "CUDA" in key} == {
        "CUDA_VISIBLE_DEVICES": "GPU-1",
        "OFFERFLOW_GPU_MILLI": "250",
        "OFFERFLOW_GPU_MEMORY_BYTES": str(10 * GIB),
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=10240M",
    }
    whole = task_environment(AttemptFolder(tmp_path), order(1, gpus=("GPU-1",)), "gw-1", "lab", "mark")
    assert not [key for key in whole if "MPS" in key or "OFFERFLOW_GPU" in key]


# --- in job files ----------------------------------------------------------------------------------------------------


def job_with(tmp_path: Path, gpu: str) -> GpuNeed | None:
    path = tmp_path / "job.yaml"
    path.write_text(f"job: j\ntasks:\n  t:\n    command: [true]\n    needs: {{gpu: {gpu}}}\n")
    return load_job(path).job.tasks[0].needs.gpu


@pytest.mark.parametrize(
    ("gpu", "need"),
    [
        ("2", GpuNeed(count=2)),
        ("0.5", GpuNeed(milli=500)),
        ("{count: 0.125, model: a100, memory: 5GiB}", GpuNeed(milli=125, model="a100", memory_bytes=5 * GIB)),
    ],
)
def test_a_job_file_asks_for_whole_gpus_or_a_share_of_one(tmp_path: Path, gpu: str, need: GpuNeed) -> None:
    assert job_with(tmp_path, gpu) == need


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ("1.5", "1.5 is neither"), ("0", "none at all"), ("0.0005", "three decimals"), ("half", "a number of GPUs"),
        ("-1", "a number of GPUs"), ("2000", "1 to 1024"),
    ],
)  # fmt: skip
def test_a_job_file_that_asks_for_neither_is_told(tmp_path: Path, gpu: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        job_with(tmp_path, gpu)


# --- for frameworks --------------------------------------------------------------------------------------------------


def gpu_market() -> MarketWorld:
    world = MarketWorld()
    world.agent("vm-1", total=resources(gpus=["gpu-a"], isolation="shared"))
    return world


def test_a_framework_takes_a_share_and_is_offered_the_rest() -> None:
    world = gpu_market()
    client = world.client(capabilities=("GPU_RESOURCES",))
    client.launch(client.offer(), claims=(Claim(cpu_milli=1000, gpu_milli=300),))
    (launch,) = world.agents["vm-1"].running.values()
    assert (launch.gpus, launch.needs.gpu, launch.gpu_memory_bytes) == (("gpu-a",), GpuNeed(milli=300), 12 * GIB)
    world.advance(6 * SECOND)
    (left,) = client.offer().portions[0].resources.gpus
    assert (left.milli, memory_of(left)) == (700, 28 * GIB)
    (role,) = views.roles(world.master)
    assert (role.allocated.gpus, role.allocated.gpu_milli) == (1, 0), "its task and what it is offered"
    client.decline(client.offer())
    (role,) = views.roles(world.master)
    assert (role.allocated.gpus, role.allocated.gpu_milli) == (0, 300)
    assert world.replayed() == world.master.durable()


def test_what_a_framework_holds_of_a_gpu_jobs_do_not_get() -> None:
    world = gpu_market()
    client = world.client(capabilities=("GPU_RESOURCES",))
    client.launch(client.offer(), claims=(Claim(cpu_milli=1000, gpu_milli=300),))
    world.ask(SubmitJob(job=job("j", group("t", count=2, needs=share(400)))))
    world.advance(30 * SECOND)
    for offer in list(client.offers.values()):
        client.decline(offer)
    world.advance(SECOND)
    assert [launch.needs.gpu for launch in world.agents["vm-1"].running.values()] == [
        GpuNeed(milli=300), GpuNeed(milli=400),
    ]  # fmt: skip


def test_a_task_of_a_framework_has_whole_gpus_or_one_share() -> None:
    world = gpu_market()
    client = world.client(capabilities=("GPU_RESOURCES",))
    client.launch(client.offer(), claims=(Claim(cpu_milli=1000, gpu_milli=300, gpus=1),))
    assert client.updates[-1].state == "TASK_ERROR" and "a share of one" in client.updates[-1].message
    assert not world.agents["vm-1"].running


def test_gpus_of_mesos_are_scalars() -> None:
    def gpus(value: float) -> Claim:
        tree = {"name": "gpus", "type": "SCALAR", "scalar": {"value": value}}
        return claims_of([msgspec.convert(tree, Resource)])[0]

    assert gpus(2) == Claim(gpus=2)
    assert gpus(0.25) == Claim(gpu_milli=250)
    with pytest.raises(PeerError, match="a share of one"):
        gpus(1.5)


# --- policies --------------------------------------------------------------------------------------------------------


def gpu_node(agent_id: str, *free: Gpu, total: int = 1, running: tuple[Running, ...] = ()) -> Node:
    whole = tuple(msgspec.structs.replace(SHARED, uuid=f"{agent_id}-{n}") for n in range(total))
    base = Resources(cpu_milli=64_000, memory_bytes=64 * GIB, disk_bytes=64 * GIB)
    return node(
        agent_id,
        "lab",
        free=msgspec.structs.replace(base, gpus=free or whole),
        total=msgspec.structs.replace(base, gpus=whole),
        running=running,
    )


def shares_waiting() -> Snapshot:
    """Three half GPUs and four of a tenth, for one whole GPU and one of which 400 thousandths are left."""
    begun = msgspec.structs.replace(SHARED, uuid="begun-0", milli=400, memory_left_bytes=16 * GIB)
    return snapshot(
        [gpu_node("begun", begun), gpu_node("whole")],
        [demand("half", 3, needs=share(500)), demand("tenth", 4, needs=share(100))],
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_places_shares_and_names_their_gpus(policy: str) -> None:
    world = shares_waiting()
    plan = registry.load(policy).plan(world)
    check_plan(world, plan)
    placed = dict.fromkeys(("half", "tenth"), 0)
    for placement in plan.placements:
        placed[placement.demand_id] += placement.count
        assert len(placement.gpus) == placement.count
    if policy not in ("learned", "random"):  # Those may spread the tenths over what the halves need.
        assert placed == {"half": 2, "tenth": 4}, "1,400 thousandths, all of them used"


def test_best_fit_and_packing_keep_a_whole_gpu_for_whole_work() -> None:
    begun = msgspec.structs.replace(SHARED, uuid="z-begun-0", milli=400, memory_left_bytes=16 * GIB)
    world = snapshot(
        [gpu_node("a-whole"), gpu_node("z-begun", begun)],
        [demand("part", 1, needs=share(300)), demand("whole", 1, needs=Needs(gpu=GpuNeed()), oldest_us=5)],
    )
    for policy in ("packing", "best-fit", "flow", "locality"):
        placed = {p.demand_id: p.agent_id for p in registry.load(policy).plan(world).placements}
        assert placed == {"part": "z-begun", "whole": "a-whole"}, policy
    placed = {p.demand_id: p.agent_id for p in registry.load("fifo").plan(world).placements}
    assert placed == {"part": "a-whole"}, "first fit breaks into it"


def test_packing_takes_the_gpu_on_which_least_is_lost_though_another_fits_tighter() -> None:
    """600 and 900 are left of two GPUs, a tenth is to be placed and tasks of 600 are typical: best fit would leave 500
    that none of them can use."""
    first = msgspec.structs.replace(SHARED, uuid="n-0", milli=600, memory_left_bytes=24 * GIB)
    second = msgspec.structs.replace(SHARED, uuid="n-1", milli=900, memory_left_bytes=36 * GIB)
    world = snapshot(
        [gpu_node("n", first, second, total=2)],
        [demand("small", 1, needs=share(100)), demand("typical", 9, needs=share(600), oldest_us=5)],
    )
    plan = registry.load("packing").plan(world)
    check_plan(world, plan)
    assert {p.demand_id: (p.count, p.gpus) for p in plan.placements} == {
        "small": (1, ("n-1",)),
        "typical": (2, ("n-0", "n-1")),
    }
    assert {p.demand_id: p.gpus for p in registry.load("best-fit").plan(world).placements}["small"] == ("n-0",)


def test_packing_puts_what_needs_little_memory_where_there_is_too_little_for_others() -> None:
    """Half of each GPU is left, of one all memory but 8 GiB is gone: a tenth goes there, and the other stays of use."""
    first = msgspec.structs.replace(SHARED, uuid="n-0", milli=500, memory_left_bytes=32 * GIB)
    second = msgspec.structs.replace(SHARED, uuid="n-1", milli=500, memory_left_bytes=8 * GIB)
    world = snapshot(
        [gpu_node("n", first, second, total=2)],
        [demand("small", 1, needs=share(100, 4 * GIB)), demand("typical", 9, needs=share(250, 16 * GIB), oldest_us=5)],
    )
    plan = registry.load("packing").plan(world)
    check_plan(world, plan)
    assert {p.demand_id: (p.count, p.gpus) for p in plan.placements} == {
        "small": (1, ("n-1",)),
        "typical": (2, ("n-0", "n-0")),
    }


def test_priority_ends_a_share_to_make_room_for_one_on_the_same_gpu() -> None:
    lowly = Running(task_id="low/t/0", role="default", needs=share(800), since_us=0, priority=0, gpus=("n-0",))
    left = msgspec.structs.replace(SHARED, uuid="n-0", milli=200, memory_left_bytes=8 * GIB)
    world = snapshot([gpu_node("n", left, running=(lowly,))], [demand("high", 1, needs=share(500), priority=90)])
    plan = registry.load("priority").plan(world)
    check_plan(world, plan)
    assert [eviction.task_id for eviction in plan.evictions] == ["low/t/0"]

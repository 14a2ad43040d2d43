"""Work moves because a link changed, and not more often than it pays."""

from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.api import SubmitJob
from federation.config import MasterConfig
from federation.facts import TaskStateChanged
from federation.wire import CommandBatch, FetchProgress, HeldShard, LinkSample, NetReport, RedirectFetch
from policies.conformance import check_plan
from policies.flow import Flow
from policies.model import Continuation, LatencyTarget, Plan, Snapshot, Where
from tests.master_world import SECOND, World, group, job, resources, sha
from tests.policy_worlds import demand, links, node, snapshot

MBIT = 10**6
MB = 10**6
SIZE = 1_000 * MB


class Transfers:
    """Two depots with a replica each, and a laboratory that fetches it for a task that may run nowhere else."""

    def __init__(self, *, lab_sites: tuple[str, ...] = ("lab",), **config: Any) -> None:
        self.world = World(MasterConfig(round_every_us=0, **config), policy=Flow())
        shard = HeldShard(shard_id=sha(1), size_bytes=SIZE, name="model")
        for name in ("east", "west"):
            depot = self.world.agent(name, site=name, offer=False, total=resources(0))
            depot.shards[shard.shard_id] = shard
            depot.connect()
        self.lab = self.world.agent("bench", site="lab")
        self.lab.deaf = True  # It fetches, and has not started.
        for _ in range(3):
            self.measure(east=200, west=100)
        where = Where(sites=lab_sites)
        self.world.ask(SubmitJob(job=job("tune", group(reads=("model",), where=where)), submission_id="1"))
        self.lab.queue("tune/train/0", 1, "staging")
        self.lab.flush()
        self.done_bytes = 0

    def measure(self, **mbit: int) -> None:
        samples = tuple(
            LinkSample(from_agent=name, to_agent="bench", method="transfer", bandwidth_bps=rate * MBIT, bytes=MB)
            for name, rate in mbit.items()
        )
        self.lab.say(NetReport, samples=samples)

    def progress(self, source: str, mbit: int, seconds: int) -> None:
        """Bytes come at a rate for a while; the agent tells of it every two seconds, as it measures the link."""
        for _ in range(0, seconds, 2):
            self.world.advance(2 * SECOND)
            self.done_bytes += mbit * MBIT // 4
            fetch = FetchProgress(shard_id=sha(1), from_agent=source, done_bytes=self.done_bytes)
            sample = LinkSample(
                from_agent=source, to_agent="bench", method="transfer", bandwidth_bps=mbit * MBIT,
                bytes=mbit * MBIT // 4, duration_us=2 * SECOND,
            )  # fmt: skip
            self.lab.say(NetReport, samples=(sample,), fetches=(fetch,))
            for fake in self.world.agents.values():
                fake.offer()

    def redirects(self) -> list[str]:
        return [
            command.fetch.sources[0].agent_id
            for message in self.lab.heard
            if isinstance(message, CommandBatch)
            for command in message.commands
            if isinstance(command, RedirectFetch)
        ]


def test_a_transfer_goes_on_from_another_replica_when_its_link_falls() -> None:
    told = Transfers()
    told.progress("east", 190, 10)
    assert told.redirects() == [], "as fast as was planned"
    told.progress("east", 4, 10)
    assert told.redirects() == ["west"]
    told.progress("west", 95, 10)
    assert told.redirects() == ["west"]


def test_of_transfers_that_are_stuck_together_one_leaves_at_a_time_and_the_last_has_the_link_to_itself() -> None:
    """Three come from east, whose link falls to 6 Mbit/s; a fourth comes as slowly from elsewhere, so the map takes it
    for something all of them share and goes on believing in 200. Gone by its own rate alone, each would leave."""
    world = World(MasterConfig(round_every_us=0), policy=Flow())
    held = [HeldShard(shard_id=sha(n), size_bytes=SIZE, name=f"model-{n}") for n in range(1, 5)]
    for name, shards in (("east", held[:3]), ("west", held[:3]), ("plant", held[3:])):
        depot = world.agent(name, site=name, offer=False, total=resources(0))
        depot.shards.update({shard.shard_id: shard for shard in shards})
        depot.connect()
    lab = world.agent("bench", site="lab")
    lab.deaf = True
    for name, rate in (("east", 200), ("west", 20), ("plant", 50)) * 3:
        sample = LinkSample(from_agent=name, to_agent="bench", method="transfer", bandwidth_bps=rate * MBIT, bytes=MB)
        lab.say(NetReport, samples=(sample,))
    source = dict(zip(range(1, 5), ("east", "east", "east", "plant"), strict=True))
    for n in source:
        spec = job(f"tune-{n}", group(reads=(f"model-{n}",), where=Where(sites=("lab",))))
        world.ask(SubmitJob(job=spec, submission_id=str(n)))
        lab.queue(f"tune-{n}/train/0", 1, "staging")
    lab.flush()
    done = dict.fromkeys(source, 0)
    for _ in range(30):
        world.advance(2 * SECOND)
        at = list(source.values())
        rates = {"east": 6 / max(1, at.count("east")), "west": 20 / max(1, at.count("west")), "plant": 2}
        for n, name in source.items():
            done[n] += int(rates[name] * MBIT) // 4
        fetches = tuple(FetchProgress(shard_id=sha(n), from_agent=source[n], done_bytes=done[n]) for n in source)
        lab.say(NetReport, samples=(), fetches=fetches)
        for message in lab.heard:
            for command in message.commands if isinstance(message, CommandBatch) else ():
                if isinstance(command, RedirectFetch):
                    source[int(command.fetch.name.rpartition("-")[2])] = command.fetch.sources[0].agent_id
        for fake in world.agents.values():
            fake.offer()
    assert sorted(source.values()) == ["east", "plant", "west", "west"]


def test_a_little_slower_is_no_reason_to_leave() -> None:
    told = Transfers()
    told.progress("east", 110, 30)
    assert told.redirects() == []


def test_a_link_that_swings_is_not_followed_within_the_hold() -> None:
    told = Transfers(move_hold_us=60 * SECOND)
    source = "east"
    for turn in range(8):  # The present source is slow in every other ten seconds.
        told.progress(source, 2 if turn % 2 else 150, 10)
        source = (told.redirects() or ["east"])[-1]
    assert 1 <= len(told.redirects()) <= 2, "80 seconds, and a hold of 60"


def test_nothing_moves_without_a_budget() -> None:
    told = Transfers(moves_per_minute_max=0)
    told.progress("east", 1, 60)
    assert told.redirects() == []


def test_a_task_whose_data_is_stuck_goes_to_where_the_data_is() -> None:
    told = Transfers(lab_sites=("lab", "plant"), move_hold_us=SECOND)
    assert told.world.master.core.tasks.tasks["tune/train/0"].agent_id == "bench"
    plant = told.world.agent("line", site="plant")
    plant.shards[sha(1)] = HeldShard(shard_id=sha(1), size_bytes=SIZE, name="model")
    plant.connect()
    plant.offer()
    for name in ("east", "west"):
        for _ in range(3):
            told.measure(**{name: 1})
    told.progress("east", 1, 20)
    moved = [f for f in told.world.facts if isinstance(f, TaskStateChanged) and f.reason == "moved"]
    assert [fact.state for fact in moved] == ["killing"]
    assert "on line instead of" in moved[0].detail
    told.lab.queue("tune/train/0", 1, "killed", reason="killed")
    told.lab.flush()
    task = told.world.master.core.tasks.tasks["tune/train/0"]
    assert (task.agent_id, task.attempt, task.n_failed) == ("line", 2, 0), "it failed nowhere"


def test_a_transfer_beside_one_that_is_nearly_through_is_not_late() -> None:
    """It gets half of the link until the other is through, and then all of it: the other's last bytes delay it, and not
    half of its own."""
    world = World(MasterConfig(round_every_us=0, move_hold_us=SECOND), policy=Flow())
    held = [HeldShard(shard_id=sha(n), size_bytes=SIZE, name=f"model-{n}") for n in (1, 2)]
    depot = world.agent("east", site="east", offer=False, total=resources(0))
    depot.shards.update({shard.shard_id: shard for shard in held})
    depot.connect()
    lab = world.agent("bench", site="lab")
    line = world.agent("line", site="plant")
    lab.deaf = line.deaf = True
    for fake, rate in ((lab, 200), (line, 170)) * 3:
        ends = {"from_agent": "east", "to_agent": fake.agent_id}
        sample = LinkSample(**ends, method="transfer", bandwidth_bps=rate * MBIT, bytes=MB)
        fake.say(NetReport, samples=(sample,))
    done = {1: 0, 2: 0}

    def submit(n: int, *sites: str) -> None:
        spec = job(f"tune-{n}", group(reads=(f"model-{n}",), where=Where(sites=sites)))
        world.ask(SubmitJob(job=spec, submission_id=str(n)))
        lab.queue(f"tune-{n}/train/0", 1, "staging")
        lab.flush()

    def progress(seconds: int, **mbit: int) -> None:
        for _ in range(0, seconds, 2):
            world.advance(2 * SECOND)
            for name, rate in mbit.items():
                done[int(name[1:])] += rate * MBIT // 4
            fetches = tuple(
                FetchProgress(shard_id=sha(int(name[1:])), from_agent="east", done_bytes=done[int(name[1:])])
                for name in mbit
            )
            lab.say(NetReport, samples=(), fetches=fetches)
            for fake in world.agents.values():
                fake.offer()

    submit(1, "lab")
    progress(34, n1=200)
    submit(2, "lab", "plant")
    task = world.master.core.tasks.tasks["tune-2/train/0"]
    assert task.agent_id == "bench", "behind the last 150 MB of the other it has its data in 46 s, elsewhere in 47"
    progress(8, n1=100, n2=100)
    assert [fact for fact in world.facts if isinstance(fact, TaskStateChanged) and fact.reason == "moved"] == []
    assert task.agent_id == "bench"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 3, 20, 90, 180]), st.integers(1, 4)), min_size=1, max_size=12))
def test_whatever_the_link_does_moves_stay_within_hold_and_budget(turns: list[tuple[int, int]]) -> None:
    told = Transfers(move_hold_us=30 * SECOND, moves_per_minute_max=3)
    at_us: list[int] = []
    for mbit, steps in turns:
        for _ in range(steps):
            before = len(told.redirects())
            told.progress((told.redirects() or ["east"])[-1], mbit, 2)
            at_us += [told.world.now_us] * (len(told.redirects()) - before)
    assert all(later - sooner >= 28 * SECOND for sooner, later in pairwise(at_us))
    assert told.world.replayed() == told.world.master.durable()


# --- what the policy makes of a continuation -------------------------------------------------------------------------


def continuing(left_us: int, **fields: Any) -> Continuation:
    inner = demand("~t", run_us=20 * SECOND, where=Where(agents_avoided=("a",)), **fields)
    return Continuation(
        task_id="j/t/0", agent_id="a", demand=inner, left_us=left_us, move_us=5 * SECOND, margin_milli=250
    )


def moved(world: Snapshot) -> list[str]:
    plan: Plan = Flow().plan(world)
    check_plan(world, plan)
    assert not plan.placements and not plan.refusals, "what runs is neither placed nor refused"
    return [each.to_agent for each in plan.relocations]


def test_going_must_beat_staying_by_the_margin_and_the_cost_of_moving() -> None:
    world = snapshot([node("a", "x"), node("b", "y")], [])
    cheap_us = 20 * SECOND  # on b
    least_us = (cheap_us + 5 * SECOND) * 1250 // 1000
    for left_us, want in ((least_us - SECOND, []), (least_us + SECOND, ["b"])):
        assert moved(msgspec.structs.replace(world, continuing=(continuing(left_us),))) == want


def test_a_full_agent_takes_nobody_in() -> None:
    full = msgspec.structs.replace(node("b", "y"), free=resources(0, 0))
    world = snapshot([node("a", "x"), full], [])
    assert moved(msgspec.structs.replace(world, continuing=(continuing(900 * SECOND),))) == []


def test_a_service_moves_to_where_its_clients_are_answered_in_time() -> None:
    nodes = [node("a", "x"), node("b", "y")]
    fields = {"latency": (LatencyTarget(site="town", rtt_us=20_000, weight=5),), "is_service": True}
    for rtt_here, want in ((25_000, []), (150_000, ["b"])):
        ways = [*links({("town", "x"): 100}, rtt_us=rtt_here), *links({("town", "y"): 100}, rtt_us=19_000)]
        world = snapshot(nodes, [], link=ways)
        assert moved(msgspec.structs.replace(world, continuing=(continuing(60 * SECOND, **fields),))) == want

"""What was expected beside what happened: errors go back into profiles and links, outlast a crash, and fall."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from federation.api import SubmitJob
from federation.facts import ProfileLearned, TaskStateChanged, TransferLearned
from federation.profiles import ProfileBook
from federation.wire import HeldShard, LinkSample, NetReport
from policies.flow import Flow
from policies.model import Profile, Shard, Where
from scenarios.predictions import predictions, thirds
from tests.master_world import SECOND, World, group, job, resources, sha
from tests.policy_worlds import MB, demand, node, snapshot

MBIT = 10**6


def test_a_profile_is_learned_for_each_size_of_data_and_asked_by_the_nearest() -> None:
    book = ProfileBook(10, 32)
    for read_bytes, run_us in ((1 * MB, 2 * SECOND), (64 * MB, 90 * SECOND)):
        fact = book.gather("train", "rpi5", run_us, 0, read_bytes)
        assert fact is not None
        book.learn(fact)
    assert book.expected_us("train", "rpi5", 2 * MB) == 2 * SECOND
    assert book.expected_us("train", "rpi5", 900 * MB) == 90 * SECOND
    assert book.expected_us("train", "a100", 2 * MB) is None


KNOWN = st.tuples(st.sampled_from("pq"), st.sampled_from("hk"), st.integers(0, 40), st.integers(1, 9))


@given(st.lists(KNOWN, max_size=12), st.integers(1, 4))
def test_what_a_book_answered_before_it_learned_more_changes_no_later_answer(
    learned: list[tuple[str, str, int, int]], room: int
) -> None:
    """Law: answers are those of a book that was never asked, whatever was learned and forgotten between."""
    asked, never_asked = ProfileBook(room, 32), ProfileBook(room, 32)
    questions = list(product("pq", "hk", (0, 2**10, 2**30)))
    for profile, hardware, data_class, run_us in learned:
        fact = ProfileLearned(
            at_us=0, profile=profile, hardware=hardware, run_us=run_us, samples=1, data_class=data_class
        )
        for book in (asked, never_asked):
            book.learn(fact)
        for question in questions:
            asked.expected_us(*question)
    assert [asked.expected_us(*each) for each in questions] == [never_asked.expected_us(*each) for each in questions]


def test_the_planner_expects_what_was_learned_for_that_much_data() -> None:
    shards = [Shard(shard_id=f"s{n}", size_bytes=n * MB, replicas=("a",)) for n in (1, 64)]
    known = tuple(
        Profile(profile="p", hardware="rpi5", run_us=run_us, samples=4, data_class=(n * MB).bit_length())
        for n, run_us in ((1, 2 * SECOND), (64, 90 * SECOND))
    )
    demands = [demand(f"d{n}", reads=(f"s{n}",), profile="p") for n in (1, 64)]
    world = snapshot([node("a", "x", cpu=4, hardware="rpi5")], demands, shards, profiles=known)
    expected = {each.demand_id: each.terms.run_us for each in Flow().plan(world).placements}
    assert expected == {"d1": 2 * SECOND, "d64": 90 * SECOND}


def slow_transfers(n: int, took: int = 3) -> World:
    """A link that is measured three times as fast as transfers over it turn out to be."""
    world = World(policy=Flow())
    depot = world.agent("depot", site="east", offer=False, total=resources(0))
    for number in range(n):
        depot.shards[sha(number)] = HeldShard(shard_id=sha(number), size_bytes=100 * MB, name=f"model-{number}")
    depot.connect()
    lab = world.agent("bench", site="lab")
    for _ in range(3):
        sample = LinkSample(from_agent="depot", to_agent="bench", method="transfer", bandwidth_bps=80 * MBIT, bytes=MB)
        lab.say(NetReport, samples=(sample,))
    for number in range(n):
        world.advance(2 * SECOND)
        lab.deaf = True
        spec = group(reads=(f"model-{number}",), where=Where(sites=("lab",)))
        world.ask(SubmitJob(job=job(f"tune-{number}", spec), submission_id=str(number)))
        task = f"tune-{number}/train/0"
        lab.queue(task, 1, "running", stage_us=took * 10 * SECOND)
        lab.flush()
        lab.queue(task, 1, "finished", run_us=1 * SECOND)
        lab.flush()
        lab.deaf = False
        lab.offer()
    return world


def test_a_link_that_keeps_less_than_it_promises_is_planned_with_less_and_so_after_a_crash() -> None:
    world = slow_transfers(8)
    learned = [fact for fact in world.facts if isinstance(fact, TransferLearned)]
    assert len(learned) == 8 and learned[-1].from_site == "east" and learned[-1].to_site == "lab"
    assert 2_500 <= learned[-1].factor_milli <= 3_500
    core = world.master.core
    link = next(each for each in core.network.links(world.now_us + SECOND) if each.to_id == "site:lab")
    assert link.bandwidth_bps is not None and link.bandwidth_bps < 33 * MBIT
    assert world.replayed() == world.master.durable()
    world.crash()
    assert world.master.core.network.factors == core.network.factors


def fallen() -> World:
    """The link between depot and bench has a factor, gave 80 Mbit/s for a while, fell, and then was silent."""
    world = slow_transfers(4)
    for mbit in (80, 80, 80, 80, 1, 1):
        world.advance(10 * SECOND)
        reported(world, mbit)
    assert planned_bps(world) < 1 * MBIT
    world.advance(600 * SECOND)
    return world


def reported(world: World, mbit: int) -> None:
    way = LinkSample(from_agent="depot", to_agent="bench", method="transfer", bandwidth_bps=mbit * MBIT, bytes=MB)
    world.agents["bench"].say(NetReport, samples=(way,))


def planned_bps(world: World) -> int:
    world.now_us += SECOND  # Links are made anew each second.
    links = world.master.core.network.links(world.now_us)
    bps = next(each.bandwidth_bps for each in links if each.to_id == "site:lab")
    assert bps is not None
    return bps


def factors(world: World) -> int:
    return sum(isinstance(fact, TransferLearned) for fact in world.facts)


def fetched(world: World, mbit: int) -> None:
    """A task's data comes over the link at this rate, in thirty seconds."""
    lab = world.agents["bench"]
    lab.offer()
    lab.deaf = True
    world.ask(SubmitJob(job=job("try", group(reads=("model-0",), where=Where(sites=("lab",)))), submission_id="try"))
    reported(world, mbit)
    lab.queue("try/train/0", 1, "running", stage_us=30 * SECOND)
    lab.flush()
    assert any(isinstance(fact, TaskStateChanged) and fact.task_id == "try/train/0" and fact.state == "running"
               for fact in world.facts)  # fmt: skip


def test_a_link_that_is_tried_again_after_a_fall_is_planned_without_its_factor() -> None:
    world = fallen()
    assert planned_bps(world) > 3 * MBIT, "a step below what a bit took on average; a factor of two and a half is gone"


def test_what_tries_a_link_again_does_not_teach_its_factor() -> None:
    for mbit in (80, 1):
        world = fallen()
        learned = factors(world)
        fetched(world, mbit)
        assert factors(world) == learned, mbit
    used = slow_transfers(4)
    learned = factors(used)
    fetched(used, 80)
    assert factors(used) == learned + 1, "what crosses a link that has not fallen does"


def test_who_tries_a_link_again_and_gets_nothing_gives_it_up() -> None:
    world = fallen()
    hoped = planned_bps(world)
    world.master.core.network.miss("east", "lab", world.now_us)
    assert planned_bps(world) < hoped // 5


def test_what_takes_less_than_planned_is_prudence_and_no_factor() -> None:
    world = slow_transfers(6, took=0)
    assert all(fact.factor_milli == 1000 for fact in world.facts if isinstance(fact, TransferLearned))


def test_the_error_of_predictions_falls_over_a_run() -> None:
    world = slow_transfers(9)
    assert len(predictions(tuple(world.facts))) == 9
    first, last = thirds(tuple(world.facts))
    assert first is not None and last is not None and last < first / 2
    assert world.master.counters["predictions"] == 9

"""REQUEST: offers of the shape that was asked for, fair among those who ask; and nobody waits for ever."""

import random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from federation.api import SetRole, SubmitJob
from federation.config import MasterConfig
from federation.market import protocol as p
from federation.market.wants import SMALL_WAITS
from federation.wire import HeldShard, LinkSample, NetReport
from policies.entitlements import GRAIN_PPM, entitlements
from policies.flow import Flow
from policies.model import Amount, Demand, Needs, Role
from policies.resources import dominant_share_ppm, kinds
from tests.market_world import Client, MarketWorld, claim, cpus, spec
from tests.master_world import GIB, SECOND, group, job, resources, sha


def world(**config: Any) -> MarketWorld:
    config = {"round_every_us": 0, "allocate_every_us": 0} | config
    return MarketWorld(MasterConfig(**config), policy=Flow())


def want(request_id: str = "r", cpu: int = 1, **fields: Any) -> p.WantedOffer:
    return p.WantedOffer(request_id=request_id, cpu_milli=cpu * 1000, memory_bytes=GIB, **fields)


def shaped(client: Client) -> int:
    """Milli-CPU of the offers that answer requests."""
    return sum(cpus(offer) for offer in client.offers.values() if offer.request_id)


# --- the shape -------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_by_offers_of_its_shape_and_by_nothing_else() -> None:
    w = world()
    client = w.client()
    client.call(p.Request(wants=(want("r1", count=3),)))
    for agent_id in ("gw-1", "gw-2"):
        w.agent(agent_id)
    w.advance(SECOND)
    assert shaped(client) == 3000 == sum(cpus(offer) for offer in client.offers.values())
    offers = list(client.offers.values())
    for n, offer in enumerate(offers):
        names = tuple(f"t{n}-{m}" for m in range(cpus(offer) // 1000))
        client.launch(offer, names=names)
    w.advance(SECOND)
    assert sum(cpus(offer) for offer in client.offers.values()) == 5000, "it is met: fair shares are offered again"


def test_a_declined_piece_is_wished_for_again_elsewhere() -> None:
    w = world()
    client = w.client()
    client.call(p.Request(wants=(want(cpu=3),)))
    for agent_id in ("gw-1", "gw-2"):
        w.agent(agent_id)
    w.advance(SECOND)
    first = client.offer()
    client.decline(first)
    w.advance(SECOND)
    assert client.offer().agent_id != first.agent_id and client.offer().request_id == "r"
    client.call(p.Request(wants=(want(count=0),)))
    client.decline(*client.offers.values(), refuse_us=0)
    w.advance(SECOND)
    assert client.offers and not any(offer.request_id for offer in client.offers.values()), "withdrawn"


def test_suppress_pauses_the_requests_that_stand_and_later_ones_are_answered() -> None:
    w = world()
    client = w.client()
    client.call(p.Request(wants=(want("early"),)))
    client.call(p.Suppress())
    w.agent("gw-1")
    w.advance(SECOND)
    assert not client.offers
    client.call(p.Request(wants=(want("late"),)))
    w.advance(SECOND)
    assert client.offer().request_id == "late", "who asks wants, whatever it suppressed before"
    client.call(p.Revive())
    w.advance(SECOND)
    assert {offer.request_id for offer in client.offers.values()} == {"early", "late"}


# --- fair shares -----------------------------------------------------------------------------------------------------


def test_requests_share_by_weight_and_what_nobody_else_wants_is_not_kept_back() -> None:
    w = world(round_every_us=SECOND)
    w.ask(SetRole(path="heavy", weight=3))
    heavy, light = w.client("heavy", roles=("heavy",)), w.client("light", roles=("light",))
    light.call(p.Request(wants=(want(role="light", count=8),)))  # It asks first, and would take everything.
    heavy.call(p.Request(wants=(want(role="heavy", count=8),)))
    for agent_id in ("gw-1", "gw-2"):
        w.agent(agent_id)
    w.advance(SECOND)
    assert (shaped(heavy), shaped(light)) == (6000, 2000)
    heavy.call(p.Suppress())
    heavy.decline(*heavy.offers.values())
    w.advance(SECOND)
    assert shaped(light) == 8000


def test_requests_and_pending_jobs_enter_one_round_and_share_it() -> None:
    w = world(round_every_us=SECOND)
    client = w.client("ml", roles=("ml",))
    client.call(p.Request(wants=(want(role="ml", count=8),)))
    w.ask(SubmitJob(job=job("web", group(count=8), role="web")))
    for agent_id in ("gw-1", "gw-2"):
        w.agent(agent_id)
    w.advance(SECOND)
    assert shaped(client) == 4000
    assert sum(len(agent.running) for agent in w.agents.values()) == 4


WHOLE = Amount(cpu_milli=32_000, memory_bytes=64 * GIB)


@st.composite
def wishes(draw: st.DrawFn) -> tuple[list[Role], list[Demand], Amount]:
    roles, demands = [], []
    used = [0, 0]
    for n in range(draw(st.integers(1, 5))):
        held = draw(st.integers(0, 3)), draw(st.integers(0, 6))
        used = [used[0] + held[0], used[1] + held[1]]
        allocated = Amount(cpu_milli=held[0] * 1000, memory_bytes=held[1] * GIB)
        roles.append(Role(path=f"r{n}", weight=draw(st.integers(1, 4)), allocated=allocated))
        if draw(st.booleans()):
            needs = Needs(cpu_milli=draw(st.integers(1, 6)) * 500, memory_bytes=draw(st.integers(1, 8)) * GIB // 2)
            demands.append(
                Demand(demand_id=f"d{n}", role=f"r{n}", needs=needs, count=draw(st.integers(1, 40)), oldest_us=n)
            )
    free = Amount(cpu_milli=32_000 - used[0] * 1000, memory_bytes=(64 - used[1]) * GIB)
    return roles, demands, free


@given(wishes())
def test_entitlements_are_weighted_max_min_in_the_dominant_share(
    world: tuple[list[Role], list[Demand], Amount],
) -> None:
    roles, demands, free = world
    due = entitlements(roles, demands, free, WHOLE)
    by_path = {role.path: role for role in roles}
    assert set(due) == {demand.role for demand in demands}
    given_out = [0, 0, 0, 0]
    for path, amount in due.items():
        for kind, (has, had) in enumerate(zip(kinds(amount), kinds(by_path[path].allocated), strict=True)):
            assert has >= had
            given_out[kind] += has - had
    assert all(got <= have for got, have in zip(given_out, kinds(free), strict=True)), "no more than is free"
    left = [have - got for have, got in zip(kinds(free), given_out, strict=True)]
    for demand in demands:
        role, amount = by_path[demand.role], due[demand.role]
        n_given = (amount.cpu_milli - role.allocated.cpu_milli) // demand.needs.cpu_milli
        if n_given < demand.count:
            short = demand.needs.cpu_milli > left[0] or demand.needs.memory_bytes > left[1]
            assert short, "who still wants gets what is left"
        if n_given:
            # When it got its last grain it was the poorest: nobody who wanted more than one grain less was passed over.
            one = Amount(cpu_milli=demand.needs.cpu_milli, memory_bytes=demand.needs.memory_bytes)
            step = max(dominant_share_ppm(one, WHOLE), GRAIN_PPM * role.weight) + 1
            before = dominant_share_ppm(amount, WHOLE) - step
            for other in demands:
                poorer = by_path[other.role]
                mine, theirs = before / role.weight, dominant_share_ppm(due[other.role], WHOLE) / poorer.weight
                n_other = (due[other.role].cpu_milli - poorer.allocated.cpu_milli) // other.needs.cpu_milli
                if other is not demand and n_other < other.count and _fitted(other, left, demand):
                    assert mine <= theirs + 1, (demand, other)


def _fitted(other: Demand, left: list[int], taker: Demand) -> bool:
    """Whether a piece of the other would have fitted instead of the taker's last one."""
    cpu, memory = left[0] + taker.needs.cpu_milli, left[1] + taker.needs.memory_bytes
    return other.needs.cpu_milli <= cpu and other.needs.memory_bytes <= memory


def test_entitlements_nest() -> None:
    roles = [Role(path="a"), Role(path="a/x"), Role(path="a/y"), Role(path="b")]
    needs = Needs(cpu_milli=1000, memory_bytes=0)
    demands = [Demand(demand_id=path, role=path, needs=needs, count=99, oldest_us=0) for path in ("a/x", "a/y", "b")]
    due = entitlements(roles, demands, Amount(cpu_milli=32_000), WHOLE)
    assert {path: amount.cpu_milli // 1000 for path, amount in due.items()} == {"a": 16, "a/x": 8, "a/y": 8, "b": 16}


# --- nobody starves --------------------------------------------------------------------------------------------------


def test_a_gang_is_offered_whole_and_agents_are_kept_for_it_when_it_starves() -> None:
    w = world(starve_after_us=20 * SECOND)
    for n in range(2):
        w.agent(f"gw-{n}")
    other = w.client("other")
    for n, offer in enumerate(list(other.offers.values())):
        other.launch(offer, names=(f"t{n}",), cpu=3)
    client = w.client("gang", roles=("gang",))
    want = p.WantedOffer(request_id="g", role="gang", cpu_milli=4000, memory_bytes=GIB, count=2, gang=True)
    client.call(p.Request(wants=(want,)))
    w.advance(25 * SECOND)
    shaped = [offer for offer in client.offers.values() if offer.request_id]
    assert not shaped and len(w.master.core.market.held) == 2
    for n, agent in enumerate(w.agents.values()):
        (name,) = [task_id for task_id, _ in agent.running]
        agent.end(name)
        w.advance(6 * SECOND)
        shaped = [offer for offer in client.offers.values() if offer.request_id]
        if n == 0:
            assert not shaped, "not half a gang"
    w.advance(31 * SECOND)
    assert len([offer for offer in client.heard if isinstance(offer, p.Offers) and offer.offers[0].request_id]) >= 1


def test_a_hoarder_is_passed_over_for_longer_each_time() -> None:
    """Holding nothing, it has the least share: without a memory it would be offered every agent again and again."""
    w = world(lease_us=30 * SECOND, round_idle_us=3600 * SECOND)
    agent = w.agent("gw-1")
    hoarder = w.client("hoarder")
    worker = w.client("worker")
    assert hoarder.offers and not worker.offers
    w.advance(30 * SECOND)
    assert not hoarder.offers and worker.offers
    worker.accept(worker.offer(), operations=(p.Launch(tasks=(spec("t", claims=(claim(4, 4),)),)),))
    for n in range(1, 5):
        began_us = w.now_us
        (task_id,) = [name for name, _ in agent.running]
        agent.end(task_id)
        while not worker.offers:
            assert w.now_us - began_us <= 31 * SECOND, "no longer than one lease"
            w.advance(SECOND)
        worker.accept(worker.offer(), operations=(p.Launch(tasks=(spec(f"t{n}", claims=(claim(4, 4),)),)),))
    assert w.master.counters["framework_offers_expired"] <= 3


def test_others_go_on_beside_what_is_kept() -> None:
    """Nothing new starts where an agent is kept for a gang; everywhere else the small ones are served."""
    w = world(starve_after_us=20 * SECOND)
    agents = [w.agent(f"gw-{n}") for n in range(3)]
    small = w.client("small")
    for n, offer in enumerate(list(small.offers.values())):
        small.launch(offer, names=(f"t{n}",), cpu=3)
    gang = w.client("gang", roles=("gang",))
    gang.call(p.Request(wants=(want("g", cpu=4, role="gang", count=2, gang=True),)))
    gang.decline(*gang.offers.values(), refuse_us=0)
    w.advance(25 * SECOND)
    held = set(w.master.core.market.held)
    assert len(held) == 2
    small.decline(*small.offers.values(), refuse_us=0)
    for agent in agents:
        agent.end(next(task_id for task_id, _ in agent.running))
        agent.offer()
    small.call(p.Revive())
    w.advance(SECOND)
    assert {offer.agent_id for offer in small.offers.values() if cpus(offer)} == {f"gw-{n}" for n in range(3)} - held
    whole = [offer for offer in gang.offers.values() if offer.request_id == "g"]
    assert {offer.agent_id for offer in whole} == held and shaped(gang) == 8000


def test_what_starves_is_kept_room_where_its_data_is() -> None:
    """Not where least is in use: there it would hold what it took and wait for its data."""
    w = world(starve_after_us=20 * SECOND, round_idle_us=3600 * SECOND)
    holder, busy, idler = (w.agent(name) for name in ("gw-1", "gw-2", "gw-3"))
    shard = HeldShard(shard_id=sha(7), size_bytes=GIB, name="s")
    holder.shards[shard.shard_id] = shard
    holder.queue_shard(shard, "held")
    holder.flush()
    for agent in (busy, idler):
        slow = LinkSample(
            from_agent="gw-1", to_agent=agent.agent_id, method="transfer", bandwidth_bps=8_000_000, bytes=2**24,
            duration_us=16 * SECOND,
        )  # fmt: skip
        agent.say(NetReport, samples=(slow,))
    other = w.client("other")
    for n, offer in enumerate(sorted(other.offers.values(), key=lambda offer: offer.agent_id)):
        other.launch(offer, names=(f"t{n}",), cpu=(4, 3, 2)[n])
    client = w.client("reader", roles=("reader",))
    client.call(p.Request(wants=(want("r", cpu=3, role="reader", reads=(shard.shard_id,)),)))
    w.advance(25 * SECOND)
    assert list(w.master.core.market.held) == ["gw-1"], "gw-3 has less in use"
    holder.end(next(task_id for task_id, _ in holder.running))
    w.advance(6 * SECOND)
    assert client.offer().agent_id == "gw-1" and not w.master.core.market.held


@settings(max_examples=4, deadline=None)
@given(
    st.booleans(),
    st.lists(st.integers(1, 2), min_size=1, max_size=3),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(0, 2**32),
)
@example(is_same_role=True, cpus_wanted=[1], n_agents=1, n_hoarders=0, seed=1)  # as small as the crowd's
@example(is_same_role=True, cpus_wanted=[2, 1, 2], n_agents=2, n_hoarders=0, seed=1)  # several
@example(is_same_role=False, cpus_wanted=[2, 2, 2], n_agents=1, n_hoarders=1, seed=1)  # twice as large, roles apart
def test_who_wants_little_is_served_within_a_bound_beside_who_wants_without_end(
    is_same_role: bool, cpus_wanted: list[int], n_agents: int, n_hoarders: int, seed: int
) -> None:
    """A crowd whose older wish never ends takes each core that becomes free, and cores become free one by one; hoarders
    keep what they are offered until it lapses. Without room that is kept some of these are never served. The bound:
    four times `starve_after_us`, then for every wish that starves the longest that a task or a lease holds anything."""
    starve_s, longest_s, start_s = 10, 20, 30
    source = random.Random(seed)
    w = world(starve_after_us=starve_s * SECOND, lease_us=longest_s * SECOND)
    agents = [w.agent(f"gw-{n}", total=resources(cpu=8, memory=64)) for n in range(n_agents)]
    crowd = w.client("crowd", roles=("crowd",))
    crowd.call(p.Suppress())
    crowd.call(p.Request(wants=(want("c", count=100_000, role="crowd", run_us=20 * SECOND),)))
    for n in range(n_hoarders):
        w.client(f"hoarder-{n}", roles=("hoard",))
    clients: list[Client] = []
    ends: dict[str, int] = {}
    waited: dict[int, int] = {}
    bound_s = SMALL_WAITS * starve_s + len(cpus_wanted) * longest_s
    for second in range(start_s + bound_s):
        for agent in agents:
            for name, _ in list(agent.running):
                if second >= ends.setdefault(name, second + source.randint(5, longest_s)):
                    agent.end(name)
            agent.offer()
        for n, cpu in enumerate(cpus_wanted if second == start_s else ()):
            client = w.client(f"small-{n}", roles=("crowd" if is_same_role else "small",))
            clients.append(client)
            client.call(p.Suppress())
            client.call(p.Request(wants=(want(cpu=cpu, role=client.info.roles[0], run_us=20 * SECOND),)))
        for offer in list(crowd.offers.values()):
            crowd.launch(offer, names=tuple(f"{offer.offer_id}-{n}" for n in range(cpus(offer) // 1000)))
        for n, client in enumerate(clients):
            answers = [offer for offer in client.offers.values() if offer.request_id]
            if answers and n not in waited:
                waited[n] = second - start_s
                client.launch(*answers, names=("t",), cpu=cpus_wanted[n])
        w.advance(SECOND)
    assert sorted(waited) == list(range(len(cpus_wanted))), waited
    assert len(crowd.updates) > 4 * bound_s // longest_s, "it goes on beside them"


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.booleans(), st.integers(1, 5))
def test_no_one_waits_longer_than_a_lease_for_each_hoarder(
    n_hoarders: int, n_agents: int, are_polite: bool, weight: int
) -> None:
    """Hoarders keep every offer until it lapses, or (`are_polite`) give it back a second before and ask for it again at
    once. Whoever works gets an agent within a lease for each of them, however heavy their role is."""
    lease_s = 10
    w = world(lease_us=lease_s * SECOND, round_idle_us=3600 * SECOND)
    w.ask(SetRole(path="hoard", weight=weight))
    hoarders = [w.client(f"a-hoarder-{n}", roles=("hoard",)) for n in range(n_hoarders)]
    for n in range(n_agents):
        w.agent(f"gw-{n}")
    worker = w.client("worker", roles=("work",))
    for second in range(n_hoarders * lease_s + 1):
        if worker.offers:
            break
        for hoarder in hoarders if are_polite and second % lease_s == lease_s - 1 else ():
            hoarder.decline(*hoarder.offers.values(), refuse_us=0)
        w.advance(SECOND)
    assert worker.offers


def test_small_wishes_wait_for_their_turn_and_are_kept_nothing() -> None:
    w = world(starve_after_us=20 * SECOND)
    w.agent("gw-1")
    other = w.client("other")
    other.launch(other.offer(), names=("t",), cpu=4)
    w.client("small").call(p.Request(wants=(want("r", cpu=1, count=9),)))
    w.advance(60 * SECOND)
    assert not w.master.core.market.held


def test_a_wish_that_is_served_piece_by_piece_does_not_starve() -> None:
    w = world(starve_after_us=20 * SECOND)
    agent = w.agent("gw-1")
    client = w.client("many")
    client.call(p.Request(wants=(want("r", cpu=4, count=4),)))
    for n in range(3):
        w.advance(SECOND)
        client.launch(client.offer(), names=(f"t{n}",), cpu=4)
        w.advance(15 * SECOND)
        assert not w.master.core.market.held
        agent.end(next(task_id for task_id, _ in agent.running))
        agent.offer()

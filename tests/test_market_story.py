"""The market's rules of who is offered what and for how long, one story each: calls in, events and launches out."""

from federation.api import SetAgentMode, SetRole, SubmitJob
from federation.config import MasterConfig, ReservationConfig
from federation.market import protocol as p
from federation.views import offers as agent_offers
from federation.wire import LinkSample, NetReport
from policies.model import Amount, Gpu, Resources
from tests.market_world import MarketWorld, claim, cpus, spec
from tests.master_world import GIB, SECOND, group, job, resources


def world(**fields: object) -> MarketWorld:
    return MarketWorld(MasterConfig(round_every_us=0, allocate_every_us=0, **fields))  # type: ignore[arg-type]


# --- a task from offer to end ----------------------------------------------------------------------------------------


def test_subscribe_is_answered_by_an_id_a_heartbeat_and_offers() -> None:
    w = world()
    w.agent()
    client = w.client()
    assert [type(event) for event in client.heard] == [p.Subscribed, p.Heartbeat, p.Offers]
    offer = client.offer()
    assert offer.agent_id == "gw-1" and offer.portions[0].resources == resources()
    assert offer.expires_us == w.now_us + w.config.lease_us


def test_a_task_runs_from_offer_to_finished() -> None:
    w = world()
    agent = w.agent()
    client = w.client()
    client.launch(client.offer())
    fw = client.framework_id
    assert list(agent.running) == [(f"@{fw}/t1", 1)]
    agent.end(f"@{fw}/t1")
    assert client.states() == ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]
    assert not w.master.core.market.frameworks[fw].tasks, "acknowledged and ended: forgotten"
    assert w.replayed() == w.master.durable()


def test_the_rest_of_an_accepted_offer_is_filtered_and_comes_back() -> None:
    w = world()
    w.agent()
    client = w.client()
    client.launch(client.offer())
    assert not client.offers
    w.advance(6 * SECOND)
    assert cpus(client.offer()) == 3000


def test_what_is_offered_is_not_placed_by_jobs_and_what_jobs_use_is_not_offered() -> None:
    w = world()
    w.agent()
    client = w.client()
    w.ask(SubmitJob(job=job("digits", group("train", count=4))))
    assert not w.agents["gw-1"].running, "all of it is leased"
    assert agent_offers(w.master)[0].free.cpu_milli == 0
    client.decline(client.offer())
    assert len(w.agents["gw-1"].running) == 4


def test_gpu_nodes_go_only_to_frameworks_that_want_gpus() -> None:
    w = world()
    w.agent("vm-1", total=resources(gpus=["gpu-a", "gpu-b"]))
    plain = w.client("plain")
    assert not plain.offers
    wants = w.client("wants", capabilities=("GPU_RESOURCES",))
    assert [gpu.uuid for gpu in wants.offer().portions[0].resources.gpus] == ["gpu-a", "gpu-b"]
    wants.launch(wants.offer(), claims=(claim(gpus=1),))
    (launch,) = w.agents["vm-1"].running.values()
    assert launch.gpus == ("gpu-a",)


def test_half_of_the_large_gpus_is_half_however_many_small_ones_there_are() -> None:
    """Counted alike, the first would have 1 of 10 and the second 3; by model and memory they have 1 of 2 and 3 of 8."""
    w = world()

    def join(agent_id: str, model: str, count: int, offer: bool = True) -> None:
        gpus = tuple(Gpu(uuid=f"{agent_id}-{n}", model=model, memory_bytes=GIB) for n in range(count))
        w.agent(agent_id, offer=offer, total=Resources(cpu_milli=1000, memory_bytes=GIB, disk_bytes=GIB, gpus=gpus))

    w.agent("big", offer=False, total=resources(cpu=400, memory=800))  # CPU and memory are nobody's dominant share.
    join("l-2", "h200", 1, offer=False)
    capable = ("GPU_RESOURCES", "PARTITION_AWARE")
    first = w.client("first", roles=("a",), capabilities=capable)
    join("l-1", "h200", 1)
    first.launch(first.offer(), claims=(claim(gpus=1),))
    first.call(p.Suppress())
    second = w.client("second", roles=("b",), capabilities=capable)
    join("s-1", "t4", 3)
    second.launch(second.offer(), claims=(claim(gpus=3),))
    first.call(p.Revive())
    join("s-2", "t4", 5)
    assert second.offer().agent_id == "s-2" and not first.offers


# --- filters ---------------------------------------------------------------------------------------------------------


def test_a_declined_offer_comes_back_after_five_seconds_and_at_once_on_revive() -> None:
    w = world()
    w.agent()
    client = w.client()
    client.decline(client.offer())
    w.advance(4 * SECOND)
    assert not client.offers
    w.advance(2 * SECOND)
    client.decline(client.offer(), refuse_us=3600 * SECOND)
    assert not client.offers
    client.call(p.Revive())
    assert cpus(client.offer()) == 4000


def test_a_filter_blocks_only_what_it_contains() -> None:
    w = world()
    agent = w.agent(offer=False)
    client = w.client()
    agent.offer(resources(cpu=2))
    client.decline(client.offer(), refuse_us=3600 * SECOND)
    agent.offer(resources(cpu=1))
    assert not client.offers
    agent.offer(resources(cpu=3))
    assert cpus(client.offer()) == 3000


def test_a_filter_is_of_one_role() -> None:
    w = world()
    w.agent()
    client = w.client(roles=("a", "b"), capabilities=("MULTI_ROLE",))
    first = client.offer()
    client.decline(first, refuse_us=3600 * SECOND)
    assert {first.role, client.offer().role} == {"a", "b"}


def test_suppress_stops_new_offers_and_rescinds_none() -> None:
    w = world()
    w.agent()
    client = w.client()
    client.call(p.Suppress())
    assert len(client.offers) == 1
    client.decline(client.offer(), refuse_us=0)
    assert not client.offers
    client.call(p.Revive())
    assert client.offers


# --- leases ----------------------------------------------------------------------------------------------------------


def test_a_hoarders_offers_time_out_and_go_to_others() -> None:
    w = world()
    w.agent()
    hoarder, other = w.client("hoarder"), w.client("other")
    assert hoarder.offers and not other.offers
    w.advance(31 * SECOND)
    assert not hoarder.offers and other.offers
    assert hoarder.of(p.Rescind)[0].reason == "expired"


def test_offers_are_rescinded_when_their_agent_is_suspect() -> None:
    w = world(lease_us=600 * SECOND)
    w.agent()
    client = w.client()
    w.advance(13 * SECOND, alive=False)
    assert not client.offers
    assert client.of(p.Rescind)


def test_offers_are_rescinded_on_maintenance_and_tasks_are_asked_back() -> None:
    w = world()
    agent = w.agent()
    client = w.client()
    client.launch(client.offer(), cpu=1)
    w.advance(6 * SECOND)
    assert client.offers
    w.ask(SetAgentMode(agent_id="gw-1", mode="draining"))
    assert not client.offers
    (asked,) = client.inverse.values()
    assert asked.agent_id == "gw-1" and asked.reason == "drain" and asked.resources.cpu_milli == 1000
    assert agent.running, "nothing is taken by force"
    client.call(p.DeclineInverse(offer_ids=(asked.offer_id,), refuse_us=5 * SECOND))
    w.advance(6 * SECOND)
    assert len(client.inverse) == 2
    again = list(client.inverse)[1]
    client.call(p.AcceptInverse(offer_ids=(again,)))
    w.advance(120 * SECOND)
    assert len(client.inverse) == 2
    w.ask(SetAgentMode(agent_id="gw-1", mode="active"))
    assert client.of(p.RescindInverse)[0].offer_id == again


def test_a_stale_offer_never_loses_the_others() -> None:
    w = world(lease_us=600 * SECOND)
    agent = w.agent(offer=False)
    client = w.client()
    agent.offer(resources(cpu=2))
    first = client.offer()
    agent.offer(resources(cpu=4))
    second = next(offer for offer in client.offers.values() if offer is not first)
    client.decline(first)
    client.accept(
        first, second, operations=(p.Launch(tasks=(spec("fits", cpu=2, memory=0), spec("not", cpu=2, memory=0))),)
    )
    assert client.states("fits") == ["TASK_STARTING", "TASK_RUNNING"]
    assert client.states("not") == ["TASK_DROPPED"]
    assert client.updates[0].reason == "REASON_INVALID_OFFERS" or client.updates[-1].reason == "REASON_INVALID_OFFERS"


def test_tasks_on_an_expired_offer_get_a_terminal_status() -> None:
    w = world()
    w.agent()
    client = w.client(capabilities=())
    offer = client.offer()
    w.advance(31 * SECOND)
    client.launch(offer)
    assert client.states() == ["TASK_LOST"]
    assert client.updates[0].uuid == b""


def test_several_offers_are_of_one_agent() -> None:
    w = world()
    w.agent("gw-1")
    w.agent("gw-2")
    client = w.client()
    client.accept(*client.offers.values(), operations=(p.Launch(tasks=(spec(),)),))
    assert client.states() == ["TASK_DROPPED"]
    w.advance(6 * SECOND)
    assert len(client.offers) == 2, "both came back"


def test_a_task_that_claims_too_much_is_an_error_and_the_next_one_runs() -> None:
    w = world()
    w.agent()
    client = w.client()
    client.accept(client.offer(), operations=(p.Launch(tasks=(spec("big", cpu=5), spec("t1"), spec("t1"))),))
    assert client.states("big") == ["TASK_ERROR"]
    assert sorted(client.states("t1")) == ["TASK_ERROR", "TASK_RUNNING", "TASK_STARTING"], "its twin is refused"


def test_a_launch_group_is_all_or_none_and_ends_together() -> None:
    w = world()
    agent = w.agent()
    client = w.client()
    client.accept(client.offer(), operations=(p.LaunchGroup(tasks=(spec("a", cpu=3), spec("b", cpu=3))),))
    assert client.states("a") == client.states("b") == ["TASK_ERROR"]
    w.advance(6 * SECOND)
    client.accept(client.offer(), operations=(p.LaunchGroup(tasks=(spec("a"), spec("b"))),))
    assert len(agent.running) == 2
    agent.end(f"@{client.framework_id}/a", "failed", exit_code=1)
    assert client.states("b")[-1] == "TASK_KILLED"
    assert not agent.running


# --- reservations ----------------------------------------------------------------------------------------------------


def reservation(role: str = "ml", **fields: object) -> p.Reservation:
    return p.Reservation(role=role, **fields)  # type: ignore[arg-type]


def test_reserve_launch_and_unreserve_in_order() -> None:
    w = world()
    agent = w.agent()
    client = w.client(roles=("ml",))
    kept = reservation(labels=(("disk", "fast"),))
    client.accept(
        client.offer(),
        operations=(
            p.Reserve(claims=(claim(2, 2, reservation=kept),), operation_id="op-1"),
            p.Launch(tasks=(spec("t1", claims=(claim(1, 1, reservation=kept),)),)),
        ),
        refuse_us=0,
    )
    done = client.of(p.UpdateOperation)[0]
    assert (done.operation_id, done.state) == ("op-1", "OPERATION_FINISHED") and done.uuid
    client.call(p.AcknowledgeOperation(operation_id="op-1", uuid=done.uuid))
    assert client.states() == ["TASK_STARTING", "TASK_RUNNING"]
    offer = client.offer()
    assert {(part.reservation, part.resources.cpu_milli) for part in offer.portions} == {(None, 2000), (kept, 1000)}
    other = w.client("other", roles=("web",))
    client.decline(offer, refuse_us=3600 * SECOND)
    assert cpus(other.offer()) == 2000, "what is reserved is for its role"
    w.crash()
    w.agents["gw-1"].connect()
    w.agents["gw-1"].offer()
    client.subscribe()
    offer = client.offer()
    assert {(part.reservation, part.resources.cpu_milli) for part in offer.portions} == {(None, 2000), (kept, 1000)}
    client.accept(offer, operations=(p.Unreserve(claims=(claim(1, 1, reservation=kept),)),), refuse_us=0)
    assert agent.running
    assert w.master.core.agents["gw-1"].holdings.pools[kept].size.cpu_milli == 1000
    assert w.replayed() == w.master.durable()


def test_static_reservations_belong_to_a_role_and_what_is_below_it() -> None:
    w = world(reservations=(ReservationConfig(agents="gw-*", role="ml", cpu_milli=3000, memory_bytes=2 * GIB),))
    w.agent()
    below, other = w.client("below", roles=("ml/vision",)), w.client("other", roles=("web",))
    assert sum(cpus(offer) for offer in below.offers.values()) >= 3000
    below.call(p.Suppress())
    below.decline(*below.offers.values(), refuse_us=0)
    assert sum(cpus(offer) for offer in other.offers.values()) == 1000


def test_unused_reserved_resources_are_lent_and_taken_back() -> None:
    w = world(reservations=(ReservationConfig(agents="*", role="ml", cpu_milli=4000, memory_bytes=8 * GIB),))
    agent = w.agent()
    batch = w.client("batch", roles=("web",), capabilities=("REVOCABLE_RESOURCES", "PARTITION_AWARE"))
    offer = batch.offer()
    assert offer.portions[0].revocable
    kept = offer.portions[0].reservation
    batch.accept(offer, operations=(p.Launch(tasks=(spec(claims=(claim(2, 2, reservation=kept, revocable=True),)),)),))
    assert agent.running
    owner = w.client("owner", roles=("ml",))
    w.advance(6 * SECOND)
    assert batch.states()[-1] == "TASK_KILLED"
    w.advance(6 * SECOND)
    assert sum(cpus(offer) for offer in owner.offers.values()) == 4000


# --- fairness, quota, guarantees -------------------------------------------------------------------------------------


def test_weights_decide_who_is_offered() -> None:
    w = world()
    w.ask(SetRole(path="heavy", weight=3))
    w.ask(SetRole(path="light", weight=1))
    heavy, light = w.client("heavy", roles=("heavy",)), w.client("light", roles=("light",))
    for n in range(8):
        w.agent(f"gw-{n}")
    assert (len(heavy.offers), len(light.offers)) == (6, 2)


def test_a_quota_limits_offers_and_its_change_rescinds() -> None:
    w = world()
    w.agent()
    client = w.client(roles=("ml",))
    assert cpus(client.offer()) == 4000
    w.ask(SetRole(path="ml", quota=Amount(cpu_milli=1500)))
    assert client.of(p.Rescind)[0].reason == "quota"
    assert cpus(client.offer()) == 1500


def test_a_guarantee_keeps_resources_free() -> None:
    w = world()
    w.ask(SetRole(path="vip", guarantee=Amount(cpu_milli=3000)))
    w.agent()
    other = w.client("other", roles=("web",))
    assert cpus(other.offer()) == 1000
    vip = w.client("vip", roles=("vip",))
    assert cpus(vip.offer()) == 3000


# --- constraints -----------------------------------------------------------------------------------------------------


def test_offer_constraints_choose_agents() -> None:
    w = world()
    w.agent("gw-1", labels=(("zone", "a"),))
    w.agent("gw-2", labels=(("zone", "b"),))
    client = w.client(constraints={"": ("label{key=zone} == b",)})
    assert client.offer().agent_id == "gw-2"
    answer = w.client("wrong", constraints={"": ("link.rtt_us < 3",)}).heard
    assert answer == []


def test_offers_go_only_where_the_measured_link_and_the_gpus_suffice() -> None:
    w = world()
    near, far, small = w.agent("near"), w.agent("far"), w.agent("small", total=resources(gpus=["a"]))
    for agent, rtt_us in ((near, 5_000), (far, 50_000)):
        echo = LinkSample(from_agent=agent.agent_id, to_agent="small", method="echo", rtt_us=rtt_us)
        agent.say(NetReport, samples=(echo,))
    close = w.client("close", constraints={"": ("link.rtt_us{to=site:site-small} < 20000",)})
    assert close.offer().agent_id == "near"
    capable = ("GPU_RESOURCES", "PARTITION_AWARE")
    large = w.client("large", capabilities=capable, constraints={"": ("gpu.memory_bytes >= 80GiB",)})
    assert not large.offers
    enough = w.client("enough", capabilities=capable, constraints={"": ("gpu.memory_bytes >= 24GiB",)})
    assert enough.offer().agent_id == small.agent_id

"""Services whose replicas are added, moved and weighted: what the policy decides, what the master makes of it, and what
simulated clients get."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.api import CancelJob, Problem, ServiceView, SetServiceDemand, SubmitJob
from federation.config import MasterConfig
from federation.errors import ConfigError
from federation.facts import ServiceBalanced, TaskStateChanged
from federation.jobfile import load_job
from federation.services import service_view
from federation.services_book import ServicesBook
from federation.states import TaskState
from federation.wire import LinkSample, NetReport
from policies import registry
from policies.conformance import check_plan
from policies.flow import Flow
from policies.model import LatencyTarget, Plan, Reason, Replicas, Service, ServiceReplica, Snapshot, Weight
from scenarios.expect import Metric
from scenarios.format import load_world
from scenarios.metrics import Metrics
from scenarios.player import play
from scenarios.records import Records
from tests.cli_world import offerflow, serving
from tests.master_world import SECOND, World, group, job, resources
from tests.policy_worlds import demand, links, node, snapshot
from tests.scenario_world import written

TOWNS = ("north", "south")


def target(site: str, requests: int = 10, rtt_ms: int = 25) -> LatencyTarget:
    return LatencyTarget(site=site, rtt_us=rtt_ms * 1000, weight=requests)


def service(placed: dict[str, str], spare: int = 3, **rest: Any) -> Service:
    """`placed` maps agent → site; replica 0 is on the first of them."""
    targets = rest.pop("targets", tuple(target(town) for town in TOWNS))
    least, answers = rest.pop("least", 1), rest.pop("answers", 0)
    replicas = tuple(
        ServiceReplica(task_id=f"web/task/{n}", agent_id=agent_id, site=site, is_ready=True)
        for n, (agent_id, site) in enumerate(placed.items())
    )
    return Service(
        service_id="web/task",
        demand=demand("spare", count=spare, latency=targets, is_service=True, service_id="web/task"),
        replicas=Replicas(least=least, most=len(placed) + spare, answers_per_second=answers),
        placed=replicas,
        **rest,
    )


def world(one: Service, south_ms: int = 60, prices: dict[str, int] | None = None, waiting: int = 0) -> Snapshot:
    """A hub near the north, a box in each town; the south is `south_ms` from the hub."""
    ways = links({("north", "hub"): 100}, rtt_us=12_000) + links({("south", "hub"): 100}, rtt_us=south_ms * 1000)
    ways += links({("north", "south"): 100}, rtt_us=90_000)
    nodes = [
        node(name, site, cpu=8 if name == "srv" else 1, price_microusd_per_cpu_hour=(prices or {}).get(name, 0))
        for name, site in (("srv", "hub"), ("box-n", "north"), ("box-s", "south"))
    ]
    left = [demand("left", count=waiting, latency=one.demand.latency, is_service=True, service_id="web/task")]
    return snapshot(nodes, left if waiting else [], link=ways, services=(one,))


def planned(world: Snapshot) -> Plan:
    plan = Flow().plan(world)
    check_plan(world, plan)
    assert plan == Flow().plan(world)
    return plan


def shares(plan: Plan) -> dict[tuple[str, str], int]:
    return {(each.site, each.task_id[-1]): each.share_ppm // 10_000 for each in plan.services[0].weights}


def test_a_client_whose_target_is_missed_gets_a_replica() -> None:
    plan = planned(world(service({"srv": "hub"})))
    assert [each.agent_id for each in plan.services[0].adds] == ["box-s"]
    assert plan.services[0].missed_ppm == 500_000
    assert shares(plan) == {("north", "0"): 100, ("south", "0"): 100}, "until the new one answers"


def test_where_all_targets_hold_nothing_is_added() -> None:
    plan = planned(world(service({"srv": "hub"}), south_ms=20))
    assert plan.services[0].adds == plan.services[0].removes == ()
    assert plan.services[0].missed_ppm == 0


def test_of_two_places_that_hold_the_target_the_cheaper_is_taken() -> None:
    for dear, want in (("box-s", ["box-t"]), ("box-t", ["box-s"])):
        before = world(service({"srv": "hub"}), prices={"srv": 10_000, dear: 500_000})
        price = 500_000 if dear == "box-t" else 10_000
        also = node("box-t", "south-2", price_microusd_per_cpu_hour=price)
        near = links({("south", "south-2"): 100}, rtt_us=5_000)
        nodes = tuple(sorted((*before.nodes, also), key=lambda each: each.agent_id))
        ways = tuple(sorted((*before.links, *near), key=lambda link: (link.from_id, link.to_id)))
        plan = planned(msgspec.structs.replace(before, nodes=nodes, links=ways))
        assert [each.agent_id for each in plan.services[0].adds] == want


def test_what_one_replica_cannot_answer_is_shared_with_a_further_one() -> None:
    crowded = service({"srv": "hub"}, answers=20, targets=(target("north", 30), target("south", 10)))
    plan = planned(world(crowded, south_ms=20))
    assert len(plan.services[0].adds) == 1
    both = service({"srv": "hub", "box-n": "north"}, answers=20, targets=(target("north", 30), target("south", 10)))
    plan = planned(world(both, south_ms=20))
    assert shares(plan) == {("north", "0"): 33, ("north", "1"): 66, ("south", "0"): 100}
    assert plan.services[0].adds == () and plan.services[0].missed_ppm == 0


def test_a_replica_that_is_not_worth_its_place_ends_but_not_at_once() -> None:
    placed = {"srv": "hub", "box-s": "south"}
    assert planned(world(service(placed), south_ms=20)).services[0].removes == ("web/task/1",)
    held = service(placed, may_shrink=False)
    assert planned(world(held, south_ms=20)).services[0].removes == ()
    assert planned(world(service(placed, least=2), south_ms=20)).services[0].removes == ()
    assert planned(world(service(placed), south_ms=60)).services[0].removes == (), "the south needs it"


def test_a_service_that_may_not_change_stays_and_is_weighted_still() -> None:
    frozen = service({"srv": "hub"}, may_grow=False, may_shrink=False)
    plan = planned(world(frozen))
    assert plan.services[0].adds == () and shares(plan) == {("north", "0"): 100, ("south", "0"): 100}


def test_a_service_with_all_it_may_have_is_moved() -> None:
    plan = planned(world(service({"srv": "hub", "box-n": "north"}, spare=0, least=2)))
    assert plan.services[0].moves == ("web/task/0",) and plan.services[0].adds == ()


def test_weights_change_only_for_a_gain() -> None:
    for placed, in_force, want in (
        ({"srv": "hub", "srv-2": "hub"}, "1", "1"),  # either does as well
        ({"srv": "hub", "box-n": "north"}, "1", "0"),  # 90 ms to the south from there
    ):
        old = (
            Weight(site="north", task_id="web/task/0", share_ppm=1_000_000),
            Weight(site="south", task_id=f"web/task/{in_force}", share_ppm=1_000_000),
        )
        kept = service(placed, weights=old, may_shrink=False)
        assert shares(planned(world(kept, south_ms=20)))["south", want] == 100


def test_replicas_that_wait_are_placed_for_the_clients_they_would_answer() -> None:
    plan = planned(world(service({"srv": "hub"}), waiting=1))
    assert [(each.demand_id, each.agent_id, each.count) for each in plan.placements] == [("left", "box-s", 1)]
    assert plan.services[0].adds == ()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_service_gets_a_plan_that_holds(data: st.DataObject) -> None:
    sites = ("hub", "north", "south")
    placed = data.draw(st.dictionaries(st.sampled_from(("srv", "box-n", "box-s", "gone")), st.sampled_from(sites)))
    one = service(
        placed,
        spare=data.draw(st.integers(0, 4)),
        least=data.draw(st.integers(1, 3)),
        answers=data.draw(st.sampled_from((0, 5, 40))),
        targets=tuple(
            target(site, data.draw(st.integers(0, 60)), data.draw(st.sampled_from((1, 15, 200))))
            for site in data.draw(st.sets(st.sampled_from((*sites, "moon")))) or ()
        ),
        may_grow=data.draw(st.booleans()),
        may_shrink=data.draw(st.booleans()),
    )
    prices = {name: data.draw(st.sampled_from((0, 10_000, 10**9))) for name in ("srv", "box-n", "box-s")}
    plan = planned(world(one, data.draw(st.sampled_from((5, 60))), prices, waiting=data.draw(st.integers(0, 2))))
    if placed and one.demand.latency:
        assert {each.site for each in plan.services[0].weights} == {each.site for each in one.demand.latency} or (
            len(plan.services[0].moves) + len(plan.services[0].removes) == len(placed)
        )


# --- the master ------------------------------------------------------------------------------------------------------


class Town:
    """A hub and a box in each town; what the towns measure of their ways."""

    def __init__(self, **config: Any) -> None:
        self.world = World(MasterConfig(round_every_us=0, **config), policy=Flow())
        self.agents = {
            name: self.world.agent(name, site=site, total=resources(4 if name == "srv" else 1))
            for name, site in (("srv", "hub"), ("box-n", "north"), ("box-s", "south"))
        }
        self.measure(south_ms=60)
        spec = group(
            "task",
            count=4,
            service=True,
            replicas=Replicas(least=1, most=4, answers_per_second=40),
            latency=tuple(target(town) for town in TOWNS),
            run_us=86_400 * SECOND,
        )
        self.answer = self.world.ask(SubmitJob(job=job("web", spec), submission_id="1"))
        self.beat(3)

    def measure(self, south_ms: int) -> None:
        for name, rtt_ms in (("box-n", 12), ("box-s", south_ms)):
            for _ in range(6):
                echo = LinkSample(from_agent=name, to_agent="srv", method="echo", rtt_us=rtt_ms * 1000)
                self.agents[name].say(NetReport, samples=(echo,))
        far = LinkSample(from_agent="box-n", to_agent="box-s", method="echo", rtt_us=90_000)
        self.agents["box-n"].say(NetReport, samples=(far,))

    def beat(self, seconds: int) -> None:
        self.world.advance(seconds * SECOND)
        self.world.solve()

    @property
    def view(self) -> ServiceView:
        return service_view(self.world.master.core, self.world.master.core.tasks.services["web/task"])

    def on(self) -> list[str]:
        tasks = self.world.master.core.tasks.tasks.values()
        return sorted(task.agent_id for task in tasks if task.state is TaskState.RUNNING)


def test_the_master_adds_a_replica_weighs_it_and_removes_it_when_it_is_not_needed() -> None:
    told = Town()
    assert told.on() == ["box-s", "srv"]
    assert (told.view.n_ready, told.view.n_spare, told.view.missed_ppm) == (2, 2, 0)
    assert {client.site: [share.agent_id for share in client.shares] for client in told.view.clients} == {
        "north": ["srv"], "south": ["box-s"],
    }  # fmt: skip
    facts = [fact for fact in told.world.facts if isinstance(fact, ServiceBalanced)]
    assert facts[-1].missed_ppm == 0 and len(facts) <= 3
    n_facts = len(facts)
    told.beat(40)
    assert len([f for f in told.world.facts if isinstance(f, ServiceBalanced)]) == n_facts, "nothing changed"
    told.measure(south_ms=15)
    told.beat(10)
    assert told.on() == ["box-s", "srv"], "held for a minute"
    told.beat(60)
    assert told.on() == ["srv"]
    stopped = [f for f in told.world.facts if isinstance(f, TaskStateChanged) and f.reason == "scaled"]
    assert [f.state for f in stopped][-2:] == ["killing", "waiting"]
    assert told.world.replayed() == told.world.master.durable()


def test_more_requests_than_one_answers_bring_a_replica_and_no_stranger_may_ask() -> None:
    told = Town()
    answer = told.world.ask(SetServiceDemand(service_id="web/task", requests_per_second={"north": 70}))
    assert isinstance(answer, ServiceView) and answer.clients[0].requests_per_second == 70
    told.beat(10)
    assert told.view.n_ready == 3 and told.view.missed_ppm == 0
    shares = next(client.shares for client in told.view.clients if client.site == "north")
    assert sum(share.share_ppm for share in shares) == 1_000_000 and len(shares) == 2
    for service_id, asked in (("web/task", {"moon": 1}), ("web/none", {"north": 1})):
        answer = told.world.ask(SetServiceDemand(service_id=service_id, requests_per_second=asked))
        assert isinstance(answer, Problem) and answer.status in (404, 422)
    told.world.crash()
    for fake in told.agents.values():
        fake.connect()
        fake.offer()
    assert told.view.clients[0].requests_per_second == 70, "what was told outlives the master"
    assert told.view.clients[0].shares, "and so do the weights"


def test_a_replica_whose_agent_is_gone_gets_no_requests() -> None:
    told = Town()
    told.agents["box-s"].deaf = True
    told.agents["box-s"].die()
    told.beat(1)
    clients = {client.site: [share.agent_id for share in client.shares] for client in told.view.clients}
    assert clients["south"] == ["srv"]


def test_without_a_budget_of_moves_the_least_runs() -> None:
    told = Town(moves_per_minute_max=0)
    told.beat(60)
    assert len(told.on()) == 1 and told.view.n_spare == 3


def test_a_spare_replica_says_why_and_ends_with_its_job() -> None:
    from federation import views

    told = Town()
    why = views.why(told.world.master, "web/task/3", told.world.now_us)
    assert why is not None and [each.reason for each in why.blockers] == [Reason.SPARE]
    assert why.hints == ("2 of at most 4 replicas hold the targets of task as well as one more would",)
    told.world.ask(CancelJob(job_id="web"))
    told.beat(5)
    assert told.world.master.core.tasks.jobs["web"].state == "cancelled"
    assert not told.world.master.core.tasks.services


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"latency": ()}, "bad_replicas"),
        ({"service": False}, "bad_replicas"),
        ({"gang": True}, "bad_replicas"),
        ({"count": 2}, "bad_replicas"),
        ({"replicas": Replicas(least=3, most=1)}, "bad_replicas"),
        ({"latency": (target("north"), target("north"))}, "bad_replicas"),
    ],
)
def test_replicas_that_make_no_sense_are_refused(change: dict[str, Any], code: str) -> None:
    fields = {"count": 1, "service": True, "replicas": Replicas(), "latency": (target("north"),), **change}
    answer = World().ask(SubmitJob(job=job("web", group("task", **fields)), submission_id="1"))
    assert isinstance(answer, Problem) and answer.code == code


def test_turning_back_soon_doubles_the_hold() -> None:
    book, hold_us = ServicesBook(), 60 * SECOND
    assert not book.may_shrink("a", 0, hold_us)
    assert book.may_shrink("a", hold_us, hold_us)
    book.changed("a", hold_us, hold_us, grew=False)
    book.changed("a", 2 * hold_us, hold_us, grew=True)
    assert not book.may_shrink("a", 3 * hold_us, hold_us)
    assert book.may_shrink("a", 4 * hold_us, hold_us)
    book.changed("a", 100 * hold_us, hold_us, grew=False)
    assert book.changes["a"].hold_us == hold_us, "a quiet time ends it"
    book.keep_only(set())
    assert not book.changes


# --- files, commands, clients ----------------------------------------------------------------------------------------

FILE = """\
job: web
tasks:
  front:
    service: {replicas: {min: 2, max: 5}, answers: 40}
    latency: [{to: north, rtt: 25ms, weight: 12}]
    command: [serve]
"""


def test_the_job_file_says_how_many_there_may_be(tmp_path: Path) -> None:
    spec = load_job(_file(tmp_path, FILE)).job.tasks[0]
    assert spec.replicas == Replicas(least=2, most=5, answers_per_second=40)
    assert spec.service and spec.count == 5
    for old, new, message in (
        ("min: 2, max: 5", "min: 6, max: 5", "at most 5 replicas are fewer than at least 6"),
        ("    latency: [{to: north, rtt: 25ms, weight: 12}]\n", "", "say where they are, with latency"),
        ("    command", "    count: 3\n    command", '"count" does not go with service'),
    ):
        with pytest.raises(ConfigError, match=message):
            load_job(_file(tmp_path, FILE.replace(old, new)))


def _file(folder: Path, text: str) -> Path:
    path = folder / "web.yaml"
    path.write_text(text)
    return path


def test_people_see_and_tell_who_answers_whom(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        env = {"OFFERFLOW_URL": served.url}
        assert offerflow("job", "submit", str(_file(tmp_path, FILE)), env=env).code == 0
        for command in (("net", "services"), ("job", "show", "web")):
            shown = offerflow(*command, env=env)
            assert shown.code == 0 and "nobody" in shown.out and "12/s" in shown.out, shown
        told = offerflow("job", "demand", "web/front", "north=30", env=env)
        assert told.code == 0 and "30/s" in told.out
        for words, code in (("north=none", 2), ("moon=3", 4)):
            assert offerflow("job", "demand", "web/front", words, env=env).code == code


SCENE = """
schema: offerflow/scenario/v1
name: scene
purpose: a far town, and a crowd in the near one
seed: 1
duration: 4m
topology:
  master: hub
  sites:
    hub: {tier: cloud, agents: {srv: {cpu: 8, memory: 16GiB}}}
    north: {tier: edge, agents: {box-n: {cpu: 1, memory: 1GiB}}}
    south: {tier: edge, agents: {box-s: {cpu: 1, memory: 1GiB}}}
  links:
    - {between: [north, hub], rtt: 12ms, bandwidth: 100Mbit}
    - {between: [south, hub], rtt: 60ms, bandwidth: 100Mbit}
    - {between: [north, south], rtt: 90ms, bandwidth: 100Mbit}
workload:
  services:
    web:
      replicas: {min: 1, max: 4}
      answers: 20
      from: 30s
      to: 210s
      clients: [{to: north, rtt: 25ms, weight: 10}, {to: south, rtt: 25ms, weight: 10}]
      demand: [{at: 2m, site: north, requests: 35}]
      task: {cpu: 1, memory: 256MiB}
"""


def test_simulated_clients_follow_the_weights(tmp_path: Path) -> None:
    missed: dict[str, float] = {}
    for name, text in (("adaptive", SCENE), ("fixed", SCENE + "model: {moves: 0}\n")):
        outcome = play(load_world(written(tmp_path, text)), registry.load("flow"), "flow")
        assert outcome.broken_laws == ()
        metrics = Metrics(Records(outcome))
        missed[name] = metrics.value(Metric(measure="request_miss", scope="web")) or 0.0
        replicas = metrics.value(Metric(measure="replicas", scope="web"))
        assert replicas is not None and (2 < replicas < 3 if name == "adaptive" else replicas < 1.1)
    assert missed["adaptive"] < 0.03 < 0.5 < missed["fixed"]

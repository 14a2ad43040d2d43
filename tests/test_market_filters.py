"""What a framework says it can use of offers at all: least amounts, regions, patterns; over HTTP as in values."""

from typing import Any

import pytest

from federation.api import Problem, SetRole
from federation.client import Framework
from federation.config import MasterConfig
from federation.http.mesos.peer import encode_call
from federation.market import protocol as p
from policies.flow import Flow
from policies.model import Amount
from tests.market_world import MarketWorld, cpus
from tests.master_world import GIB, SECOND, resources
from tests.mesos_market import join, market, scalars

QUARTER = p.LeastOffer(cpu_milli=1000, memory_bytes=GIB)


def world(**config: Any) -> MarketWorld:
    return MarketWorld(MasterConfig(**{"round_every_us": 0, "allocate_every_us": 0, **config}))


def quantities(*amounts: dict[str, float]) -> dict[str, Any]:
    """`min_allocatable_resources` for the role `ml`."""
    each = [{"quantities": {name: {"value": value} for name, value in amount.items()}} for amount in amounts]
    return {"ml": {"min_allocatable_resources": {"quantities": each}}}


def test_a_framework_is_offered_nothing_below_what_it_can_use_and_others_are() -> None:
    w = world()
    w.agent("gw-1", total=resources(cpu=8, memory=8))
    w.agent("gw-2", total=resources(cpu=2, memory=8))
    large = (p.LeastOffer(cpu_milli=4000, memory_bytes=4 * GIB), p.LeastOffer(memory_bytes=64 * GIB))
    trainer = w.client("trainer", roles=("ml",), least_offers={"ml": large})
    assert [offer.agent_id for offer in trainer.offers.values()] == ["gw-1"]
    assert [offer.agent_id for offer in w.client("web").offers.values()] == ["gw-2"]


def test_what_a_quota_leaves_must_suffice_too() -> None:
    w = world()
    w.ask(SetRole(path="ml", quota=Amount(cpu_milli=500)))
    w.agent()
    client = w.client(roles=("ml",), least_offers={"ml": (QUARTER,)})
    assert not client.offers
    w.ask(SetRole(path="ml", quota=Amount(cpu_milli=1500)))
    w.advance(SECOND)
    assert cpus(client.offer()) == 1500


def test_less_than_the_masters_own_bound_is_offered_to_who_can_use_it() -> None:
    w = world(offer_cpu_milli_min=8000, offer_memory_bytes_min=64 * GIB)
    w.agent("gw-1", total=resources(cpu=4, memory=8))
    assert not w.client("other").offers
    anything = w.client("any", roles=("ml",), least_offers={"ml": (p.LeastOffer(),)})
    assert cpus(anything.offer()) == 4000


def test_what_was_too_little_for_all_is_remembered_for_who_comes() -> None:
    w = world(offer_cpu_milli_min=8000, offer_memory_bytes_min=64 * GIB)
    other = w.client("other")
    w.agent("gw-1", total=resources(cpu=4, memory=8))
    w.agent("gw-2", total=resources(cpu=8, memory=8))
    assert [offer.agent_id for offer in other.offers.values()] == ["gw-2"]
    w.master.core.market.mark("gw-1")
    other.call(p.Decline(offer_ids=tuple(other.offers), refuse_us=60_000_000))  # A cycle over both.
    anything = w.client("any", roles=("ml",), least_offers={"ml": (p.LeastOffer(),)})
    assert sorted(offer.agent_id for offer in anything.offers.values()) == ["gw-1", "gw-2"]


def test_gpus_are_least_amounts_too() -> None:
    w = world()
    w.agent("gw-1", total=resources(cpu=8, memory=16, gpus=("g1",)))
    w.agent("gw-2", total=resources(cpu=8, memory=16, gpus=("h1", "h2")))
    pair = {"ml": (p.LeastOffer(gpus=2),)}
    client = w.client(roles=("ml",), capabilities=("GPU_RESOURCES",), least_offers=pair)
    assert [offer.agent_id for offer in client.offers.values()] == ["gw-2"]


def test_filters_of_roles_it_has_not_are_refused() -> None:
    w = world()
    client = w.client(roles=("ml",))
    info = p.FrameworkInfo(name="spark", roles=("ml",), least_offers={"web": (QUARTER,)})
    answer = client.call(p.UpdateFramework(framework=info))
    assert isinstance(answer, Problem) and answer.status == 400


def test_offers_of_other_regions_go_only_to_who_is_prepared_for_them() -> None:
    w = MarketWorld(MasterConfig(round_every_us=0, allocate_every_us=0, region='eu "1"'), policy=Flow())
    w.agent("gw-1", region='eu "1"')
    w.agent("gw-2", region="us")
    w.agent("gw-3")
    plain = w.client("plain")
    assert sorted(offer.agent_id for offer in plain.offers.values()) == ["gw-1", "gw-3"], "without a region it is here"
    plain.call(p.Suppress())
    plain.call(p.Request(wants=(p.WantedOffer(request_id="r", count=3, cpu_milli=3000, memory_bytes=GIB),)))
    w.solve()
    assert all(offer.agent_id != "gw-2" for offer in plain.offers.values())
    aware = w.client("aware", roles=("ml",), capabilities=("REGION_AWARE",))
    assert [offer.agent_id for offer in aware.offers.values()] == ["gw-2"]


async def test_filters_and_patterns_of_mesos_choose_and_are_changed() -> None:
    async with market() as (w, port):
        w.agent("rack-1-a", total=resources(cpu=2, memory=4))
        w.agent("rack-2-a", total=resources(cpu=8, memory=16))
        w.agent("gw-3", total=resources(cpu=8, memory=16))
        client = await join(w, port, role="ml", offer_filters=quantities({"cpus": 4, "mem": 1024}, {"gpus": 1}))
        offers = (await client.until("OFFERS"))["offers"]["offers"]
        assert sorted(offer["agent_id"]["value"] for offer in offers) == ["gw-3", "rack-2-a"]
        predicate = {"text_matches": {"regex": "rack-[0-9]+-."}}
        group = {"attribute_constraints": [{"selector": {"pseudoattribute_type": "HOSTNAME"}, "predicate": predicate}]}
        info = {"user": "me", "name": "mesos", "role": "ml", "offer_filters": quantities()}
        body = {"framework_info": info, "offer_constraints": {"role_constraints": {"ml": {"groups": [group]}}}}
        assert await client.call("DECLINE", {"offer_ids": [offer["id"] for offer in offers]}) == 202
        assert await client.call("UPDATE_FRAMEWORK", body) == 200
        assert await client.call("REVIVE") == 202
        offers = (await client.until("OFFERS"))["offers"]["offers"]
        while len(offers) < 2:
            offers += (await client.until("OFFERS"))["offers"]["offers"]
        assert sorted(offer["agent_id"]["value"] for offer in offers) == ["rack-1-a", "rack-2-a"]
        predicate["text_matches"]["regex"] = "(a*)*b)"
        assert await client.call("UPDATE_FRAMEWORK", body) == 400
        predicate["text_matches"]["regex"] = "(a*)*b"
        assert await client.call("UPDATE_FRAMEWORK", body) == 200


@pytest.mark.parametrize(
    "filters",
    [
        quantities({"ports": 1}), quantities({"cpus": -1}), {"web": {"min_allocatable_resources": {}}},
        {"ml": {"min_allocatable_resources": {"quantities": [{"quantities": {"cpus": 4}}]}}},
    ],
    ids=["a resource that is never offered", "below zero", "another's role", "no scalar"],
)  # fmt: skip
async def test_filters_that_cannot_hold_are_refused(filters: dict[str, Any]) -> None:
    async with market() as (w, port):
        w.agent()
        client = await join(w, port, role="ml")
        info = {"user": "me", "name": "mesos", "role": "ml", "offer_filters": filters}
        assert await client.call("UPDATE_FRAMEWORK", {"framework_info": info}) == 400
        assert (await client.offer())["agent_id"] == {"value": "gw-1"}


def test_the_sdk_says_what_suffices() -> None:
    framework = Framework("http://nowhere", "n", ("ml",), least_offers={"ml": (QUARTER,)})
    said = encode_call(p.Subscribe(framework=framework.info))["subscribe"]["framework_info"]["offer_filters"]
    assert said == quantities({"cpus": 1, "mem": 1024})


async def test_what_a_reservation_made_is_told_with_its_end() -> None:
    async with market() as (w, port):
        w.agent()
        client = await join(w, port, role="ml")
        reserved = scalars(2, 128, reservations=[{"type": "DYNAMIC", "role": "ml"}])
        both = [
            {"type": "RESERVE", "id": {"value": "r"}, "reserve": {"resources": reserved}},
            {"type": "UNRESERVE", "id": {"value": "u"}, "unreserve": {"resources": reserved[:1]}},
        ]
        await client.accept(await client.offer(), *both)
        made = (await client.until("UPDATE_OPERATION_STATUS"))["update_operation_status"]["status"]
        assert made["operation_id"] == {"value": "r"} and made["converted_resources"] == reserved
        freed = (await client.until("UPDATE_OPERATION_STATUS"))["update_operation_status"]["status"]
        assert freed["converted_resources"] == [{"role": "*"} | scalars(2)[0]]


async def test_a_reservation_is_not_refined() -> None:
    async with market() as (w, port):
        w.agent()
        client = await join(w, port, role="ml")
        twice = [{"type": "STATIC", "role": "ml"}, {"type": "DYNAMIC", "role": "ml"}]
        refine = {"type": "RESERVE", "id": {"value": "r"}, "reserve": {"resources": scalars(reservations=twice)}}
        await client.accept(await client.offer(), refine)
        assert await client.operation("r") == "OPERATION_ERROR"
        assert not w.master.core.agents["gw-1"].holdings.pools

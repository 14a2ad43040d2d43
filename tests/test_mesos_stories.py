"""The rules of the market through the scheduler endpoint: the real core behind real sockets, time as the test says."""

import asyncio

import pytest

from federation.api import SetAgentMode, SetRole, SubmitJob
from federation.wire import CommandBatch, HeldShard, Kill, LinkSample, NetReport
from policies.model import Amount
from tests.master_world import GIB, SECOND, group, job, resources, sha
from tests.mesos_market import ACKNOWLEDGEMENTS, BODIES, UUID, Client, id_of, join, launch, market, scalars, task
from tests.mesos_world import Wire, subscribe

# --- the life of a task ----------------------------------------------------------------------------------------------


async def test_a_task_from_offer_to_acknowledged_end() -> None:
    async with market() as (world, port):
        agent = world.agent()
        client = await join(world, port)
        await client.accept(await client.offer(), launch(task("t1")))
        await client.status("t1", "TASK_RUNNING")
        agent.end("@" + client.framework_id + "/t1")
        assert (await client.status("t1", "TASK_FINISHED"))["source"] == "SOURCE_EXECUTOR"
        assert await client.call("RECONCILE", {"tasks": [{"task_id": id_of("t1"), "agent_id": id_of("gw-1")}]}) == 202
        assert (await client.status("t1", "TASK_GONE"))["reason"] == "REASON_RECONCILIATION"


async def test_what_cannot_be_served_is_an_error_of_its_own_and_the_rest_runs() -> None:
    async with market() as (world, port):
        world.agent()
        client = await join(world, port)
        docker = task("docker", container={"type": "DOCKER", "docker": {"image": "busybox"}})
        elsewhere = task("elsewhere") | {"agent_id": id_of("gw-9")}
        grow = {"type": "GROW_VOLUME", "id": id_of("grow"), "grow_volume": {}}
        await client.accept(await client.offer(), launch(docker, task("plain"), elsewhere), grow)
        refused = await client.status("docker", "TASK_ERROR")
        assert refused["reason"] == "REASON_TASK_INVALID" and "no containers" in refused["message"]
        assert "uuid" not in refused
        assert "is for gw-9" in (await client.status("elsewhere", "TASK_ERROR"))["message"]
        assert await client.operation("grow") == "OPERATION_ERROR"
        await client.status("plain", "TASK_RUNNING")


async def test_a_kill_may_bring_its_own_grace_and_a_second_one_a_shorter() -> None:
    async with market() as (world, port):
        agent = world.agent()
        client = await join(world, port)
        policy = {"grace_period": {"nanoseconds": 60_000_000_000}}
        await client.accept(await client.offer(), launch(task("t", kill_policy=policy)))
        await client.status("t", "TASK_RUNNING")
        agent.deaf = True  # It takes its time.
        assert await client.call("KILL", {"task_id": id_of("t")}) == 202
        at_once = {"task_id": id_of("t"), "kill_policy": {"grace_period": {"nanoseconds": 0}}}
        assert await client.call("KILL", at_once) == 202
        batches = [message for message in agent.heard if isinstance(message, CommandBatch)]
        kills = [command for batch in batches for command in batch.commands if isinstance(command, Kill)]
        assert [kill.grace_us for kill in kills] == [None, 0], "the launch's, then its own"


async def test_shutdown_ends_an_executors_tasks_and_a_message_is_taken() -> None:
    async with market() as (world, port):
        world.agent()
        client = await join(world, port)
        executor = {"type": "DEFAULT", "executor_id": id_of("e1")}
        await client.accept(await client.offer(), launch(task("in", executor=executor), task("out")))
        await client.status("in", "TASK_RUNNING")
        message = {"agent_id": id_of("gw-1"), "executor_id": id_of("e1"), "data": UUID}
        assert await client.call("MESSAGE", message) == 202
        assert await client.call("SHUTDOWN", {"executor_id": id_of("e1"), "agent_id": id_of("gw-1")}) == 202
        await client.status("in", "TASK_KILLED")
        core = world.master.core
        assert core.market.frameworks[client.framework_id].tasks["out"].is_open
        assert core.counters["executor_messages_dropped"] == 1


async def test_a_launch_group_is_all_or_none() -> None:
    async with market() as (world, port):
        world.agent()
        client = await join(world, port)
        executor = {"type": "DEFAULT", "executor_id": id_of("e")}
        tasks = [task("big", scalars(9)), task("small")]
        together = {"type": "LAUNCH_GROUP", "launch_group": {"executor": executor, "task_group": {"tasks": tasks}}}
        await client.accept(await client.offer(), together)
        assert (await client.status("small", "TASK_ERROR"))["reason"] == "REASON_TASK_GROUP_INVALID"
        tasks[0] = task("big", scalars(2))
        await client.accept(await client.offer(), together)
        await client.status("small", "TASK_RUNNING")
        assert await client.call("KILL", {"task_id": id_of("big")}) == 202
        await client.status("small", "TASK_KILLED")


# --- operations ------------------------------------------------------------------------------------------------------


async def test_reserve_launch_and_unreserve() -> None:
    async with market() as (world, port):
        agent = world.agent()
        client = await join(world, port, role="ml", principal="me")
        reservation = {
            "type": "DYNAMIC", "role": "ml", "principal": "me", "labels": {"labels": [{"key": "for", "value": "x"}]},
        }  # fmt: skip
        reserved = scalars(2, 128, reservations=[reservation])
        reserve = {"type": "RESERVE", "id": id_of("r1"), "reserve": {"resources": reserved}}
        await client.accept(
            await client.offer(), reserve, launch(task("t1", scalars(2, 64, reservations=[reservation])))
        )
        assert await client.operation("r1") == "OPERATION_FINISHED"
        await client.status("t1", "TASK_RUNNING")
        agent.end(f"@{client.framework_id}/t1")
        offers = [(await client.offer())]
        await client.status("t1", "TASK_FINISHED")
        while not any(r.get("reservations") for offer in offers for r in offer["resources"] if r["name"] == "cpus"):
            offers.append(await client.offer())
        mine = [r for r in offers[-1]["resources"] if r.get("reservations")]
        assert {r["name"]: r["scalar"]["value"] for r in mine}["cpus"] == 2
        assert mine[0]["reservations"] == [reservation]
        unreserve = {"type": "UNRESERVE", "id": id_of("u1"), "unreserve": {"resources": reserved}}
        await client.accept_all(offers, unreserve)  # What t1 left of the reservation was offered before its end.
        assert await client.operation("u1") == "OPERATION_FINISHED"
        assert not world.master.core.agents["gw-1"].holdings.pools
        assert await client.call("RECONCILE_OPERATIONS", {"operations": [{"operation_id": id_of("u1")}]}) == 202
        assert await client.operation("u1") == "OPERATION_UNKNOWN", "acknowledged is forgotten"


async def test_create_and_destroy_replicas_of_shards() -> None:
    async with market() as (world, port):
        holder, other = world.agent("gw-2"), world.agent("gw-1")
        shard = HeldShard(shard_id=sha(7), size_bytes=100, name="s")
        holder.shards[shard.shard_id] = shard
        holder.queue_shard(shard, "held")
        holder.flush()
        client = await join(world, port)
        offers = (await client.until("OFFERS"))["offers"]["offers"]
        offer = next(each for each in offers if each["agent_id"] == id_of("gw-1"))
        persistence = {"disk": {"persistence": {"id": shard.shard_id}}}
        volume = {"name": "disk", "type": "SCALAR", "scalar": {"value": 0}} | persistence
        create = {"type": "CREATE", "id": id_of("c1"), "create": {"volumes": [volume]}}
        await client.accept(offer, create)
        if shard.shard_id not in other.shards:
            other.shards[shard.shard_id] = shard
            other.queue_shard(shard, "held")
            other.flush()
        assert await client.operation("c1") == "OPERATION_FINISHED"
        destroy = {"type": "DESTROY", "id": id_of("d1"), "destroy": {"volumes": [volume]}}
        await client.accept(await client.offer(), destroy)
        assert await client.operation("d1") in ("OPERATION_FINISHED", "OPERATION_FAILED")


# --- who is offered what ---------------------------------------------------------------------------------------------


async def test_a_request_shapes_the_offers() -> None:
    async with market() as (world, port):
        client = await join(world, port)
        requests = [{"resources": scalars(2, 512), "offerflow": {"request_id": "r1", "count": 2, "gang": True}}]
        assert await client.call("REQUEST", {"requests": requests}) == 202
        for agent_id in ("gw-1", "gw-2"):
            world.agent(agent_id)
        world.advance(SECOND)
        offers = (await client.until("OFFERS"))["offers"]["offers"]
        assert [offer["offerflow"]["request_id"] for offer in offers] == ["r1"] * len(offers)
        cpus = [r["scalar"]["value"] for offer in offers for r in offer["resources"] if r["name"] == "cpus"]
        assert sum(cpus) == 4
        bad = [{"resources": scalars(1, 1), "offerflow": {"constraints": ["link.rtt_us < 5"]}}]
        assert await client.call("REQUEST", {"requests": bad}) == 400


async def test_gpu_nodes_go_only_to_who_wants_gpus() -> None:
    async with market() as (world, port):
        world.agent("vm-1", total=resources(gpus=["a", "b"]))
        plain = await join(world, port, "plain")
        world.agent("gw-1")
        assert (await plain.offer())["agent_id"] == id_of("gw-1")
        gpus = await join(world, port, "gpus", capabilities=[{"type": "GPU_RESOURCES"}])
        offer = await gpus.offer()
        assert offer["agent_id"] == id_of("vm-1")
        assert next(r["scalar"]["value"] for r in offer["resources"] if r["name"] == "gpus") == 2


async def test_a_hoarders_offers_time_out_and_others_get_them() -> None:
    async with market(lease_us=30 * SECOND) as (world, port):
        world.agent()
        hoarder, other = await join(world, port, "hoarder"), await join(world, port, "other")
        offer = await hoarder.offer()
        world.advance(31 * SECOND)
        rescinded = await hoarder.until("RESCIND")
        assert rescinded["rescind"]["offer_id"] == offer["id"]
        assert (await other.offer())["agent_id"] == id_of("gw-1")
        await hoarder.accept(offer, launch(task("late")))
        assert (await hoarder.status("late", "TASK_DROPPED"))["reason"] == "REASON_INVALID_OFFERS"


async def test_a_framework_is_updated_and_a_quota_rescinds() -> None:
    async with market() as (world, port):
        world.agent()
        capabilities = [{"type": "MULTI_ROLE"}]
        client = await join(world, port, roles=["a"], capabilities=capabilities)
        assert (await client.offer())["allocation_info"] == {"role": "a"}
        info = {"user": "me", "name": "mesos", "roles": ["b"], "capabilities": capabilities}
        assert await client.call("UPDATE_FRAMEWORK", {"framework_info": info}) == 200
        await client.until("RESCIND")
        assert (await client.offer())["allocation_info"] == {"role": "b"}
        world.ask(SetRole(path="b", quota=Amount(cpu_milli=1000)))
        await client.until("RESCIND")
        offer = await client.offer()
        assert next(r["scalar"]["value"] for r in offer["resources"] if r["name"] == "cpus") == 1
        assert await client.call("UPDATE_FRAMEWORK", {"framework_info": info | {"roles": []}}) == 400
        assert await client.call("UPDATE_FRAMEWORK", {"framework_info": info | {"user": "root"}}) == 400
        assert await client.call("UPDATE_FRAMEWORK", {"framework_info": info | {"checkpoint": True}}) == 400


# --- asked back ------------------------------------------------------------------------------------------------------


async def test_a_drain_asks_back_and_its_end_takes_the_question_back() -> None:
    async with market(inverse_offer_us=60 * SECOND) as (world, port):
        world.agent()
        client = await join(world, port)
        await client.accept(await client.offer(), launch(task("t1")))
        await client.status("t1", "TASK_RUNNING")
        world.ask(SetAgentMode(agent_id="gw-1", mode="draining"))
        (asked,) = (await client.until("INVERSE_OFFERS"))["inverse_offers"]["inverse_offers"]
        assert asked["agent_id"] == id_of("gw-1") and asked["unavailability"]["start"]["nanoseconds"] > 0
        assert asked["offerflow"]["reason"] == "drain"
        answer = {"inverse_offer_ids": [asked["id"]], "filters": {"refuse_seconds": 10}}
        assert await client.call("DECLINE_INVERSE_OFFERS", answer) == 202
        world.advance(11 * SECOND)
        (again,) = (await client.until("INVERSE_OFFERS"))["inverse_offers"]["inverse_offers"]
        assert again["id"] != asked["id"], "declined is asked again"
        assert await client.call("ACCEPT_INVERSE_OFFERS", {"inverse_offer_ids": [again["id"]]}) == 202
        world.ask(SetAgentMode(agent_id="gw-1", mode="active"))
        back = await client.until("RESCIND_INVERSE_OFFER")
        assert back["rescind_inverse_offer"]["inverse_offer_id"] == again["id"]


async def test_a_congested_link_asks_back_what_runs_at_its_end() -> None:
    async with market(congestion_us=60 * SECOND, inverse_offer_us=10 * SECOND, lease_us=3600 * SECOND) as (world, port):
        holder, busy = world.agent("gw-2"), world.agent("gw-1")
        shard = HeldShard(shard_id=sha(7), size_bytes=10 * GIB, name="s")
        holder.shards[shard.shard_id] = shard
        holder.queue_shard(shard, "held")
        holder.flush()
        slow = LinkSample(
            from_agent="gw-2", to_agent="gw-1", method="transfer", bandwidth_bps=8_000_000, bytes=2**24,
            duration_us=16 * SECOND,
        )  # fmt: skip
        busy.say(NetReport, samples=(slow,))
        client = await join(world, port)
        offers = (await client.until("OFFERS"))["offers"]["offers"]
        busy.deaf = True  # What it is to fetch stays under way.
        volume = {"name": "disk", "type": "SCALAR", "scalar": {"value": 0}, "disk": {"persistence": {"id": sha(7)}}}
        create = {"type": "CREATE", "id": id_of("c1"), "create": {"volumes": [volume]}}
        offer = next(each for each in offers if each["agent_id"] == id_of("gw-1"))
        await client.accept(offer, launch(task("t1")), create)
        world.advance(11 * SECOND)
        (asked,) = (await client.until("INVERSE_OFFERS"))["inverse_offers"]["inverse_offers"]
        assert asked["agent_id"] == id_of("gw-1") and asked["offerflow"]["reason"] == "congestion"
        link = asked["offerflow"]["link"]
        assert (link["from_id"], link["to_id"]) == ("site:site-gw-2", "site:site-gw-1")
        assert await client.call("ACCEPT_INVERSE_OFFERS", {"inverse_offer_ids": [asked["id"]]}) == 202


# --- who speaks ------------------------------------------------------------------------------------------------------


async def test_a_framework_fails_over_in_time_and_is_over_when_it_does_not() -> None:
    async with market() as (world, port):
        world.agent()
        client = await join(world, port)
        await client.accept(await client.offer(), launch(task("t1")))
        await client.status("t1", "TASK_RUNNING")
        world._gone(client.framework_id, client.stream.headers["mesos-stream-id"])
        world.advance(59 * SECOND)
        assert await client.call("REVIVE") == 403, "not subscribed"
        again = await join(world, port, id=id_of(client.framework_id))
        assert again.framework_id == client.framework_id
        assert await again.call("RECONCILE", {"tasks": []}) == 202
        await again.status("t1", "TASK_RUNNING")
        world._gone(again.framework_id, again.stream.headers["mesos-stream-id"])
        world.advance(61 * SECOND)
        wire = await Wire.open(port)
        await wire.send(subscribe(id=id_of(client.framework_id)))
        assert await wire.head() == 403 and b"removed" in await wire.body()
        assert not world.agents["gw-1"].running


async def test_calls_beyond_the_rate_wait_and_beyond_the_queue_are_refused() -> None:
    async with market(calls_per_s=2, calls_waiting_max=1) as (world, port):
        client = await join(world, port)
        assert await client.call("SUPPRESS") == 202
        waiting = asyncio.create_task(client.call("REVIVE"))
        other = Client(world, port, client.stream, await Wire.open(port), client.framework_id)
        async with asyncio.timeout(10):
            while not world._waiting:  # noqa: ASYNC110 - the call is on its way through a socket
                await asyncio.sleep(0.01)
        assert await other.call("REVIVE") == 429
        world.advance(SECOND)
        assert await waiting == 202


async def test_a_pending_job_and_a_framework_share_the_agent() -> None:
    async with market() as (world, port):
        world.agent()
        client = await join(world, port, role="ml")
        await client.offer()
        world.ask(SubmitJob(job=job("web", group(count=4), role="web")))
        world.advance(SECOND)
        assert not world.agents["gw-1"].running, "offered is not placed"
        assert await client.call("SUPPRESS") == 202
        world.advance(31 * SECOND)
        assert len(world.agents["gw-1"].running) == 4


# --- bad input, call by call -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(BODIES))
async def test_every_call_survives_bad_input(kind: str) -> None:
    """Malformed, truncated, oversized, out of order, from another's stream, for another's offer or task."""
    body = BODIES[kind]
    taken = 200 if kind == "UPDATE_FRAMEWORK" else 202
    async with market() as (world, port):
        world.agent()
        owner, client = await join(world, port, "owner"), await join(world, port, "other")
        offer = await owner.offer()
        await owner.accept(offer, launch(task("t")))
        await owner.status("t", "TASK_RUNNING")
        before = world.master.core.market.frameworks[owner.framework_id]
        # What is another's is not there: the call is taken and touches nothing of the owner.
        assert await client.call(kind, body) == taken
        assert before.tasks["t"].is_open and before.stream_id
        other_stream = owner.stream.headers["mesos-stream-id"]
        wrong = 202 if kind in ACKNOWLEDGEMENTS else 400
        assert await client.call(kind, body, Mesos_Stream_Id=other_stream) == wrong, "another's stream"
        assert await client.call(kind, body, Mesos_Stream_Id="") == 400
        assert await client.call(kind, 7) == 400 and await client.call(kind, [7]) == 400
        for field in body:
            assert await client.call(kind, body | {field: {"value": [{}]}}) == 400, f"malformed {field}"
        huge = {"framework_id": id_of(client.framework_id), "type": kind, kind.lower(): body, "pad": "x" * 5_000_000}
        calls, client.calls = client.calls, await Wire.open(port)
        assert (await client.calls.ask(huge, Mesos_Stream_Id="s"))[0] == 413
        client.calls = calls
        torn = await Wire.open(port)
        await torn.send(b'{"type": "%s", ' % kind.encode(), Mesos_Stream_Id="s", Content_Length="900")
        torn.writer.write_eof()
        assert await torn.reader.read() is not None
        assert await client.call("TEARDOWN") == 202
        late = 202 if kind in ACKNOWLEDGEMENTS else 403
        assert await client.call(kind, body) == late, "after its end"
        assert before.tasks["t"].is_open and GIB

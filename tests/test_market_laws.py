"""L4 to L7 under random histories of frameworks, agents, jobs and crashes."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from federation.api import SetAgentMode, SetRole, SubmitJob
from federation.config import MasterConfig, ReservationConfig
from federation.market import protocol as p
from federation.master import Master
from federation.offers import find_unused, free_of, unused_of
from policies.model import Amount
from policies.resources import kinds
from tests.market_world import Client, MarketWorld, claim, spec
from tests.master_world import GIB, SECOND, group, job, resources

AGENTS = ("gw-1", "gw-2", "vm-1")
picks = st.integers(0, 10**6)


class MarketLaws(RuleBasedStateMachine):
    @initialize(solve=st.booleans(), is_static=st.booleans())
    def begin(self, solve: bool, is_static: bool) -> None:
        reservations = (ReservationConfig(agents="gw-*", role="ml", cpu_milli=1000, memory_bytes=GIB),)
        self.world = MarketWorld(
            MasterConfig(
                round_every_us=0, allocate_every_us=0, ended_jobs_max=5, starve_after_us=10 * SECOND,
                hold_us=15 * SECOND, reservations=reservations if is_static else (),
            ),
            solve=solve,
        )  # fmt: skip
        self.world.ask(SetRole(path="web", quota=Amount(cpu_milli=3000)))
        self.world.ask(SetRole(path="ml", weight=2, guarantee=Amount(cpu_milli=1000)))
        for agent_id in AGENTS:
            self.world.agent(agent_id, total=resources(gpus=["a", "b"] if agent_id == "vm-1" else []))
        self.clients = [
            self.world.client("web", roles=("web",)),
            self.world.client("ml", roles=("ml", "ml/vision"), capabilities=("MULTI_ROLE", "GPU_RESOURCES",
                              "REVOCABLE_RESOURCES", "PARTITION_AWARE")),
            self.world.client("any", capabilities=("GPU_RESOURCES", "REVOCABLE_RESOURCES", "TASK_KILLING_STATE"),
                              failover_timeout_us=5 * SECOND),
        ]  # fmt: skip
        self.names = 0

    def client(self, n: int) -> Client:
        client = self.clients[n % len(self.clients)]
        if client.framework_id not in self.world.master.core.market.frameworks:
            client.framework_id = ""
            client.subscribe()
        elif not self.world.master.core.market.frameworks[client.framework_id].stream_id:
            client.subscribe()
        return client

    # --- frameworks ---

    @rule(
        who=picks,
        which=picks,
        cpu=st.integers(0, 3),
        memory=st.integers(0, 4),
        gpus=st.integers(0, 2),
        count=st.integers(1, 3),
        kind=st.sampled_from(["launch", "group", "reserve", "unreserve"]),
        keep=st.booleans(),
    )
    def accept(self, who: int, which: int, cpu: int, memory: int, gpus: int, count: int, kind: str, keep: bool) -> None:
        client = self.client(who)
        if not client.offers:
            return
        offers = list(client.offers.values())
        offer = offers[which % len(offers)]
        same = [other for other in offers if other.agent_id == offer.agent_id and other.role == offer.role]
        chosen = same if keep else [offer]
        part = offer.portions[which % len(offer.portions)]
        standing: dict[str, Any] = {"reservation": part.reservation, "revocable": part.revocable}
        one = claim(cpu, memory, gpus=gpus, **standing)
        operation: p.Operation
        if kind in ("launch", "group"):
            names = [f"t{self.names + n}" for n in range(count)]
            self.names += count
            specs = tuple(spec(name, claims=(one,)) for name in names)
            operation = p.Launch(tasks=specs) if kind == "launch" else p.LaunchGroup(tasks=specs)
        elif kind == "reserve":
            kept = p.Reservation(role=offer.role, labels=(("n", str(count)),))
            operation = p.Reserve(claims=(claim(cpu, memory, gpus=gpus, reservation=kept),), operation_id=f"op{which}")
        else:
            operation = p.Unreserve(claims=(one,), operation_id=f"op{which}")
        client.accept(*chosen, operations=(operation,), refuse_us=SECOND * (which % 3))

    @rule(who=picks, which=picks, seconds=st.integers(0, 20))
    def decline(self, who: int, which: int, seconds: int) -> None:
        client = self.client(who)
        if client.offers:
            offers = list(client.offers.values())
            client.decline(offers[which % len(offers)], refuse_us=seconds * SECOND)

    @rule(who=picks, cpu=st.integers(1, 4), count=st.integers(0, 4), gang=st.booleans())
    def request(self, who: int, cpu: int, count: int, gang: bool) -> None:
        client = self.client(who)
        want = p.WantedOffer(request_id="r", role=client.info.roles[0], cpu_milli=cpu * 1000, memory_bytes=GIB,
                             count=count, gang=gang)  # fmt: skip
        client.call(p.Request(wants=(want,)))

    @rule(who=picks, what=st.sampled_from(["revive", "suppress", "reconcile", "close", "failover", "teardown", "kill"]))
    def call(self, who: int, what: str) -> None:
        client = self.client(who)
        match what:
            case "revive":
                client.call(p.Revive())
            case "suppress":
                client.call(p.Suppress())
            case "reconcile":
                client.call(p.Reconcile())
            case "close":
                client.close()
            case "failover":
                client.subscribe()
            case "teardown":
                client.call(p.Teardown())
                client.offers.clear()
            case "kill":
                for task_id in list(self.world.master.core.market.frameworks[client.framework_id].tasks):
                    client.call(p.KillTask(task_id=task_id))

    # --- agents, people, time ---

    @rule(who=picks, state=st.sampled_from(["finished", "failed"]))
    def end_task(self, who: int, state: str) -> None:
        agent = self.world.agents[AGENTS[who % 3]]
        if agent.running:
            names = sorted(name for name, _ in agent.running)
            agent.end(names[who % len(names)], state)
            agent.offer()

    @rule(who=picks, what=st.sampled_from(["offer", "die", "connect", "restart", "deaf", "less"]))
    def agent(self, who: int, what: str) -> None:
        agent = self.world.agents[AGENTS[who % 3]]
        match what:
            case "offer":
                agent.offer()
            case "less":
                agent.offer(resources(cpu=1, memory=1))
            case "die":
                agent.die()
            case "connect":
                agent.deaf = False
                agent.connect()
                agent.offer()
            case "restart":
                agent.deaf = False
                agent.restart()
                agent.offer()
            case "deaf":
                agent.deaf = not agent.deaf

    @rule(count=st.integers(1, 3), role=st.sampled_from(["default", "web"]))
    def submit(self, count: int, role: str) -> None:
        if len(self.world.master.core.tasks.jobs) < 8:
            self.world.ask(SubmitJob(job=job("plain", group(count=count), role=role)))

    @rule(who=picks, mode=st.sampled_from(["active", "cordoned", "draining"]))
    def set_mode(self, who: int, mode: Any) -> None:
        self.world.ask(SetAgentMode(agent_id=AGENTS[who % 3], mode=mode))

    @rule()
    def solve(self) -> None:
        self.world.solve()

    @rule(seconds=st.integers(1, 40), alive=st.booleans())
    def wait(self, seconds: int, alive: bool) -> None:
        self.world.advance(seconds * SECOND, alive=alive)

    @rule()
    def crash(self) -> None:
        self.world.crash()
        for client in self.clients:
            client.offers.clear()

    # --- laws ---

    @invariant()
    def l4_nothing_is_allocated_twice(self) -> None:
        core = self.world.master.core
        for entry in core.agents.entries.values():
            total, held = entry.enrolled.total, entry.holdings
            assert entry.cpu_used <= total.cpu_milli and entry.memory_used <= total.memory_bytes
            uuids = [uuid for task in held.tasks.values() for uuid in task.all_gpus()]
            uuids += [uuid for task_id in entry.tasks for uuid in core.tasks.tasks[task_id].gpus]
            uuids += [gpu.uuid for made in held.leases for part in made.offer.portions for gpu in part.resources.gpus]
            assert len(uuids) == len(set(uuids)), "a GPU belongs to one"
            for pool in held.pools.values():
                for name in ("cpu_milli", "memory_bytes", "disk_bytes"):
                    taken = sum(
                        getattr(bundle, name) for bundle in (pool.used, pool.lent, pool.leased, pool.lent_leased)
                    )
                    assert taken <= getattr(pool.size, name), f"{name} of a pool"

    @invariant()
    def l5_a_unit_is_in_one_lease_and_what_is_leased_is_not_free(self) -> None:
        core = self.world.master.core
        for entry in core.agents.entries.values():
            cpu = sum(made.amount.cpu_milli for made in entry.holdings.leases)
            assert entry.offer is not None or not entry.holdings.leases, "a lease needs an agent's offer"
            free = free_of(entry)
            if free is not None:
                assert free.cpu_milli + cpu + entry.cpu_used <= entry.enrolled.total.cpu_milli
                unused = unused_of(entry)
                assert unused is not None and free.cpu_milli <= unused.cpu_milli
                assert entry.offer is not None and unused == find_unused(entry, entry.offer), "what was found holds"
        for made in core.market.leases.values():
            assert made.expires_us > self.world.now_us
            assert made.offer.offer_id in core.market.frameworks[made.offer.framework_id].offers

    @invariant()
    def what_clients_hold_is_what_the_master_leased(self) -> None:
        frameworks = self.world.master.core.market.frameworks
        for client in self.clients:
            framework = frameworks.get(client.framework_id)
            if framework is not None and framework.stream_id == client.stream_id:
                assert set(client.offers) == set(framework.offers)

    @invariant()
    def l6_quota_holds_and_sums_are_right(self) -> None:
        core = self.world.master.core
        sums: dict[str, list[int]] = {}
        for framework in core.market.frameworks.values():
            for task in framework.tasks.values():
                if task.is_open:
                    assert task.wire_id in core.agents[task.agent_id].holdings.tasks
                    total = sums.setdefault(task.role, [0, 0])
                    total[0] += task.needs.cpu_milli
                    total[1] += task.needs.memory_bytes
            for made in framework.offers.values():
                total = sums.setdefault(made.offer.role, [0, 0])
                total[0] += made.amount.cpu_milli
                total[1] += made.amount.memory_bytes
            for role, amounts in framework.role_allocated.items():
                assert min(amounts) >= 0, role
        for entry in core.agents.entries.values():
            for task_id in entry.tasks:
                task_of_job = core.tasks.tasks[task_id]
                total = sums.setdefault(task_of_job.group.job.job.role, [0, 0])
                total[0] += task_of_job.group.spec.needs.cpu_milli
                total[1] += task_of_job.group.spec.needs.memory_bytes
        for path, role in core.shares.roles.items():
            below = [total for name, total in sums.items() if name == path or name.startswith(f"{path}/")]
            assert kinds(role.allocated)[:2] == (sum(t[0] for t in below), sum(t[1] for t in below)), path
        assert core.shares.roles["web"].allocated.cpu_milli <= 3000

    @invariant()
    def l7_replay_is_the_state(self) -> None:
        durable = self.world.master.durable()
        assert self.world.replayed() == durable
        assert Master.restore(self.world.config, durable, "fifo").durable() == durable


TestMarketLaws = MarketLaws.TestCase
TestMarketLaws.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip

"""Frameworks in simulated time: schedulers of their own, that take offers of the market beside the built-in jobs.

A framework brings its work in the grammar of `workload` (docs/scenarios.md) and places it by what it is offered:

- `shaped`: it says with REQUEST what it needs, and launches what the answering offers hold.
- `plain`: it takes what fair shares offer, and declines what it has no use for. Tasks wait `patience` for an agent that
  holds what they read, then take any (delay scheduling: Zaharia et al., EuroSys 2010; Spark waits 3 s). A gang keeps
  its offers until they hold all of it, as gangs on Mesos do.
- `ignored`: it answers no offer at all.

Everything else is what a well-behaved client does: acknowledge, subscribe again when the stream is gone, reconcile, and
launch again what was lost.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

from federation.api import Answer, Problem
from federation.commands import Emit
from federation.events import FrameworkCalled
from federation.jobfile import read_duration, read_identifier
from federation.jobs import TaskGroup
from federation.market import protocol as p
from federation.market.book import PREFIX, TERMINAL
from federation.strictyaml import Fields, FileError, Mapping, Node, Scalar, as_mapping, choice
from policies.model import Resources
from policies.resources import fits, take
from scenarios.broker import Timetable
from scenarios.simulated_data import shard_id_of
from scenarios.workload import Scope, Workload, read_workload
from scenarios.world import FRAMEWORK_MODES, Arrival, Behaviour, FrameworkMode, FrameworkSpec, World

KEYS = ("offers", "patience", "refuse", "failover", "jobs", "generate", "traces")
WORK_KEYS = ("jobs", "generate", "traces")
CALL_US = 1_000  # from a framework to its master and back again, each way
RETRY_US = 1_000_000  # between two tries to subscribe, or to ask for what was refused
STANDING_MAX = 200  # requests at once, below the master's bound

Call = Callable[[FrameworkCalled, int], None]


def read_frameworks(node: Node, scope: Scope) -> tuple[tuple[FrameworkSpec, ...], tuple[Workload, ...]]:
    """`name: {offers: shaped, generate: […]}`; the workloads are for their shards and notes."""
    specs: list[FrameworkSpec] = []
    workloads: list[Workload] = []
    for name, value in as_mapping(node, '"frameworks"').entries.items():
        read_identifier(Scalar(value.place, name, plain=False))
        fields = Fields(value, f'framework "{name}"', KEYS)
        mapping = as_mapping(value, f'framework "{name}"')
        own = {key: mapping.entries[key] for key in WORK_KEYS if key in fields}
        work = read_workload(Mapping(value.place, own, {key: mapping.keys[key] for key in own}), scope)
        for arrival in work.arrivals:
            _check(value, name, arrival)
        workloads.append(work)
        specs.append(
            FrameworkSpec(
                name=name,
                roles=tuple(sorted({arrival.job.role for arrival in work.arrivals})) or ("default",),
                offers=cast(FrameworkMode, fields.optional("offers", choice(*FRAMEWORK_MODES), "shaped")),
                patience_us=fields.optional("patience", read_duration, 3_000_000),
                refuse_us=fields.optional("refuse", read_duration, p.REFUSE_US),
                failover_us=fields.optional("failover", read_duration, 3_600_000_000),
                arrivals=work.arrivals,
            )
        )
    return tuple(specs), tuple(workloads)


def _check(node: Node, name: str, arrival: Arrival) -> None:
    for group in arrival.job.tasks:
        if group.after or group.for_each is not None or any("*" in read for read in group.reads):
            raise FileError(
                node.place, f'framework "{name}": its tasks take no after, no for_each, and name their reads'
            )
        if group.elastic is not None:
            raise FileError(
                node.place, f'framework "{name}": elastic work is of built-in jobs, whose workers a policy counts'
            )


# --- one framework ---------------------------------------------------------------------------------------------------


class Piece:
    """A task of a framework's work; `attempt` counts its launches."""

    __slots__ = ("agent_id", "attempt", "group", "index", "lot", "since_us", "state")

    def __init__(self, lot: "Lot", index: int, now_us: int) -> None:
        self.lot = lot
        self.index = index
        self.attempt = 0
        self.state = "pending"  # launched, ended
        self.agent_id = ""
        self.since_us = now_us

    @property
    def task_id(self) -> str:
        return f"{self.lot.name}.{self.index}.{self.attempt}"


Chosen = list[tuple["Piece", tuple[str, ...]]]  # with the GPUs each is to have


class Lot:
    """The equal tasks of one group of one arrival."""

    def __init__(self, number: int, arrival: Arrival, group: TaskGroup, now_us: int) -> None:
        self.name = f"{number}.{group.name}"
        self.role = arrival.job.role
        self.priority = arrival.job.priority
        self.group = group
        self.reads = tuple(shard_id_of(name) for name in group.reads)
        self.pieces = [Piece(self, index, now_us) for index in range(group.count)]
        self.n_requests = 0
        self.n_asked = 0  # pieces its request still wants offers for

    def pending(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.state == "pending"]


class OfferCounts(NamedTuple):
    """What became of a framework's offers; those that lapsed were rescinded or expired."""

    made: int
    declined: int
    lapsed: int


class SimulatedFramework:
    def __init__(self, spec: FrameworkSpec, timetable: Timetable, call: Call) -> None:
        self.spec = spec
        self.framework_id = ""
        self.n_offers = self.n_declined = self.n_lapsed = 0
        self._timetable = timetable
        self._call_master = call
        self._stream_id = ""
        self._is_subscribed = self._is_trying = False
        self._n_streams = self._n_calls = 0
        self._n_arrived = 0
        self._lots: OrderedDict[str, Lot] = OrderedDict()  # those with work left, oldest first
        self._pieces: dict[str, Piece] = {}  # launched, by task id
        self._requested: dict[str, Lot] = {}
        self._kept: dict[str, p.FrameworkOffer] = {}  # for a gang

    def offer_counts(self) -> OfferCounts:
        return OfferCounts(self.n_offers, self.n_declined, self.n_lapsed)

    @property
    def is_done(self) -> bool:
        return self._n_arrived == len(self.spec.arrivals) and not self._lots

    # --- the stream --------------------------------------------------------------------------------------------------

    def _subscribe(self, now_us: int) -> None:
        self._n_streams += 1
        self._stream_id = f"{self.spec.name}/{self._n_streams}"
        self._is_subscribed = False
        capabilities: set[p.Capability] = {"PARTITION_AWARE", "GPU_RESOURCES"}
        if len(self.spec.roles) > 1:
            capabilities.add("MULTI_ROLE")
        info = p.FrameworkInfo(
            name=self.spec.name,
            roles=self.spec.roles,
            capabilities=frozenset(capabilities),
            failover_timeout_us=self.spec.failover_us,
        )
        suppressed = self.spec.roles if self.spec.offers == "shaped" else ()
        self._call(p.Subscribe(framework=info, framework_id=self.framework_id, suppressed_roles=suppressed), now_us)

    def lost(self, now_us: int) -> None:
        """The master's process is gone, and the stream with it."""
        self._stream_id, self._is_subscribed = "", False
        self._kept.clear()
        self._requested.clear()
        if not self._is_trying:
            self._is_trying = True
            self._timetable.call(now_us + RETRY_US, self.begin)

    def begin(self, now_us: int) -> None:
        """Subscribe, again and again until it is heard."""
        self._is_trying = not self._is_subscribed
        if self._is_trying:
            self._subscribe(now_us)
            self._timetable.call(now_us + RETRY_US, self.begin)

    def answered(self, call: p.Call, answer: Answer, now_us: int) -> None:
        if not isinstance(answer, Problem):
            return
        if isinstance(call, p.Subscribe) and answer.status == 403:
            self.framework_id = ""  # It was away for too long: it begins anew.
        elif isinstance(call, p.Request):  # A shard that the master has yet to hear of; all of the call was refused.
            for want in call.wants:
                self._requested.pop(want.request_id, None)
            self._timetable.call(now_us + RETRY_US, self._ask)

    def hear(self, emit: Emit, now_us: int) -> None:
        if emit.stream_id != self._stream_id:
            return
        match emit.event:
            case p.Subscribed(framework_id=framework_id):
                self._begin(framework_id, now_us)
            case p.Offers(offers=offers):
                self.n_offers += len(offers)
                if self.spec.offers != "ignored":
                    self._look_at(offers, now_us)
            case p.Rescind(offer_id=offer_id):
                self._kept.pop(offer_id, None)
                self.n_lapsed += 1
            case p.Update() as update:
                self._note(update, now_us)
            case _:
                pass

    def _begin(self, framework_id: str, now_us: int) -> None:
        self.framework_id, self._is_subscribed = framework_id, True
        known = tuple(p.KnownTask(task_id=task_id, agent_id=each.agent_id) for task_id, each in self._pieces.items())
        if known:
            self._call(p.Reconcile(tasks=known), now_us)
        self._ask(now_us)

    def _call(self, call: p.Call, now_us: int) -> None:
        self._n_calls += 1
        event = FrameworkCalled(
            request_id=f"{self.spec.name}/{self._n_calls}",
            framework_id=self.framework_id,
            stream_id=self._stream_id,
            call=call,
        )
        self._call_master(event, now_us + CALL_US)

    # --- work --------------------------------------------------------------------------------------------------------

    def arrive(self, number: int, now_us: int) -> None:
        arrival = self.spec.arrivals[number]
        self._n_arrived += 1
        for group in arrival.job.tasks:
            lot = Lot(number, arrival, group, now_us)
            self._lots[lot.name] = lot
        self._ask(now_us)

    def _ask(self, now_us: int) -> None:
        """REQUEST what is wanted and not asked for yet."""
        if self.spec.offers != "shaped" or not self._is_subscribed:
            return
        asked = set(self._requested.values())
        lots = [lot for lot in self._lots.values() if lot not in asked and lot.pending()]
        wants = [self._want(lot) for lot in lots[: max(0, STANDING_MAX - len(asked))]]
        if wants:
            self._call(p.Request(wants=tuple(wants)), now_us)

    def _want(self, lot: Lot) -> p.WantedOffer:
        lot.n_requests += 1
        request_id = f"{lot.name}/{lot.n_requests}"
        self._requested[request_id] = lot
        lot.n_asked = len(lot.pending())
        group, needs = lot.group, lot.group.needs
        return p.WantedOffer(
            request_id=request_id,
            role=lot.role,
            count=lot.n_asked,
            cpu_milli=needs.cpu_milli,
            memory_bytes=needs.memory_bytes,
            disk_bytes=needs.disk_bytes,
            gpu=needs.gpu,
            reads=lot.reads,
            where=group.where,
            latency=group.latency,
            gang=group.gang,
            priority=lot.priority,
            profile=group.profile,
            run_us=group.run_us,
        )

    # --- offers ------------------------------------------------------------------------------------------------------

    def _look_at(self, offers: Iterable[p.FrameworkOffer], now_us: int) -> None:
        unused: list[str] = []
        for offer in offers:
            chosen = self._answering(offer) if offer.request_id else self._suiting(offer, now_us)
            if chosen:
                self._launch(offer, chosen, now_us)
            elif self._is_for_gang(offer):
                self._kept[offer.offer_id] = offer
            else:
                unused.append(offer.offer_id)
        self._launch_gangs(now_us)
        if unused:
            self.n_declined += len(unused)
            self._call(p.Decline(offer_ids=tuple(unused), refuse_us=self.spec.refuse_us), now_us)

    def _answering(self, offer: p.FrameworkOffer) -> Chosen:
        lot = self._requested.get(offer.request_id)
        return _fitting(lot.pending()[: lot.n_asked], _resources(offer)) if lot is not None else []

    def _suiting(self, offer: p.FrameworkOffer, now_us: int) -> Chosen:
        """What may run there, first come first served: what reads data waits a while for an agent that has it."""
        found: list[Piece] = []
        for lot in self._lots.values():
            here = set(lot.reads) <= set(offer.agent.shards)
            if not lot.group.gang and _admits(lot, offer):
                found += [piece for piece in lot.pending() if here or now_us - piece.since_us >= self.spec.patience_us]
        return _fitting(found, _resources(offer))

    def _is_for_gang(self, offer: p.FrameworkOffer) -> bool:
        return self.spec.offers == "plain" and any(
            lot.group.gang and lot.pending() and _admits(lot, offer) for lot in self._lots.values()
        )

    def _launch_gangs(self, now_us: int) -> None:
        """What is kept together may hold a gang by now."""
        for lot in list(self._lots.values()):
            waiting = lot.pending()
            if not self._kept or not lot.group.gang or not waiting:
                continue
            chosen: list[tuple[p.FrameworkOffer, Chosen]] = []
            for offer in self._kept.values():
                here: Chosen = _fitting(waiting, _resources(offer)) if _admits(lot, offer) else []
                if here:
                    chosen.append((offer, here))
                    waiting = waiting[len(here) :]
            if not waiting:
                for offer, pieces in chosen:
                    del self._kept[offer.offer_id]
                    self._launch(offer, pieces, now_us)
                self._let_go(now_us)

    def _let_go(self, now_us: int) -> None:
        """No gang waits for what is still kept."""
        left = [offer_id for offer_id, offer in self._kept.items() if not self._is_for_gang(offer)]
        for offer_id in left:
            del self._kept[offer_id]
        if left:
            self.n_declined += len(left)
            self._call(p.Decline(offer_ids=tuple(left), refuse_us=self.spec.refuse_us), now_us)

    def _launch(self, offer: p.FrameworkOffer, chosen: Chosen, now_us: int) -> None:
        for piece, _ in chosen:
            piece.attempt += 1
            piece.state, piece.agent_id = "launched", offer.agent_id
            self._pieces[piece.task_id] = piece
            if offer.request_id:
                piece.lot.n_asked -= 1
                if not piece.lot.n_asked:  # The request is met.
                    del self._requested[offer.request_id]
        launch = p.Launch(tasks=tuple(_spec(piece, uuids) for piece, uuids in chosen))
        accept = p.Accept(offer_ids=(offer.offer_id,), operations=(launch,), refuse_us=self.spec.refuse_us)
        self._call(accept, now_us)
        self._ask(now_us)

    # --- updates -----------------------------------------------------------------------------------------------------

    def _note(self, update: p.Update, now_us: int) -> None:
        if update.uuid:
            self._call(
                p.Acknowledge(task_id=update.task_id, agent_id=update.agent_id, uuid=update.uuid), now_us
            )  # fmt: skip
        piece = self._pieces.get(update.task_id)
        if piece is None or not (update.state in TERMINAL or update.state == "TASK_UNKNOWN"):
            return
        del self._pieces[update.task_id]
        lot = piece.lot
        if update.state == "TASK_FINISHED" or piece.attempt >= lot.group.attempts_max:
            piece.state = "ended"
        else:
            piece.state, piece.since_us = "pending", now_us
        if all(each.state == "ended" for each in lot.pieces):
            del self._lots[lot.name]
        self._ask(now_us)


def _resources(offer: p.FrameworkOffer) -> Resources:
    """What is neither reserved nor revocable of it."""
    for portion in offer.portions:
        if portion.reservation is None and not portion.revocable:
            return portion.resources
    return Resources()


def _fitting(pieces: list[Piece], free: Resources) -> Chosen:
    found: Chosen = []
    for piece in pieces:
        if fits(piece.lot.group.needs, free):
            free, uuids = take(piece.lot.group.needs, free)
            found.append((piece, uuids))
    return found


def _admits(lot: Lot, offer: p.FrameworkOffer) -> bool:
    where, agent = lot.group.where, offer.agent
    return (
        (not where.tiers or agent.tier in where.tiers)
        and (not where.sites or agent.site in where.sites)
        and (not where.agents or agent.agent_id in where.agents)
        and all(label in agent.labels for label in where.labels)
    )


def _spec(piece: Piece, gpu_uuids: tuple[str, ...]) -> p.TaskSpec:
    group, needs = piece.lot.group, piece.lot.group.needs
    claim = p.Claim(
        cpu_milli=needs.cpu_milli,
        memory_bytes=needs.memory_bytes,
        disk_bytes=needs.disk_bytes,
        gpu_uuids=gpu_uuids,
    )
    return p.TaskSpec(
        task_id=piece.task_id,
        claims=(claim,),
        command=group.command,
        reads=piece.lot.reads,
        writes=group.writes,
        time_limit_us=group.time_limit_us,
        simulated_run_us=group.simulated_run_us,
    )


# --- all of them -----------------------------------------------------------------------------------------------------


class Frameworks:
    """Those of a world, as the simulated master speaks with them."""

    def __init__(self, world: World, timetable: Timetable, call: Call) -> None:
        self.all = {spec.name: SimulatedFramework(spec, timetable, self._call) for spec in world.frameworks}
        self._timetable = timetable
        self._master = call
        self._calls: dict[str, tuple[str, p.Call]] = {}

    def start(self, now_us: int) -> None:
        for framework in self.all.values():
            framework.begin(now_us)

    def _call(self, event: FrameworkCalled, at_us: int) -> None:
        self._calls[event.request_id] = event.request_id.partition("/")[0], event.call
        self._master(event, at_us)

    @property
    def are_done(self) -> bool:
        return all(framework.is_done for framework in self.all.values())

    def emit(self, emit: Emit, now_us: int) -> None:
        framework = self.all[emit.stream_id.partition("/")[0]]
        self._timetable.call(now_us + CALL_US, lambda at_us: framework.hear(emit, at_us))

    def answered(self, request_id: str, answer: Answer, now_us: int) -> bool:
        """False where it was no call of theirs."""
        found = self._calls.pop(request_id, None)
        if found is not None:
            self.all[found[0]].answered(found[1], answer, now_us)
        return found is not None

    def lost(self, now_us: int) -> None:
        self._calls.clear()
        for framework in self.all.values():
            framework.lost(now_us)

    def behaviour_of(self, wire_id: str) -> Behaviour | None:
        framework_id, _, task_id = wire_id.removeprefix(PREFIX).partition("/")
        for framework in self.all.values():
            if framework.framework_id == framework_id:
                number, group, _, _ = task_id.split(".")
                return framework.spec.arrivals[int(number)].behaviours.get(group)
        return None

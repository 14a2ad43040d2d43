"""Frameworks around a `World`: each calls the master and hears its stream."""

from typing import Any

from federation.api import Answer
from federation.commands import Command, Emit
from federation.config import MasterConfig
from federation.events import FrameworkCalled, StreamClosed
from federation.market import protocol as p
from tests.master_world import GIB, World


class MarketWorld(World):
    def __init__(self, config: MasterConfig | None = None, **fields: Any) -> None:
        self.clients: dict[str, Client] = {}  # by stream id
        super().__init__(config or MasterConfig(round_every_us=0, allocate_every_us=0), **fields)

    def handle(self, event: Any) -> list[Command]:
        commands = super().handle(event)
        for command in commands:
            if isinstance(command, Emit):
                client = self.clients.get(command.stream_id)
                if client is not None:
                    client.hear(command)
        return commands

    def client(self, name: str = "spark", **fields: Any) -> "Client":
        client = Client(self, name, **fields)
        client.subscribe()
        return client


class Client:
    """A framework as a well-behaved client is one: it keeps the offers it was made and acknowledges updates."""

    n_streams = 0

    def __init__(
        self,
        world: MarketWorld,
        name: str = "spark",
        roles: tuple[str, ...] = ("default",),
        capabilities: tuple[str, ...] = ("PARTITION_AWARE",),
        principal: str = "",
        **fields: Any,
    ) -> None:
        fields.setdefault("failover_timeout_us", 3600 * 1_000_000)
        self.world = world
        self.principal = principal
        self.info = p.FrameworkInfo(name=name, roles=roles, capabilities=frozenset(capabilities), **fields)
        self.framework_id = ""
        self.stream_id = ""
        self.offers: dict[str, p.FrameworkOffer] = {}
        self.inverse: dict[str, p.InverseOffer] = {}
        self.heard: list[p.StreamEvent] = []
        self.updates: list[p.Update] = []
        self.closed = False
        self.acknowledges = True

    def subscribe(self, **fields: Any) -> Answer:
        Client.n_streams += 1
        self.stream_id = f"stream-{Client.n_streams}"
        self.offers.clear()
        self.closed = False
        self.world.clients[self.stream_id] = self
        return self.call(p.Subscribe(framework=self.info, framework_id=self.framework_id, **fields))

    def hear(self, emit: Emit) -> None:
        if emit.stream_id != self.stream_id:
            return
        self.heard.append(emit.event)
        self.closed = self.closed or emit.close
        match emit.event:
            case p.Subscribed(framework_id=framework_id):
                self.framework_id = framework_id
            case p.Offers(offers=offers):
                for offer in offers:
                    self.offers[offer.offer_id] = offer
            case p.InverseOffers(offers=inverse):
                self.inverse.update((offer.offer_id, offer) for offer in inverse)
            case p.Rescind(offer_id=offer_id):
                del self.offers[offer_id]
            case p.Update() as update:
                self.updates.append(update)
                if update.uuid and self.acknowledges:
                    self.call(p.Acknowledge(task_id=update.task_id, agent_id=update.agent_id, uuid=update.uuid))

    def call(self, call: p.Call, stream_id: str | None = None) -> Any:
        self.world._asked += 1
        request_id = f"c{self.world._asked}"
        self.world.handle(
            FrameworkCalled(
                request_id=request_id,
                framework_id=self.framework_id,
                stream_id=self.stream_id if stream_id is None else stream_id,
                principal=self.principal,
                call=call,
            )
        )
        return self.world.replies.get(request_id)

    def close(self) -> None:
        self.world.handle(StreamClosed(framework_id=self.framework_id, stream_id=self.stream_id))
        self.offers.clear()

    def accept(self, *offers: p.FrameworkOffer, operations: tuple[p.Operation, ...] = (), **fields: Any) -> Any:
        ids = tuple(offer.offer_id for offer in offers)
        for offer_id in ids:
            self.offers.pop(offer_id, None)
        return self.call(p.Accept(offer_ids=ids, operations=operations, **fields))

    def launch(self, *offers: p.FrameworkOffer, names: tuple[str, ...] = ("t1",), **fields: Any) -> Any:
        specs = tuple(spec(name, **fields) for name in names)
        return self.accept(*offers, operations=(p.Launch(tasks=specs),))

    def decline(self, *offers: p.FrameworkOffer, **fields: Any) -> Any:
        ids = tuple(offer.offer_id for offer in offers)
        for offer_id in ids:
            self.offers.pop(offer_id, None)
        return self.call(p.Decline(offer_ids=ids, **fields))

    def offer(self) -> p.FrameworkOffer:
        """The one offer it has."""
        (offer,) = self.offers.values()
        return offer

    def states(self, task_id: str = "t1") -> list[str]:
        return [update.state for update in self.updates if update.task_id == task_id]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.heard if isinstance(event, kind)]


def spec(task_id: str = "t1", cpu: int = 1, memory: int = 1, **fields: Any) -> p.TaskSpec:
    fields.setdefault("claims", (claim(cpu, memory),))
    fields.setdefault("command", ("sleep", "1"))
    return p.TaskSpec(task_id=task_id, **fields)


def claim(cpu: int = 1, memory: int = 1, **fields: Any) -> p.Claim:
    return p.Claim(cpu_milli=cpu * 1000, memory_bytes=memory * GIB, **fields)


def cpus(offer: p.FrameworkOffer) -> int:
    return sum(portion.resources.cpu_milli for portion in offer.portions)

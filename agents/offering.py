"""What the agent offers: what tasks may use now, less what its attempts hold.

An offer is renewed by time, and at once when the machine has more or less to give. What the agent's own attempts take
and give back is no reason for one: the master knows it from its launches and their statuses (docs/decisions/0005). A
launch refused is: the two accounts differ.
"""

from agents.config import AgentConfig
from agents.session import Batch, Session, earlier
from agents.state import Holding, State
from federation.wire import Launch, Offer, OfferDelta, Welcome, changes
from policies.gpus import held, matches, memory_of, taken_bytes, without
from policies.model import Gpu, GpuNeed, Resources

# Readings jitter: free memory moves by megabytes every second. Offers are floored to these grains, so that an idle
# machine's offer stays the same offer and starts no new round at the master.
_CPU_GRAIN_MILLI = 100
_MEMORY_GRAIN_BYTES = 16 * 2**20
_DISK_GRAIN_BYTES = 64 * 2**20


def free_after(have: Resources, holding: Holding) -> Resources:
    """`have` less what is held; no kind goes below zero."""
    here = {gpu.uuid: gpu for gpu in have.gpus}
    taken: list[Gpu] = []
    for launch in holding.with_gpus.values():
        taken += [held(launch.needs.gpu, here[uuid]) for uuid in launch.gpus if uuid in here]
    return Resources(
        cpu_milli=max(0, have.cpu_milli - holding.cpu_milli),
        memory_bytes=max(0, have.memory_bytes - holding.memory_bytes),
        disk_bytes=max(0, have.disk_bytes - holding.disk_bytes),
        gpus=without(have.gpus, taken) if taken else have.gpus,
    )


def shortfall(launch: Launch, free: Resources) -> str:
    """What a launch lacks here, for people; "" if it fits."""
    needs = launch.needs
    for kind, need, has in (
        ("cpu_milli", needs.cpu_milli, free.cpu_milli),
        ("memory_bytes", needs.memory_bytes, free.memory_bytes),
        ("disk_bytes", needs.disk_bytes, free.disk_bytes),
    ):
        if need > has:
            return f"needs {need} {kind}, has {has}"
    here, gpu_need = {gpu.uuid: gpu for gpu in free.gpus}, needs.gpu or GpuNeed()
    for uuid in sorted(launch.gpus):
        gpu = here.get(uuid)
        if gpu is None:
            return f"GPU {uuid} is not free"
        if not matches(gpu_need, gpu):
            what = f"{gpu_need.milli} milli and {taken_bytes(gpu_need, gpu)} bytes of GPU {uuid}"
            return f"needs {what}, has {gpu.milli} and {memory_of(gpu)}"
    return ""


class Offering:
    def __init__(self, config: AgentConfig, state: State) -> None:
        self._config = config
        self._state = state
        self.total = Resources()
        self.usable: Resources | None = None  # None: not measured yet, so nothing is offered
        self._have = Resources()  # what of it is offered, in whole grains
        self._n_offers = 0
        self._told: Offer | None = None  # the last one since the welcome
        self._sent: Resources | None = None  # what the machine had to give at the last offer, own attempts left out
        self._renew_due_us: int | None = None
        self._change_due_us: int | None = None
        self.doubted = False  # a launch was refused: the master's account differs from ours, and it dropped our offer
        self.quarantined = False

    def free(self) -> Resources:
        return free_after(self._have, self._state.holding)

    def lacks(self, launch: Launch) -> str:
        """What a launch, which is among the live attempts already, lacks here beside the others; "" if it fits."""
        others = self._state.holding
        others.change(launch, -1)
        lack = shortfall(launch, free_after(self.total, others))
        others.change(launch, 1)
        return lack

    def measured(self, usable: Resources) -> None:
        self.usable = usable
        self._have = Resources(
            cpu_milli=_floor(usable.cpu_milli, _CPU_GRAIN_MILLI, self.total.cpu_milli),
            memory_bytes=_floor(usable.memory_bytes, _MEMORY_GRAIN_BYTES, self.total.memory_bytes),
            disk_bytes=_floor(usable.disk_bytes, _DISK_GRAIN_BYTES, self.total.disk_bytes),
            gpus=tuple(gpu for gpu in self.total.gpus if gpu.uuid in {seen.uuid for seen in usable.gpus}),
        )

    def restart(self) -> None:
        """A master that just welcomed us knows no offer: send one at once."""
        self._sent = self._told = None
        self._renew_due_us = self._change_due_us = None

    def due_us(self, session: Session) -> int | None:
        if not session.is_welcome or self.usable is None or self.quarantined:
            return None
        if self._sent is None:
            return 0
        return earlier(self._renew_due_us, self._change_due_us)

    def flush(self, batch: Batch, session: Session) -> None:
        """Offer if it is time, or if what the machine has changed `offer_debounce_us` ago."""
        if self.due_us(session) is None or session.welcome is None:
            return
        now_us = batch.now_us
        have = self._have
        # A line that is paid by the byte tells of what the machine has when it renews, and not before.
        has_changed = self.doubted or (have != self._sent and not self._config.metered)
        if self._change_due_us is None and self._sent is not None and has_changed:
            self._change_due_us = now_us + self._config.offer_debounce_us
        due_us = self.due_us(session)
        if due_us is None or now_us < due_us:
            return
        self._n_offers += 1
        self._publish(batch, session, session.welcome)
        self._sent = have
        self.doubted = False
        self._renew_due_us = now_us + session.welcome.offer_every_us
        self._change_due_us = None

    def _publish(self, batch: Batch, session: Session, welcome: Welcome) -> None:
        """The whole offer, or what differs from the last one where the master takes that."""
        before = self._told
        self._told = Offer(
            agent_id=self._config.agent_id, boot=self._state.boot, conn=session.conn, seq=session.seq,
            offer_id=f"{self._config.agent_id}.{self._state.boot}.{self._n_offers}", free=self.free(),
            expires_in_us=welcome.offer_lease_us, commands_seen=self._state.commands_seen,
        )  # fmt: skip
        if before is not None and welcome.offer_deltas:
            session.publish(batch, OfferDelta, **changes(before, self._told))
        else:
            session.publish(
                batch, Offer, offer_id=self._told.offer_id, free=self._told.free,
                expires_in_us=self._told.expires_in_us, commands_seen=self._told.commands_seen,
            )  # fmt: skip


def _floor(value: int, grain: int, total: int) -> int:
    """Whole grains of what is usable; all of it where nothing is missing, for a small total may be less than one."""
    return total if value >= total else max(0, value - value % grain)

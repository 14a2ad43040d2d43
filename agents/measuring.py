"""When the agent measures and what it tells of it: its own machine, the echo through the broker, probes of peers."""

from agents.commands import Measure, Probe
from agents.config import AgentConfig
from agents.events import FetchesProgressed
from agents.metering import ECHO_BYTES, Meter, on_wire
from agents.session import Batch, Session, earlier, spread_us
from federation.wire import FetchProgress, LinkSample, NetReport, Peer, Ping, Pong, ProbePlan, TaskSteps

_SAMPLES_MAX = 512  # gathered between two reports, newest kept: half of what the wire takes in one
_FETCHES_MAX = 256  # told of in one report, newest kept: what the wire takes
_PINGS_MAX = 16  # unanswered ones remembered; older are lost
_SOON_US = 500_000  # a measured bandwidth matters to the next round: it is told this soon, with those around it
_PROBE_TIMEOUT_US = 120_000_000  # a worker that never answers must not end all probing
_SILENT_REPORTS = 6  # of these one is sent all the same: it carries the counts of bytes. A metered line's are rare.
_HOUR_US = 3_600_000_000
# A way in use is tried again after 1–2 s, then 2–4 s, 3–6 s …: longer than the probe of a neighbour takes, soon enough
# that sixteen neighbours of one slow gateway are through in a minute. Then it has its next turn as all have.
_BUSY_US = 1_000_000
_BUSY_TRIES_MAX = 6
_STEPS_MAX = 256
# Active probes take their share of a link over time (the plan says it); this many come first, so that a new link is
# soon known. Past that a turn is an echo alone.
_PROBES_AHEAD = 3
# A probe that finds less than this part of all that the last ones found, or more than one over it, is repeated at once:
# two are a step to the master (`federation.link_track.STEP_MILLI`), and the next turn may be minutes away. On a line
# that is never the same the last ones are far apart, and nothing is.
_CHANGED_MILLI = 700
_PROBED_MAX = 16
# All measuring takes at most half a per cent of a processor over time. Past that every turn waits, echoes too: where
# they are dear, a second of a slow core is ahead before any does.
_CPU_PPM = 5_000
_CPU_AHEAD_US = 1_000_000
_PPM = 1_000_000


class Measuring:
    def __init__(self, config: AgentConfig, meter: Meter) -> None:
        self._config = config
        self._meter = meter
        self._measure_due_us: int | None = None
        self._samples: list[LinkSample] = []
        self._fetches: dict[str, FetchProgress] = {}  # by shard, since the last report
        self._steps: dict[str, TaskSteps] = {}  # by task, since the last report
        self._report_due_us: int | None = None
        self._n_silent = 0  # reports in a row that had nothing to tell
        self._ping_due_us: int | None = None
        self._nonce = 0
        self._pings: dict[int, int] = {}  # nonce → sent at
        self._last_rtt_us: int | None = None
        self._peers: dict[str, tuple[Peer, int]] = {}  # agent_id → peer, next probe due
        self._busy_tries: dict[str, int] = {}  # agent_id → tries in a row that found the way in use
        self._owed_until_us: dict[str, int] = {}  # agent_id → when what probes took has come to their share
        self._probe_cost_us: dict[str, int] = {}  # agent_id → how long the last probe's bytes take to come to it
        self._probed_bps: dict[str, list[int]] = {}  # agent_id → what the last probes found
        self._to_confirm: set[str] = set()  # whose last probe found another link than the one before
        self._probe_bytes = 0  # since boot
        self._cpu_us = 0  # that measuring took, since boot
        self._cpu_owed_until_us = 0  # when that has come to its share
        self._every_us = 0
        self._bytes_max = 0
        self._probing: tuple[str, int, int] | None = None  # agent_id, given up at, bytes taken off the budget
        self._budget_bytes = config.probe_bytes_per_hour  # refilled evenly
        self._refilled_us: int | None = None

    # --- what happens ------------------------------------------------------------------------------------------------

    def on_started(self, now_us: int) -> None:
        self._measure_due_us = now_us
        self._refilled_us = now_us

    def on_welcome(self, now_us: int) -> None:
        self._ping_due_us = now_us
        self._report_due_us = now_us + self._config.report_every_us
        self._pings.clear()

    def on_disconnected(self) -> None:
        """Samples carry no time of their own: told a day later they would pass for new ones."""
        self._samples.clear()
        self._pings.clear()

    def on_pong(self, pong: Pong, now_us: int) -> None:
        sent_us = self._pings.pop(pong.nonce, None)
        if sent_us is None:
            return
        rtt_us = max(0, now_us - sent_us)
        jitter_us = None if self._last_rtt_us is None else abs(rtt_us - self._last_rtt_us)
        self._last_rtt_us = rtt_us
        sample = LinkSample(
            from_agent=self._config.agent_id, to_agent="", method="mqtt_echo", rtt_us=rtt_us, jitter_us=jitter_us
        )
        self.gather((sample,), now_us)

    def on_probe_plan(self, plan: ProbePlan, now_us: int) -> None:
        """The plan replaces the last one; peers that stay keep their turn."""
        self._every_us = plan.every_us
        self._bytes_max = plan.bytes_max
        self._peers = {
            peer.agent_id: (peer, min(self._peers[peer.agent_id][1], now_us + (peer.every_us or plan.every_us)))
            if peer.agent_id in self._peers
            else (peer, now_us)
            for peer in plan.peers
            if peer.agent_id != self._config.agent_id and peer.data_url
        }
        for kept in (self._owed_until_us, self._probe_cost_us, self._probed_bps):
            for agent_id in [agent_id for agent_id in kept if agent_id not in self._peers]:
                del kept[agent_id]
        self._to_confirm &= self._peers.keys()
        self._busy_tries = {agent_id: n for agent_id, n in self._busy_tries.items() if agent_id in self._peers}

    def on_cpu_spent(self, cpu_us: int, now_us: int) -> None:
        """By probes of ours, or those that we served."""
        self._cpu_us += cpu_us
        self._cpu_owed_until_us = max(now_us, self._cpu_owed_until_us) + cpu_us * _PPM // _CPU_PPM

    def on_links_measured(self, samples: tuple[LinkSample, ...], now_us: int, *, busy: bool = False) -> None:
        """Readings of our own socket come by themselves; anything else answers the probe in flight."""
        if self._probing is not None and not (samples and all(sample.method == "tcp_info" for sample in samples)):
            agent_id, _, taken_bytes = self._probing
            self._budget_bytes += taken_bytes - sum(sample.bytes for sample in samples)
            self._probing = None
            self._meter.on_probed(_worth(taken_bytes), samples)
            self._charge(agent_id, samples, now_us)
            if busy:
                self._put_off(agent_id, now_us)
            else:
                self._busy_tries.pop(agent_id, None)
        self.gather(samples, now_us)

    def _put_off(self, agent_id: str, now_us: int) -> None:
        tries = self._busy_tries.get(agent_id, 0)
        if tries == _BUSY_TRIES_MAX or agent_id not in self._peers:
            self._busy_tries.pop(agent_id, None)
            return
        self._busy_tries[agent_id] = tries + 1
        spread = spread_us(f"{self._config.agent_id}>{agent_id}", tries, _BUSY_US)
        peer, _ = self._peers[agent_id]
        self._peers[agent_id] = (peer, now_us + (tries + 1) * (_BUSY_US + spread))

    def _charge(self, agent_id: str, samples: tuple[LinkSample, ...], now_us: int) -> None:
        for sample in samples:
            if sample.method == "probe" and sample.bandwidth_bps:
                self._probe_bytes += sample.bytes
                share_ppm = self._peers[agent_id][0].share_ppm if agent_id in self._peers else _PPM
                cost_us = sample.bytes * 8_000_000 * _PPM // (sample.bandwidth_bps * share_ppm)
                owed_us = max(now_us, self._owed_until_us.get(agent_id, 0)) + cost_us
                self._owed_until_us[agent_id], self._probe_cost_us[agent_id] = owed_us, cost_us
                if not sample.is_lower_bound and agent_id in self._peers:
                    self._compare(agent_id, sample.bandwidth_bps, now_us)

    def _compare(self, agent_id: str, bandwidth_bps: int, now_us: int) -> None:
        """Where the link is not what it was, probe it once more: that counts as any, so that the next ones wait."""
        found = self._probed_bps.setdefault(agent_id, [])
        if agent_id in self._to_confirm:
            self._to_confirm.discard(agent_id)
            if _is_outside(bandwidth_bps, found[:-1]):
                del found[:-1]  # It has become another one: what it was before says nothing any more.
        elif _is_outside(bandwidth_bps, found):
            self._to_confirm.add(agent_id)
            self._peers[agent_id] = (self._peers[agent_id][0], now_us)
        self._probed_bps[agent_id] = [*found, bandwidth_bps][-_PROBED_MAX:]

    def _bytes_for(self, agent_id: str, now_us: int) -> int:
        """What a probe of this peer may take now; 0: an echo only."""
        if agent_id in self._to_confirm:
            return self._bytes_max
        ahead_us = (_PROBES_AHEAD - 1) * self._probe_cost_us.get(agent_id, 0)
        return self._bytes_max if self._owed_until_us.get(agent_id, 0) <= now_us + ahead_us else 0

    def gather(self, samples: tuple[LinkSample, ...], now_us: int) -> None:
        self._samples = [*self._samples, *samples][-_SAMPLES_MAX:]
        if self._report_due_us is not None and any(self._is_news(sample) for sample in samples):
            self._report_due_us = min(self._report_due_us, now_us + _SOON_US)

    def _is_news(self, sample: LinkSample) -> bool:
        """The rate of what came here; of what went out the receiver tells first."""
        return sample.method in ("transfer", "probe") and sample.to_agent == self._config.agent_id

    def on_steps_told(self, steps: TaskSteps) -> None:
        """The newest of each task counts; of more tasks than a report holds, those that spoke last."""
        self._steps.pop(steps.task_id, None)
        self._steps[steps.task_id] = steps
        while len(self._steps) > _STEPS_MAX:
            del self._steps[next(iter(self._steps))]

    def on_fetches_progressed(self, event: FetchesProgressed, now_us: int) -> None:
        """What moves or does not is told soon: the master may know a better source."""
        for fetch in event.fetches:
            self._fetches.pop(fetch.shard_id, None)
            self._fetches[fetch.shard_id] = fetch
        while len(self._fetches) > _FETCHES_MAX:
            del self._fetches[next(iter(self._fetches))]
        self.gather(event.samples, now_us)
        if event.fetches and self._report_due_us is not None:
            self._report_due_us = min(self._report_due_us, now_us + _SOON_US)

    # --- what is due -------------------------------------------------------------------------------------------------

    def due_us(self, session: Session) -> int | None:
        if not session.connected:
            return None  # Nobody asks: a day offline costs no measuring.
        if not session.is_welcome:
            return self._measure_due_us
        due_us = earlier(earlier(self._measure_due_us, self._ping_due_us), self._report_due_us)
        return earlier(due_us, self._probe_due_us())

    def flush(self, batch: Batch, session: Session, control_bytes: int) -> None:
        now_us = batch.now_us
        if session.connected and self._measure_due_us is not None and now_us >= self._measure_due_us:
            batch.do(Measure())
            self._measure_due_us = now_us + self._config.measure_every_us
        if not session.is_welcome or session.welcome is None:
            return
        if self._ping_due_us is not None and now_us >= self._ping_due_us:
            self._ping(batch, session)
            self._ping_due_us = now_us + session.welcome.ping_every_us
        if self._report_due_us is not None and now_us >= self._report_due_us:
            has_news = bool(self._samples or self._fetches or self._steps)
            self._n_silent = 0 if has_news else self._n_silent + 1
            if has_news or self._meter.is_on or self._n_silent % _SILENT_REPORTS == 0:
                session.publish(
                    batch, NetReport, samples=tuple(self._samples), control_bytes=control_bytes,
                    probe_bytes=self._probe_bytes, measuring_cpu_us=self._cpu_us, wire_bytes=self._meter.wire_bytes,
                    fetches=tuple(self._fetches.values()), steps=tuple(self._steps.values()),
                )  # fmt: skip
            self._samples.clear()
            self._fetches.clear()
            self._steps.clear()
            self._report_due_us = now_us + self._config.report_every_us
        self._probe(batch)

    def _ping(self, batch: Batch, session: Session) -> None:
        self._nonce += 1
        self._pings[self._nonce] = batch.now_us
        if len(self._pings) > _PINGS_MAX:
            del self._pings[next(iter(self._pings))]
        session.publish(batch, Ping, nonce=self._nonce)

    # --- probes: one at a time, within the budget --------------------------------------------------------------------

    def _probe_due_us(self) -> int | None:
        if self._probing is not None:
            return self._probing[1]
        if not self._peers or self._refilled_us is None or self._bytes_max > self._config.probe_bytes_per_hour:
            return None
        due_us = min(at_us for _, at_us in self._peers.values())
        missing_bytes = self._bytes_max - self._budget_bytes
        if missing_bytes > 0:
            refill_us = -(-missing_bytes * _HOUR_US // self._config.probe_bytes_per_hour)
            due_us = max(due_us, self._refilled_us + refill_us)
        due_us = max(due_us, self._cpu_owed_until_us - _CPU_AHEAD_US * _PPM // _CPU_PPM)
        return max(due_us, self._meter.due_us(ECHO_BYTES)) if self._meter.is_on else due_us

    def _probe(self, batch: Batch) -> None:
        now_us = batch.now_us
        if self._probing is not None and now_us >= self._probing[1]:
            self._probing = None
        due_us = self._probe_due_us()
        if self._probing is not None or due_us is None or now_us < due_us:
            return
        self._refill(now_us)
        agent_id, (peer, _) = min(self._peers.items(), key=lambda item: (item[1][1], item[0]))
        # The next turn differs from agent to agent, so that peers are not all probed in the same instant.
        every_us = peer.every_us or self._every_us
        next_us = now_us + every_us + spread_us(f"{self._config.agent_id}>{agent_id}", 0, every_us // 10)
        self._peers[agent_id] = (peer, next_us)
        bytes_max = self._bytes_for(agent_id, now_us)
        if self._meter.is_on:
            if self._meter.left_bytes() < _worth(bytes_max):
                bytes_max = 0  # It is known again how far it is, if not how wide.
            self._meter.take(batch, _worth(bytes_max))
        self._budget_bytes -= bytes_max
        self._probing = (agent_id, now_us + _PROBE_TIMEOUT_US, bytes_max)
        batch.do(Probe(peer=peer, bytes_max=bytes_max))

    def _refill(self, now_us: int) -> None:
        assert self._refilled_us is not None, "probing before the start"
        refill_bytes = (now_us - self._refilled_us) * self._config.probe_bytes_per_hour // _HOUR_US
        self._budget_bytes = min(self._config.probe_bytes_per_hour, self._budget_bytes + refill_bytes)
        self._refilled_us = now_us


def _worth(bytes_max: int) -> int:
    """What a probe of so many bytes takes of a metered line at most."""
    return ECHO_BYTES + on_wire(bytes_max)


def _is_outside(bandwidth_bps: int, before: list[int]) -> bool:
    """Whether a rate is a third away from all that were found before."""
    if not before:
        return False
    is_below = bandwidth_bps * 1000 < _CHANGED_MILLI * min(before)
    return is_below or bandwidth_bps * _CHANGED_MILLI > 1000 * max(before)

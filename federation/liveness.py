"""The life of agents: births, deaths, sequence numbers, silence, and two processes that claim one id.

Silence is measured on the master's clock from the last message of the current connection. While the broker is lost, or
after the master itself was stalled, silence is nobody's fault and is not counted.
"""

from federation.agents_book import HERE_STATES, AgentEntry, Life, enrolment, impossible_total
from federation.core import Core
from federation.facts import AgentForgotten
from federation.market import running, subscriptions
from federation.market.leasing import rescind_agent
from federation.offers import drop_offer
from federation.probing import agents_changed
from federation.reconcile import arrived, on_birth
from federation.reports import fail_attempt
from federation.states import AgentState, OfferState
from federation.wire import Birth, Death, FromAgent, Ping, Pong, Quarantine, RebirthRequest, Welcome

# A skipped sequence number may only be late: it is missed after this long. Brokers reorder within a round trip or two.
GAP_GRACE_US = 1_000_000
MISSING_MAX = 64
# More births than this within `quarantine_us` are no bad link (each comes with a back-off of the client, of a second
# and more) but two machines with one id that throw each other off the broker.
BIRTHS_MAX = 20


# --- births ----------------------------------------------------------------------------------------------------------


def born(core: Core, birth: Birth) -> None:
    entry = core.agents.get(birth.agent_id)
    problem = impossible_total(birth.total)
    if problem is not None:
        core.count("births_impossible")
        return
    if entry is None and len(core.agents) >= core.config.agents_max:
        oldest = core.agents.longest_lost()
        if oldest is None:
            core.count("births_over_bound")
            return
        core.persist(AgentForgotten(at_us=core.now_us, agent_id=oldest.agent_id))
        for timer in ("agent", "gap", "resend", "offer"):
            core.deadlines.cancel((timer, oldest.agent_id))
    if entry is not None and not _is_news(core, entry, birth):
        core.count("births_stale")
        return
    acked = frozenset[int]()
    if entry is not None:
        acked = _leave_life(core, entry, birth)
    _enrol(core, entry, birth)
    entry = core.agents[birth.agent_id]
    entry.life = Life(birth.boot, birth.conn, birth.seq, core.now_us)
    entry.rebirth_asked_us = None
    core.deadlines.cancel(("gap", entry.agent_id))
    core.count("births")
    _watch(core, entry)
    _welcome(core, entry)
    if entry.state is AgentState.QUARANTINED:
        core.send(entry.agent_id, Quarantine(term=core.term, reason=entry.detail))
    elif entry.state is not AgentState.ONLINE:
        core.change_agent_state(entry, AgentState.ONLINE)
        core.rounds.changed = True
    if _too_many_births(core, entry):
        quarantine(core, entry, f"more than {BIRTHS_MAX} births in {core.config.quarantine_us // 1_000_000} s")
    on_birth(core, entry, birth, acked)
    agents_changed(core)


def _is_news(core: Core, entry: AgentEntry, birth: Birth) -> bool:
    """Whether a birth begins a new life or says more of the current one. Quarantines twins on the way."""
    life = entry.life
    if life is None:
        return True
    if birth.boot == life.boot:
        return birth.conn > life.conn or (birth.conn == life.conn and birth.seq >= life.next_seq)
    left = entry.boots_left.get(birth.boot)
    if left is None:
        # A lower boot that was never seen is a new installation, unless it is only a late message.
        return birth.boot > life.boot or life.dead or entry.state not in HERE_STATES or _is_silent(core, entry)
    last_conn, left_us = left
    if birth.conn <= last_conn:
        # Late, or its disk was wiped and it counts from one again: the latter only when nobody else is there.
        is_gone = life.dead or entry.state not in HERE_STATES
        return is_gone and core.now_us - left_us > core.config.quarantine_us
    if core.now_us - left_us <= core.config.quarantine_us:
        quarantine(core, entry, f"boots {life.boot} and {birth.boot} speak in turns: two processes use this id")
    return True


def _is_silent(core: Core, entry: AgentEntry) -> bool:
    return entry.life is None or core.now_us - entry.life.heard_us >= core.config.ping_every_us


def _leave_life(core: Core, entry: AgentEntry, birth: Birth) -> frozenset[int]:
    """Forget what was said to the earlier life; the launches that it acknowledged."""
    life = entry.life
    acked = frozenset(
        task.cmd_id
        for task_id in entry.tasks
        if life is not None and (task := core.tasks.tasks[task_id]).cmd_id not in entry.sent
        and task.cmd_id >> 32 == core.term
    )  # fmt: skip
    if life is not None:
        acked |= {
            task.cmd_id
            for task in entry.holdings.tasks.values()
            if task.cmd_id not in entry.sent and task.cmd_id >> 32 == core.term
        }
    entry.sent.clear()
    core.deadlines.cancel(("resend", entry.agent_id))
    core.moves.forget_agent(entry.agent_id)
    if life is not None and life.boot != birth.boot:
        entry.boots_left[life.boot] = (life.conn, core.now_us)
        while len(entry.boots_left) > 8:
            del entry.boots_left[next(iter(entry.boots_left))]
    if life is None or (life.boot, life.conn) != (birth.boot, birth.conn):
        _rescind(core, entry)
    return acked


def _enrol(core: Core, entry: AgentEntry | None, birth: Birth) -> None:
    """Write what the birth tells anew."""
    fact = enrolment(birth, core.now_us)
    if entry is not None and enrolment(birth, entry.enrolled.at_us) == entry.enrolled:
        return
    core.persist(fact)
    core.rounds.changed = True


def _welcome(core: Core, entry: AgentEntry) -> None:
    life, config = entry.life, core.config
    assert life is not None
    metered = entry.enrolled.metered
    entry.said = None
    entry.renew_us = max(
        config.metered_offer_every_us if metered else config.offer_every_us,
        len(core.agents.entries) * 1_000_000 // config.renewals_per_s_max,
    )
    core.send(
        entry.agent_id,
        Welcome(
            term=core.term,
            boot=life.boot,
            conn=life.conn,
            offer_every_us=entry.renew_us,
            ping_every_us=config.metered_echo_every_us if metered else config.echo_every_us,
            offer_lease_us=lease_us(core, entry),
            data_url=core.http_url,
            offer_deltas=metered,
        ),
    )


def _too_many_births(core: Core, entry: AgentEntry) -> bool:
    since_us = core.now_us - core.config.quarantine_us
    entry.births = [at_us for at_us in entry.births if at_us > since_us] + [core.now_us]
    return len(entry.births) > BIRTHS_MAX


# --- messages --------------------------------------------------------------------------------------------------------


def speaker(core: Core, message: FromAgent) -> AgentEntry | None:
    """The agent whose current connection sent this, seen alive by it; None when it is not to be listened to."""
    entry = core.agents.get(message.agent_id)
    life = entry.life if entry is not None else None
    if entry is None or life is None:
        _ask_unknown(core, message)
        return None
    if (message.boot, message.conn) != (life.boot, life.conn):
        core.count("messages_of_other_life")
        if message.boot > life.boot or (message.boot == life.boot and message.conn > life.conn):
            ask_rebirth(core, entry)  # Its birth was lost.
        return None
    if life.dead:
        core.count("messages_of_the_dead")
        ask_rebirth(core, entry)
        return None
    life.heard_us = core.now_us
    _follow_seq(core, entry, life, message.seq)
    if entry.state is AgentState.SUSPECT:
        core.change_agent_state(entry, AgentState.ONLINE)
        core.rounds.changed = True
    elif entry.state in (AgentState.DISCONNECTED, AgentState.LOST):
        ask_rebirth(core, entry)
    return entry


def _follow_seq(core: Core, entry: AgentEntry, life: Life, seq: int) -> None:
    if seq == life.next_seq:
        life.next_seq += 1
        return
    if seq < life.next_seq:
        if seq in life.missing:
            life.missing.discard(seq)
            if not life.missing:
                core.deadlines.cancel(("gap", entry.agent_id))
        else:
            core.count("messages_duplicate")
        return
    core.count("seq_gaps")
    life.missing.update(range(max(life.next_seq, seq - MISSING_MAX), seq))
    while len(life.missing) > MISSING_MAX:
        life.missing.discard(min(life.missing))
    life.next_seq = seq + 1
    core.deadlines.set_earlier(("gap", entry.agent_id), core.now_us + GAP_GRACE_US)


def gap_stays(core: Core, entry: AgentEntry) -> None:
    """What was skipped has not come: the agent says everything anew."""
    if entry.life is not None and entry.life.missing:
        entry.life.missing.clear()
        ask_rebirth(core, entry)


def _ask_unknown(core: Core, message: FromAgent) -> None:
    """Someone speaks whose birth this term has not seen (yet): it is asked once in a while."""
    core.count("messages_of_unborn")
    if message.agent_id in core.asked_unborn and (
        core.now_us - core.asked_unborn[message.agent_id] < core.config.rebirth_every_us
    ):
        return
    if len(core.asked_unborn) >= core.config.agents_max:
        del core.asked_unborn[next(iter(core.asked_unborn))]
    core.asked_unborn.pop(message.agent_id, None)
    core.asked_unborn[message.agent_id] = core.now_us
    core.send(message.agent_id, RebirthRequest(term=core.term, spread_us=core.config.rebirth_spread_us))


def ask_rebirth(core: Core, entry: AgentEntry) -> None:
    """Ask once, and again only after `rebirth_every_us`."""
    if entry.rebirth_asked_us is not None and core.now_us - entry.rebirth_asked_us < core.config.rebirth_every_us:
        return
    entry.rebirth_asked_us = core.now_us
    core.count("rebirths_asked")
    core.send(entry.agent_id, RebirthRequest(term=core.term, spread_us=core.config.rebirth_spread_us))


def died(core: Core, death: Death) -> None:
    entry = core.agents.get(death.agent_id)
    life = entry.life if entry is not None else None
    if entry is None or life is None or life.dead or (death.boot, death.conn) != (life.boot, life.conn):
        core.count("deaths_stale")
        return
    life.dead = True
    core.count("deaths")
    _rescind(core, entry)
    if entry.state in HERE_STATES:
        core.change_agent_state(entry, AgentState.DISCONNECTED, death.reason)
        running.unreachable(core, entry)
        _watch(core, entry)
    agents_changed(core)


def ping(core: Core, entry: AgentEntry, message: Ping) -> None:
    core.send(entry.agent_id, Pong(nonce=message.nonce))


# --- silence ---------------------------------------------------------------------------------------------------------


def _heard_us(core: Core, entry: AgentEntry) -> int:
    heard_us = entry.life.heard_us if entry.life is not None else entry.since_us
    return max(heard_us, core.quiet_until_us)


def lease_us(core: Core, entry: AgentEntry) -> int:
    """The longest lease an offer of this agent gets: as many renewals as the configured one."""
    config = core.config
    return max(config.offer_lease_us, entry.renew_us * config.offer_lease_us // config.offer_every_us)


def _suspect_after_us(core: Core, entry: AgentEntry) -> int:
    """Silence that is told to be long may be long."""
    config = core.config
    return max(config.suspect_after_us, entry.renew_us * config.suspect_after_us // config.offer_every_us)


def _disconnected_after_us(core: Core, entry: AgentEntry) -> int:
    return _suspect_after_us(core, entry) + core.config.disconnected_after_us - core.config.suspect_after_us


def _watch(core: Core, entry: AgentEntry) -> None:
    """Look at the agent again when its state could change by silence alone."""
    key = ("agent", entry.agent_id)
    match entry.state:
        case AgentState.ONLINE:
            core.deadlines.set(key, _heard_us(core, entry) + _suspect_after_us(core, entry))
        case AgentState.SUSPECT:
            core.deadlines.set(key, _heard_us(core, entry) + _disconnected_after_us(core, entry))
        case AgentState.DISCONNECTED:
            core.deadlines.set(key, max(entry.since_us, core.quiet_until_us) + core.config.lost_after_us)
        case AgentState.QUARANTINED:
            core.deadlines.set(key, max(entry.since_us, core.quiet_until_us) + core.config.quarantine_us)
        case AgentState.LOST:
            core.deadlines.cancel(key)


def watch_all(core: Core) -> None:
    for entry in core.agents.entries.values():
        _watch(core, entry)


def check(core: Core, entry: AgentEntry) -> None:
    """The agent's deadline has come: step down one state if it is still silent, else look again later."""
    now_us, config = core.now_us, core.config
    if not core.broker_found:
        core.deadlines.set(("agent", entry.agent_id), now_us + config.suspect_after_us)
        return
    silent_us = now_us - _heard_us(core, entry)
    match entry.state:
        case AgentState.ONLINE if silent_us >= _suspect_after_us(core, entry):
            _rescind(core, entry)
            core.change_agent_state(entry, AgentState.SUSPECT, f"silent for {silent_us // 1000} ms")
        case AgentState.SUSPECT if silent_us >= _disconnected_after_us(core, entry):
            core.change_agent_state(entry, AgentState.DISCONNECTED, f"silent for {silent_us // 1000} ms")
            running.unreachable(core, entry)
            agents_changed(core)
        case AgentState.DISCONNECTED if now_us - max(entry.since_us, core.quiet_until_us) >= config.lost_after_us:
            _lose(core, entry)
        case AgentState.QUARANTINED:
            _end_quarantine(core, entry)
            if entry.state is AgentState.QUARANTINED:
                core.deadlines.set(("agent", entry.agent_id), now_us + config.quarantine_us)
                return
        case _:
            pass
    _watch(core, entry)


def _lose(core: Core, entry: AgentEntry) -> None:
    """Gone for too long: what ran there runs again elsewhere, or has failed."""
    core.change_agent_state(entry, AgentState.LOST)
    entry.life = None
    entry.sent.clear()
    core.moves.forget_agent(entry.agent_id)
    for task_id in list(entry.tasks):
        fail_attempt(core, core.tasks.tasks[task_id], "agent_lost", f"{entry.agent_id} was silent for too long")
    running.gone(core, entry)
    subscriptions.agent_gone(core, entry)
    arrived(core, entry.agent_id)


def _rescind(core: Core, entry: AgentEntry) -> None:
    if drop_offer(entry):
        core.count(f"offers_{OfferState.RESCINDED}")
    rescind_agent(core, entry, str(entry.state))
    core.deadlines.cancel(("offer", entry.agent_id))


def stalled(core: Core, late_us: int) -> None:
    """The master itself was not running for a while: nobody is suspect for that."""
    core.count("stalls")
    core.quiet_until_us = core.now_us


# --- quarantine ------------------------------------------------------------------------------------------------------


def quarantine(core: Core, entry: AgentEntry, reason: str) -> None:
    """No new work for this id; what runs is kept and reports are taken."""
    if entry.state is not AgentState.QUARANTINED:
        _rescind(core, entry)
        core.change_agent_state(entry, AgentState.QUARANTINED, reason)
        core.send(entry.agent_id, Quarantine(term=core.term, reason=reason))
        agents_changed(core)
    else:
        entry.quarantined_again_us = core.now_us
    _watch(core, entry)


def _end_quarantine(core: Core, entry: AgentEntry) -> None:
    """One process is left if nobody took turns lately; it is welcomed by its next birth."""
    if core.now_us - max(entry.since_us, entry.quarantined_again_us) < core.config.quarantine_us:
        return
    if entry.life is None or entry.life.dead or _is_silent_long(core, entry):
        if core.now_us - entry.since_us >= core.config.lost_after_us:
            _lose(core, entry)
        return
    core.change_agent_state(entry, AgentState.ONLINE, "")
    entry.births.clear()
    entry.boots_left.clear()
    core.count("quarantines_ended")
    ask_rebirth(core, entry)


def _is_silent_long(core: Core, entry: AgentEntry) -> bool:
    return core.now_us - _heard_us(core, entry) >= _suspect_after_us(core, entry)


def is_new(core: Core, message: FromAgent) -> bool:
    """Whether this message of a connection was not seen before; asked before `speaker` takes note of it."""
    entry = core.agents.get(message.agent_id)
    if entry is None or entry.life is None:
        return True
    return message.seq >= entry.life.next_seq or message.seq in entry.life.missing


def may_offer(entry: AgentEntry) -> bool:
    return entry.state is AgentState.ONLINE

"""Frameworks come, fail over and go: who has which stream, and what becomes of those that stay away."""

from federation.agents_book import AgentEntry
from federation.api import Answer, Problem
from federation.commands import Emit
from federation.core import Core
from federation.events import FrameworkCalled
from federation.launches import kill_of
from federation.market import operations
from federation.market.book import FrameworkEntry
from federation.market.constraints import ConstraintError, parse_all
from federation.market.facts import FrameworkEnded, FrameworkSet
from federation.market.leasing import clear_filters, emit, end_lease, rescind
from federation.market.protocol import (
    CallTaken,
    Error,
    Failure,
    FrameworkInfo,
    Heartbeat,
    Revive,
    Subscribe,
    Subscribed,
    Suppress,
    UpdateFramework,
)
from federation.market.running import change, tell_all


def refusal(status: int, code: str, title: str, detail: str = "") -> Problem:
    return Problem(status=status, code=code, title=title, detail=detail)


def subscribe(core: Core, event: FrameworkCalled, call: Subscribe) -> Answer:
    problem = check_info(core, call.framework, event.principal, call.suppressed_roles)
    if problem is not None:
        return problem
    if not event.stream_id:
        return refusal(400, "no_stream", "A subscription needs a stream")
    framework_id = call.framework_id or event.framework_id
    market = core.market
    if not framework_id:
        if len(market.frameworks) >= core.config.frameworks_max:
            return refusal(503, "full", "The master's books are full", f"{core.config.frameworks_max} frameworks")
        framework_id = f"offerflow-{core.term}-{market.n_frameworks_ever + 1:04}"
        core.persist(
            FrameworkSet(at_us=core.now_us, framework_id=framework_id, info=call.framework, principal=event.principal)
        )
    framework = market.frameworks.get(framework_id)
    if framework is None:
        return refusal(
            403, "framework_removed", "Framework has been removed",
            f"{framework_id!r} was torn down, stayed away past its failover timeout, or was never here",
        )  # fmt: skip
    if framework.principal != event.principal:
        return refusal(403, "other_principal", "The framework belongs to another principal")
    if framework.stream_id and framework.stream_id != event.stream_id:
        emit(core, framework, Error(message="Framework failed over"), close=True)
        core.count("framework_failovers")
    for made in list(framework.offers.values()):
        end_lease(core, made)  # The new stream never heard of them.
    if framework.info != call.framework:
        core.persist(
            FrameworkSet(at_us=core.now_us, framework_id=framework_id, info=call.framework, principal=event.principal)
        )
    framework.stream_id, framework.gone_us = event.stream_id, None
    framework.suppressed = set(call.suppressed_roles)
    core.deadlines.cancel(("market", "failover", framework_id))
    core.deadlines.set_earlier(("market", "heartbeat", framework_id), core.now_us + core.config.heartbeat_us)
    changed(core)
    core.count("framework_subscriptions")
    emit(core, framework, Subscribed(framework_id=framework_id, heartbeat_us=core.config.heartbeat_us))
    emit(core, framework, Heartbeat())
    tell_all(core, framework)
    for operation_id in framework.operations:
        operations.tell(core, framework, operation_id)
    market.allocated_us = -(2**62)
    return CallTaken(framework_id=framework_id)


def check_info(
    core: Core, info: FrameworkInfo, principal: str, suppressed: tuple[str, ...]
) -> Problem | None:  # fmt: skip
    """Why a framework cannot be what it says; None when it can."""
    if info.principal and principal and info.principal != principal:
        return refusal(403, "other_principal", "The framework names another principal than it speaks for")
    if not info.roles or len(set(info.roles)) != len(info.roles):
        return refusal(400, "bad_roles", "Each role is named once, and at least one")
    if len(info.roles) > 1 and "MULTI_ROLE" not in info.capabilities:
        return refusal(400, "bad_roles", "Several roles need the capability MULTI_ROLE")
    unknown = [role for role in suppressed if role not in info.roles]
    if unknown:
        return refusal(400, "bad_roles", "Only the framework's own roles can be suppressed", ", ".join(unknown))
    shares = core.shares
    for role in info.roles:
        if not core.config.roles_open and role not in shares.roles:
            known = ", ".join(sorted(shares.roles))
            return refusal(403, "unknown_role", "There is no such role", f"{role!r} is not set up; known are {known}")
    n_new = len({role for role in info.roles if role not in shares.roles})
    if n_new and len(shares.roles) + sum(shares.new_roles(role) for role in info.roles) > core.config.roles_max:
        return refusal(503, "full", "The master's books are full", f"there are {core.config.roles_max} roles")
    others = [role for role in info.least_offers if role not in info.roles]
    if others:
        return refusal(400, "bad_roles", "Offer filters are of roles the framework has not", ", ".join(others))
    for role, texts in info.constraints.items():
        if role and role not in info.roles:
            return refusal(400, "bad_constraint", "A constraint is of a role the framework has not", role)
        for text in texts:
            try:
                parse_all(text)
            except ConstraintError as error:
                return refusal(400, "bad_constraint", "An offer constraint is wrong", str(error))
    return None


def update(core: Core, framework: FrameworkEntry, call: UpdateFramework) -> Answer:
    problem = check_info(core, call.framework, framework.principal, call.suppressed_roles)
    if problem is not None:
        return problem
    for name in ("user", "checkpoint", "principal"):
        if getattr(call.framework, name) != getattr(framework.info, name):
            return refusal(400, "fixed_field", f"Updating 'FrameworkInfo.{name}' is unsupported")
    for made in list(framework.offers.values()):
        if made.offer.role not in call.framework.roles:
            rescind(core, made, "role left")
    clear_filters(core, framework, frozenset(framework.info.roles) - frozenset(call.framework.roles))
    core.persist(
        FrameworkSet(
            at_us=core.now_us,
            framework_id=framework.framework_id,
            info=call.framework,
            principal=framework.principal,
        )
    )
    framework.suppressed = set(call.suppressed_roles)
    changed(core)
    return CallTaken(framework_id=framework.framework_id)


def revive(core: Core, framework: FrameworkEntry, call: Revive) -> Answer:
    roles = frozenset(call.roles or framework.info.roles)
    if not roles <= frozenset(framework.info.roles):
        return _not_its(framework, roles)
    framework.suppressed -= roles
    framework.n_ignored = 0
    for want in framework.wants.values():
        want.is_paused = want.is_paused and want.wanted.role not in roles
    core.rounds.changed = True
    clear_filters(core, framework, roles)
    changed(core)
    core.market.allocated_us = -(2**62)  # At once.
    return CallTaken(framework_id=framework.framework_id)


def suppress(core: Core, framework: FrameworkEntry, call: Suppress) -> Answer:
    roles = frozenset(call.roles or framework.info.roles)
    if not roles <= frozenset(framework.info.roles):
        return _not_its(framework, roles)
    framework.suppressed |= roles
    for want in framework.wants.values():
        want.is_paused = want.is_paused or want.wanted.role in roles
    core.market.tree = None
    return CallTaken(framework_id=framework.framework_id)


def _not_its(framework: FrameworkEntry, roles: frozenset[str]) -> Problem:
    other = ", ".join(sorted(roles - frozenset(framework.info.roles)))
    return refusal(400, "bad_roles", "These are not the framework's roles", other)


def changed(core: Core) -> None:
    """Who may be offered what is no longer as it was."""
    core.market.tree = None
    core.market.all_dirty = True


# --- going -----------------------------------------------------------------------------------------------------------


def disconnect(core: Core, framework: FrameworkEntry) -> None:
    """The stream is gone: offers return, tasks run on until the failover timeout."""
    framework.stream_id = ""
    framework.gone_us = core.now_us
    for made in list(framework.offers.values()):
        end_lease(core, made)
    framework.inverse.clear()
    framework.retries.clear()
    framework.n_ignored = 0
    clear_filters(core, framework, frozenset(role for role, _ in framework.filters))
    changed(core)
    core.count("framework_disconnections")
    core.deadlines.cancel(("market", "heartbeat", framework.framework_id))
    core.deadlines.cancel(("market", "retry", framework.framework_id))
    core.deadlines.set(
        ("market", "failover", framework.framework_id), core.now_us + framework.info.failover_timeout_us
    )  # fmt: skip


def end(core: Core, framework: FrameworkEntry, reason: str) -> None:
    """The framework is over: every task of it is killed, and what it had returns."""
    for made in list(framework.offers.values()):
        end_lease(core, made)
    for task in list(framework.tasks.values()):
        if task.is_open:
            entry = core.agents[task.agent_id]
            change(core, task, "TASK_KILLED", "REASON_FRAMEWORK_REMOVED", reason)
            core.order(entry, [kill_of(core, entry, task.wire_id, task.attempt, "framework_ended")])
    for request_id in list(framework.wants):
        core.market.drop_want(framework, request_id)
    clear_filters(core, framework, frozenset(role for role, _ in framework.filters))
    core.persist(FrameworkEnded(at_us=core.now_us, framework_id=framework.framework_id, reason=reason))
    for timer in ("heartbeat", "retry", "failover", "inverse"):
        core.deadlines.cancel(("market", timer, framework.framework_id))
    changed(core)
    core.count("frameworks_ended")


def heartbeat(core: Core, framework: FrameworkEntry) -> None:
    if framework.stream_id:
        emit(core, framework, Heartbeat())
        core.deadlines.set(("market", "heartbeat", framework.framework_id), core.now_us + core.config.heartbeat_us)


def agent_gone(core: Core, entry: AgentEntry) -> None:
    """Every framework hears of an agent that is lost."""
    for framework in core.market.frameworks.values():
        if framework.stream_id:
            emit(core, framework, Failure(agent_id=entry.agent_id))


def closing(framework_id: str, stream_id: str, message: str) -> Emit:
    return Emit(framework_id=framework_id, stream_id=stream_id, event=Error(message=message), close=True)

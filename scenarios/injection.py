"""Faults carried out: each at its time, undone at its end, with the time it took until all was in service again."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from federation.api import SetAgentMode
from federation.states import AgentState
from policies.model import Record
from scenarios.broker import Broker, Timetable
from scenarios.fabric import Fabric
from scenarios.faults import (
    ClockFault,
    CutFault,
    DiskFault,
    Fault,
    KillFault,
    LieFault,
    LinkFault,
    MaintenanceFault,
    MessageFault,
    PauseFault,
    ends_us,
    sentence,
)
from scenarios.simulated_agent import SimulatedAgent
from scenarios.simulated_master import SimulatedMaster
from scenarios.world import World

POLL_US = 100_000  # how exactly recovery is timed
Mode = Literal["active", "cordoned", "draining"]
TRUE_PPM = 1_000_000  # what a claim that is no lie is multiplied by


class Incident(Record, frozen=True, kw_only=True):
    """One fault as it went, times from the start. `recovery_us` counts from when its cause was over until everyone it
    touched was in service again; None: not within the run, or nothing to recover."""

    what: str
    began_us: int
    over_us: int | None
    recovery_us: int | None
    struck: bool = True  # False: its named point never came


def _whom(fault: Fault) -> tuple[str, ...]:
    """The agents that it strikes, or the master ("")."""
    target = getattr(fault, "target", "agents")
    return ("",) if target == "master" else tuple(getattr(fault, "agents", ()))


class _Case:
    __slots__ = ("began_us", "fault", "over_us", "recovery_us", "struck")

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.began_us = fault.at_us
        self.over_us: int | None = None
        self.recovery_us: int | None = None
        self.struck = False


class Injector:
    def __init__(
        self,
        world: World,
        fabric: Fabric,
        broker: Broker,
        master: SimulatedMaster,
        agents: dict[str, SimulatedAgent],
        timetable: Timetable,
    ) -> None:
        self._world = world
        self._fabric = fabric
        self._broker = broker
        self._master = master
        self._agents = agents
        self._timetable = timetable
        self._cases = [_Case(fault) for fault in world.faults]
        self._on: dict[tuple[type[Fault], str], list[Fault]] = {}  # by kind and whom ("" is the master), oldest first
        self._start_us = 0
        self.n_recovering = 0  # faults that are over and not got over
        ends = [ends_us(fault) for fault in world.faults]
        self.over_us = max((end for end in ends if end is not None), default=0)  # from the start: all has happened

    def begin(self, start_us: int) -> None:
        self._start_us = start_us
        for case in self._cases:
            self._timetable.call(start_us + case.fault.at_us, partial(self._strike, case))
        for change in self._world.variations:
            way = (change.from_site, change.to_site)
            self._timetable.call(start_us + change.at_us, partial(self._fabric.vary, way, change.spec))

    def incidents(self) -> tuple[Incident, ...]:
        return tuple(
            Incident(
                what=sentence(case.fault),
                began_us=case.began_us,
                over_us=case.over_us,
                recovery_us=case.recovery_us,
                struck=case.struck,
            )
            for case in self._cases
        )

    # --- one fault ---------------------------------------------------------------------------------------------------

    def _strike(self, case: _Case, now_us: int) -> None:
        fault = case.fault
        match fault:
            case KillFault():
                self._kill(case, fault, now_us)
                return
            case ClockFault(until_us=None, jump_us=jump_us):
                for who in _whom(fault):
                    (self._agents[who].clock if who else self._master.clock).jump(jump_us)
                case.struck = True
                self._over(case, now_us, ())
                return
            case _:
                case.struck = True
                self._begin(fault, now_us)
                assert fault.until_us is not None, "it has an end"
                self._timetable.call(
                    self._start_us + fault.until_us, lambda at_us: self._end_and_watch(case, fault, at_us)
                )

    def _begin(self, fault: Fault, now_us: int) -> None:
        match fault:
            case CutFault(ways=ways):
                for way in ways:
                    self._fabric.cut(way, now_us)
                self._broker.ways_changed(now_us)
            case LinkFault():
                self._fabric.begin_fault(fault, now_us)
            case MessageFault():
                self._broker.harms.append(fault)
            case _:
                for who in _whom(fault):
                    on = self._on.setdefault((type(fault), who), [])
                    on.append(fault)
                    self._settle(fault, who, on, now_us)

    def _end(self, fault: Fault, now_us: int) -> tuple[str, ...]:
        """Undo it; the agents that have to recover."""
        match fault:
            case CutFault(ways=ways):
                for way in ways:
                    self._fabric.mend(way, now_us)
                self._broker.ways_changed(now_us)
                sites = {site for way in ways if self._world.master_site in way for site in way}
                return tuple(spec.agent_id for spec in self._world.agents if spec.site in sites)
            case LinkFault():
                self._fabric.end_fault(fault, now_us)
            case MessageFault():
                self._broker.harms.remove(fault)
            case _:
                for who in _whom(fault):
                    on = self._on[type(fault), who]
                    on.remove(fault)
                    self._settle(fault, who, on, now_us)
                return fault.agents if isinstance(fault, PauseFault) else ()
        return ()

    def _settle(self, fault: Fault, who: str, on: list[Fault], now_us: int) -> None:
        """Make it so for one agent, or the master (""): what the faults of this kind that are on come to, the latest
        counting most. The end of one is not the end of another."""
        match fault:
            case PauseFault():
                process = self._agents[who] if who else self._master
                if on:
                    process.pause(now_us)
                else:
                    process.resume(now_us)
            case DiskFault() if who:
                self._agents[who].disk_changed(is_full=bool(on), now_us=now_us)
            case DiskFault():
                self._master.disk_is_full = bool(on)
                if not on:
                    self._master.start(now_us)
            case LieFault():
                lies = [each for each in on if isinstance(each, LieFault)]
                bandwidths = [each.bandwidth_ppm for each in lies if each.bandwidth_ppm != TRUE_PPM]
                capacities = [each.capacity_ppm for each in lies if each.capacity_ppm != TRUE_PPM]
                self._agents[who].data.bandwidth_ppm = bandwidths[-1] if bandwidths else TRUE_PPM
                self._agents[who].capacity_ppm = capacities[-1] if capacities else TRUE_PPM
            case ClockFault():
                drifts = [each.drift_ppm for each in on if isinstance(each, ClockFault)]
                clock = self._agents[who].clock if who else self._master.clock
                clock.drift(drifts[-1] if drifts else 0, now_us)
            case MaintenanceFault():
                modes = [each.mode for each in on if isinstance(each, MaintenanceFault)]
                mode: Mode = modes[-1] if modes else "active"
                self._master.ask(SetAgentMode(agent_id=who, mode=mode), now_us, lambda *_: None)
            case _:
                raise AssertionError(f"{fault!r} is not of one process")

    def _end_and_watch(self, case: _Case, fault: Fault, now_us: int) -> None:
        self._over(case, now_us, self._end(fault, now_us))

    # --- kills -------------------------------------------------------------------------------------------------------

    def _kill(self, case: _Case, fault: KillFault, now_us: int) -> None:
        def died(at_us: int) -> None:
            """The process ended: it starts again as long after that as the file says."""
            case.struck, case.began_us = True, at_us - self._start_us

        match fault.target:
            case "master":

                def master_died(at_us: int) -> None:
                    died(at_us)
                    self._revive(case, fault, at_us)

                self._master.kill_at(fault.point, now_us, master_died)
            case "broker":

                def broker_died(at_us: int) -> None:
                    died(at_us)
                    self._master.lose_broker(at_us)
                    self._revive(case, fault, at_us)

                self._broker.kill_at(fault.point, now_us, broker_died)
            case "agents":
                for index, agent_id in enumerate(fault.agents):
                    self._kill_agent(case, fault, index, agent_id, died, now_us)

    def _kill_agent(
        self, case: _Case, fault: KillFault, index: int, agent_id: str, died: Callable[[int], None], now_us: int
    ) -> None:
        agent = self._agents[agent_id]

        def dead(at_us: int) -> None:
            died(at_us)
            agent.n_holding_down += 1
            if fault.restarts_us is not None:
                restart_us = max(at_us, at_us + fault.restarts_us[index] - fault.at_us)
                self._timetable.call(restart_us, restart)
                if index == len(fault.agents) - 1:
                    last_us = at_us + max(fault.restarts_us) - fault.at_us
                    self._timetable.call(last_us, lambda over_us: self._over(case, over_us, fault.agents))

        def restart(at_us: int) -> None:
            agent.n_holding_down -= 1
            agent.start(at_us)

        agent.kill_at(fault.point, now_us, dead, power=fault.power)

    def _revive(self, case: _Case, fault: KillFault, now_us: int) -> None:
        process = self._master if fault.target == "master" else self._broker
        process.n_holding_down += 1
        if fault.restarts_us is None:
            return

        def restart(at_us: int) -> None:
            process.n_holding_down -= 1
            process.start(at_us)
            if fault.target == "broker" and self._broker.up:
                self._master.find_broker(at_us)
            self._over(case, at_us, () if fault.target == "master" else tuple(self._agents))

        self._timetable.call(now_us + fault.restarts_us[0] - fault.at_us, restart)

    # --- recovery ----------------------------------------------------------------------------------------------------

    def _over(self, case: _Case, now_us: int, agents: tuple[str, ...]) -> None:
        """The cause is gone: time until these agents, and the master, are in service. While another fault keeps one of
        them down, that one is the cause, and its end is waited for."""
        case.over_us = now_us - self._start_us
        processes: list[SimulatedMaster | Broker | SimulatedAgent] = [self._master, self._broker]
        processes += [self._agents[agent_id] for agent_id in agents]

        def poll(at_us: int) -> None:
            nonlocal now_us
            if any(process.n_holding_down for process in processes):
                now_us = at_us
            if self._is_serving() and all(self._is_online(agent_id) for agent_id in agents):
                case.recovery_us = at_us - now_us
                self.n_recovering -= 1
            else:
                self._timetable.call(at_us + POLL_US, poll)

        if isinstance(case.fault, KillFault | PauseFault | CutFault | DiskFault):
            self.n_recovering += 1
            poll(now_us)

    def _is_serving(self) -> bool:
        core = self._master.core
        return core is not None and core.core.started and not core.core.recovering and core.core.broker_found

    def _is_online(self, agent_id: str) -> bool:
        """In service by its present process, as the master sees it; one that a later fault killed counts as it is."""
        master, agent = self._master.core, self._agents[agent_id]
        entry = master.core.agents.get(agent_id) if master is not None else None
        if agent.core is None or entry is None or entry.life is None:
            return False
        return entry.state is AgentState.ONLINE and entry.life.boot == agent.core.boot and not entry.life.dead

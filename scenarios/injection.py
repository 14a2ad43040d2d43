"""Faults carried out: each at its time, undone at its end, with the time it took until all was in service again."""

from collections.abc import Callable
from functools import partial

from federation.api import SetAgentMode
from federation.states import AgentState
from policies.model import Record
from scenarios.broker import Broker, Timetable
from scenarios.clock import Clock
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


class Incident(Record, frozen=True, kw_only=True):
    """One fault as it went, times from the start. `recovery_us` counts from when its cause was over until everyone it
    touched was in service again; None: not within the run, or nothing to recover."""

    what: str
    began_us: int
    over_us: int | None
    recovery_us: int | None
    struck: bool = True  # False: its named point never came


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
                for clock in self._clocks(fault):
                    clock.jump(jump_us)
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

    def _clocks(self, fault: ClockFault) -> list[Clock]:
        return [self._master.clock] if fault.target == "master" else [self._agents[each].clock for each in fault.agents]

    def _begin(self, fault: Fault, now_us: int) -> None:
        match fault:
            case ClockFault(drift_ppm=ppm):
                for clock in self._clocks(fault):
                    clock.drift(ppm, now_us)
            case PauseFault(target="master"):
                self._master.pause(now_us)
            case PauseFault(agents=ids):
                for agent_id in ids:
                    self._agents[agent_id].pause(now_us)
            case CutFault(ways=ways):
                for way in ways:
                    self._fabric.cut(way, now_us)
                self._broker.ways_changed(now_us)
            case LinkFault():
                self._fabric.begin_fault(fault, now_us)
            case MessageFault():
                self._broker.harms.append(fault)
            case DiskFault(target="master"):
                self._master.disk_is_full = True
            case DiskFault(agents=ids):
                for agent_id in ids:
                    self._agents[agent_id].data.disk_is_full = True
            case LieFault(agents=ids):
                for agent_id in ids:
                    self._agents[agent_id].data.bandwidth_ppm = fault.bandwidth_ppm
                    self._agents[agent_id].capacity_ppm = fault.capacity_ppm
            case MaintenanceFault(agents=ids, mode=mode):
                for agent_id in ids:
                    self._master.ask(SetAgentMode(agent_id=agent_id, mode=mode), now_us, lambda *_: None)
            case _:
                raise AssertionError(f"{fault!r} has no begin")

    def _end(self, fault: Fault, now_us: int) -> tuple[str, ...]:
        """Undo it; the agents that have to recover."""
        match fault:
            case PauseFault(target="master"):
                self._master.resume(now_us)
                return ()
            case PauseFault(agents=ids):
                for agent_id in ids:
                    self._agents[agent_id].resume(now_us)
                return ids
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
            case DiskFault(target="master"):
                self._master.disk_is_full = False
                self._master.start(now_us)
            case DiskFault(agents=ids):
                for agent_id in ids:
                    self._agents[agent_id].data.disk_is_full = False
            case LieFault(agents=ids):
                for agent_id in ids:
                    agent = self._agents[agent_id]
                    agent.data.bandwidth_ppm = agent.capacity_ppm = 1_000_000
            case ClockFault():
                for clock in self._clocks(fault):
                    clock.drift(0, now_us)
            case MaintenanceFault(agents=ids):
                for agent_id in ids:
                    self._master.ask(SetAgentMode(agent_id=agent_id, mode="active"), now_us, lambda *_: None)
            case _:
                raise AssertionError(f"{fault!r} has no end")
        return ()

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
                died(now_us)
                self._broker.stop(now_us)
                self._master.lose_broker(now_us)
                self._revive(case, fault, now_us)
            case "agents":
                for index, agent_id in enumerate(fault.agents):
                    self._kill_agent(case, fault, index, agent_id, died, now_us)

    def _kill_agent(
        self, case: _Case, fault: KillFault, index: int, agent_id: str, died: Callable[[int], None], now_us: int
    ) -> None:
        agent = self._agents[agent_id]

        def dead(at_us: int) -> None:
            died(at_us)
            if fault.restarts_us is not None:
                restart_us = max(at_us, at_us + fault.restarts_us[index] - fault.at_us)
                self._timetable.call(restart_us, agent.start)
                if index == len(fault.agents) - 1:
                    last_us = at_us + max(fault.restarts_us) - fault.at_us
                    self._timetable.call(last_us, lambda over_us: self._over(case, over_us, fault.agents))

        agent.kill_at(fault.point, now_us, dead, power=fault.power)

    def _revive(self, case: _Case, fault: KillFault, now_us: int) -> None:
        if fault.restarts_us is None:
            return

        def restart(at_us: int) -> None:
            if fault.target == "master":
                self._master.start(at_us)
                self._over(case, at_us, ())
            else:
                self._broker.start(at_us)
                self._master.find_broker(at_us)
                self._over(case, at_us, tuple(self._agents))

        self._timetable.call(now_us + fault.restarts_us[0] - fault.at_us, restart)

    # --- recovery ----------------------------------------------------------------------------------------------------

    def _over(self, case: _Case, now_us: int, agents: tuple[str, ...]) -> None:
        """The cause is gone: time until these agents, and the master, are in service."""
        case.over_us = now_us - self._start_us

        def poll(at_us: int) -> None:
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

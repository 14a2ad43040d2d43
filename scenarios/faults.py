"""What breaks, when, and for how long: the timeline that a scenario's `faults` come to, random ones included."""

from typing import Literal

from policies.model import Record

# Where in its work a process is killed. `now`: between two events. The others wait for the first event at or after
# their time that has what they name.
KillPoint = Literal[
    "now",
    "before-journal",  # it decided, and nothing of it was made durable or sent
    "after-journal-before-send",  # all is durable, nothing was sent
    "half-sent",  # all is durable, the first half was sent
    "after-assign-before-send",  # master: as above, at a step that assigns tasks
    "while-solving",  # master: a round is out
    "before-forward",  # broker: it took a message and passes it on to nobody
    "after-forward",  # broker: it passed a message on
    "half-announced",  # broker: half of the agents were told what the master announced
]
KILL_POINTS: tuple[KillPoint, ...] = (
    "now", "before-journal", "after-journal-before-send", "half-sent", "after-assign-before-send", "while-solving",
)  # fmt: skip
AGENT_KILL_POINTS = KILL_POINTS[:4]
BROKER_KILL_POINTS: tuple[KillPoint, ...] = ("now", "before-forward", "after-forward", "half-announced")

Target = Literal["master", "broker", "agents"]


class KillFault(Record, frozen=True, kw_only=True, tag="kill"):
    """A process ends without warning. `restarts_us` are the times at which the targets begin again, in the order of
    `agents` (one for master and broker); None: never. `power`: the whole device, with all that runs on it."""

    at_us: int
    target: Target
    agents: tuple[str, ...] = ()
    point: KillPoint = "now"
    restarts_us: tuple[int, ...] | None = None
    power: bool = False


class PauseFault(Record, frozen=True, kw_only=True, tag="pause"):
    """The process is stopped and goes on later with all that came meanwhile."""

    at_us: int
    until_us: int
    target: Target
    agents: tuple[str, ...] = ()


class CutFault(Record, frozen=True, kw_only=True, tag="cut"):
    """No bytes pass between these (from site, to site)."""

    at_us: int
    until_us: int
    ways: tuple[tuple[str, str], ...]


class LinkFault(Record, frozen=True, kw_only=True, tag="link"):
    """Links are other than the topology says; None leaves a property as it is."""

    at_us: int
    until_us: int
    ways: tuple[tuple[str, str], ...]
    bandwidth_bps: int | None = None
    rtt_us: int | None = None
    jitter_us: int | None = None
    loss_ppm: int | None = None


class MessageFault(Record, frozen=True, kw_only=True, tag="messages"):
    """Messages of these agents are harmed, each with these chances."""

    at_us: int
    until_us: int
    agents: tuple[str, ...]
    from_agents: bool = True
    to_agents: bool = True
    drop_ppm: int = 0
    duplicate_ppm: int = 0
    reorder_ppm: int = 0
    corrupt_ppm: int = 0
    delay_ppm: int = 0
    delay_us: int = 0


class ClockFault(Record, frozen=True, kw_only=True, tag="clock"):
    """The wall clock jumps: a running process counts on monotonically and sees it when it starts next. Or the clock
    runs too fast or slow until `until_us`, which a process sees at once; what it gained by then stays."""

    at_us: int
    target: Target
    agents: tuple[str, ...] = ()
    jump_us: int = 0
    drift_ppm: int = 0
    until_us: int | None = None


class DiskFault(Record, frozen=True, kw_only=True, tag="disk"):
    """No byte more can be stored: agents fail fetches and outputs, a master's journal fails and it steps down."""

    at_us: int
    until_us: int
    target: Target
    agents: tuple[str, ...] = ()


class LieFault(Record, frozen=True, kw_only=True, tag="lie"):
    """These agents multiply every bandwidth that they report, and claim so much of the cores that they have: tasks that
    begin meanwhile share what is really there."""

    at_us: int
    until_us: int
    agents: tuple[str, ...]
    bandwidth_ppm: int = 1_000_000
    capacity_ppm: int = 1_000_000


class MaintenanceFault(Record, frozen=True, kw_only=True, tag="maintenance"):
    """An operator takes agents out of service in order and gives them back."""

    at_us: int
    until_us: int
    agents: tuple[str, ...]
    mode: Literal["cordoned", "draining"] = "draining"


Fault = (
    KillFault | PauseFault | CutFault | LinkFault | MessageFault | ClockFault | DiskFault | LieFault | MaintenanceFault
)


def ends_us(fault: Fault) -> int | None:
    """When the fault itself is over; None: never. What it left behind may take longer."""
    match fault:
        case KillFault(restarts_us=None):
            return None
        case KillFault(at_us=at_us, restarts_us=restarts_us):
            return max(restarts_us or (at_us,))
        case ClockFault(at_us=at_us, until_us=until_us):
            return at_us if until_us is None else until_us
        case _:
            return fault.until_us


def sentence(fault: Fault) -> str:
    """For reports: `kill master (after-journal-before-send)`, `cut plant → rack`."""
    match fault:
        case KillFault():
            what = "power off" if fault.power else "kill"
            point = "" if fault.point == "now" else f" ({fault.point})"
            return f"{what} {_whom(fault.target, fault.agents)}{point}"
        case CutFault(ways=ways):
            return f"cut {_ways(ways)}"
        case LinkFault(ways=ways):
            return f"change link {_ways(ways)}"
        case MessageFault(agents=agents):
            return f"harm messages of {_whom('agents', agents)}"
        case LieFault(agents=agents):
            claims = (("bandwidths", fault.bandwidth_ppm), ("capacity", fault.capacity_ppm))
            false = [claim for claim, ppm in claims if ppm != 1_000_000]
            return f"{_whom('agents', agents)} report false {' and '.join(false)}"
        case MaintenanceFault(agents=agents, mode=mode):
            return f"{'drain' if mode == 'draining' else 'cordon'} {_whom('agents', agents)}"
        case PauseFault():
            return f"pause {_whom(fault.target, fault.agents)}"
        case ClockFault(until_us=int()):
            return f"clock of {_whom(fault.target, fault.agents)} drifts by {fault.drift_ppm / 10_000:+g} %"
        case ClockFault():
            return f"clock of {_whom(fault.target, fault.agents)} jumps {fault.jump_us / 1e6:+g} s"
        case DiskFault():
            return f"disk full at {_whom(fault.target, fault.agents)}"


def _whom(target: Target, agents: tuple[str, ...]) -> str:
    if target != "agents":
        return target
    return agents[0] if len(agents) == 1 else f"{len(agents)} agents"


def _ways(ways: tuple[tuple[str, str], ...]) -> str:
    known = set(ways)
    shown = [
        f"{first} ↔ {second}" if (second, first) in known else f"{first} → {second}"
        for first, second in ways
        if (second, first) not in known or first <= second
    ]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")

"""The `faults` section: a timeline as a tester writes it, and random faults drawn from it, to `Fault`s."""

import random
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

from federation import units
from federation.errors import ConfigError
from federation.jobfile import read_duration
from federation.strictyaml import (
    Fields,
    FileError,
    Node,
    Scalar,
    Sequence,
    as_mapping,
    choice,
    integer_between,
    list_of,
    one_or_more,
    quantity,
    read_text,
    suggest,
)
from scenarios.chance import read_law
from scenarios.faults import (
    AGENT_KILL_POINTS,
    BROKER_KILL_POINTS,
    KILL_POINTS,
    ClockFault,
    CutFault,
    DiskFault,
    Fault,
    KillFault,
    KillPoint,
    LieFault,
    LinkFault,
    MaintenanceFault,
    MessageFault,
    PauseFault,
    Target,
)
from scenarios.randomness import Poisson, Uniform, arrival_times_us, draw_us
from scenarios.sites import as_is, read_bandwidth, read_begin, read_chance, read_sites
from scenarios.streams import stream
from scenarios.topology import Topology

ACTIONS = (
    "kill", "power_off", "pause", "partition", "link", "messages", "clock", "disk_full", "lie", "drain", "cordon",
    "random",
)  # fmt: skip
FAULT_KEYS = ("at", "for", "when", "restart", "direction", "set", "flap", *ACTIONS)
SET_KEYS = ("bandwidth", "rtt", "jitter", "loss")
FLAP_KEYS = ("every", "down")
PICK_KEYS = ("agents", "site", "pick")
MESSAGE_KEYS = ("from", "to", "drop", "duplicate", "reorder", "corrupt", "delay", "by")
RANDOM_KEYS = ("rate", "of", "down", "from", "quiet_tail")
# What `random` draws from where a file says nothing, and what it may name besides.
KINDS = ("kill", "power_off", "kill-master", "kill-broker", "pause", "partition", "degrade", "messages")
NAMED_KINDS = ("pause-master", "disk_full", "disk_full-master", "clock", "flap", "lie")
CLOCK_JUMP_US = 3_600_000_000  # by chance: up to an hour either way
FLAPS_MAX = 10_000

Way = tuple[str, str]


class Faults(NamedTuple):
    timeline: tuple[Fault, ...]
    quiet_tail_us: int


def read_faults(node: Node, topology: Topology, seed: int, duration_us: int) -> Faults:
    faults: list[Fault] = []
    quiet_us = 0
    for number, entry in enumerate(list_of(as_is, '"faults"')(node)):
        reader = _Reader(topology, stream(seed, f"faults/{number}"), duration_us)
        fields = Fields(entry, "a fault", FAULT_KEYS)
        named = [action for action in ACTIONS if action in fields]
        if len(named) != 1:
            raise FileError(entry.place, f"a fault is one of {', '.join(ACTIONS)}")
        if named == ["random"]:
            made, tail_us = reader.random(fields)
            faults += made
            quiet_us = max(quiet_us, tail_us)
            continue
        faults += reader.read(fields, named[0])
    return Faults(tuple(sorted(faults, key=lambda fault: fault.at_us)), quiet_us)


class _Reader:
    """Reads one entry; every choice it makes comes from a stream of that entry's own."""

    def __init__(self, topology: Topology, chance: random.Random, duration_us: int) -> None:
        self._topology = topology
        self._chance = chance
        self._duration_us = duration_us
        self._ways = [(first, second) for first, second, _ in topology.links if first != second]

    def read(self, fields: Fields, action: str) -> list[Fault]:
        at_us = fields.required("at", read_begin(self._duration_us))
        self._only(fields, action)
        if action in ("kill", "power_off"):
            return [self._kill(fields, action, at_us)]
        if action == "clock":
            return [self._clock(fields, at_us)]
        until_us = at_us + fields.required("for", read_duration)
        node = fields.required(action, as_is)
        match action:
            case "pause":
                target, agents = self._target(node, ("master",))
                return [PauseFault(at_us=at_us, until_us=until_us, target=target, agents=agents)]
            case "disk_full":
                target, agents = self._target(node, ("master",))
                return [DiskFault(at_us=at_us, until_us=until_us, target=target, agents=agents)]
            case "partition":
                return [CutFault(at_us=at_us, until_us=until_us, ways=self._between(fields, node))]
            case "link":
                return self._link(fields, node, at_us, until_us)
            case "messages":
                return [self._messages(node, at_us, until_us)]
            case "lie":
                return [self._lie(node, at_us, until_us)]
            case _:
                _, agents = self._target(node, ())
                mode: Literal["cordoned", "draining"] = "draining" if action == "drain" else "cordoned"
                return [MaintenanceFault(at_us=at_us, until_us=until_us, agents=agents, mode=mode)]

    def _only(self, fields: Fields, action: str) -> None:
        """A key that belongs to another action is a mistake."""
        belongs = {
            "when": ("kill",), "restart": ("kill", "power_off"), "direction": ("partition", "link"),
            "set": ("link",), "flap": ("link",),
        }  # fmt: skip
        for key, actions in belongs.items():
            if key in fields and action not in actions:
                raise FileError(fields.place_of(key), f'"{key}" goes with {" or ".join(actions)}, not with {action}')
        if "for" in fields and action in ("kill", "power_off"):
            raise FileError(fields.place_of("for"), f'"{action}" has no "for"; a killed one comes back by "restart"')

    # --- whom --------------------------------------------------------------------------------------------------------

    def _target(self, node: Node, processes: tuple[str, ...]) -> tuple[Target, tuple[str, ...]]:
        if isinstance(node, Scalar) and node.text in processes:
            return cast(Target, node.text), ()
        if isinstance(node, Scalar):
            return "agents", self._agents(node, processes)
        fields = Fields(node, "whom it strikes", PICK_KEYS)
        found = self._agents(fields.required("agents", as_is)) if "agents" in fields else ()
        if "site" in fields:
            sites = fields.required("site", read_sites(self._topology.sites))
            found += tuple(spec.agent_id for site in sites for spec in self._topology.sites[site].agents)
        if not found:
            raise FileError(node.place, "it strikes nobody: give agents: or site:")
        found = tuple(dict.fromkeys(found))
        return "agents", fields.optional("pick", self._picker(found), found)

    def _picker(self, agents: tuple[str, ...]) -> Callable[[Node], tuple[str, ...]]:
        def read(node: Node) -> tuple[str, ...]:
            if read_text(node).endswith("%"):
                share_ppm = read_chance(node)
                count = -(-len(agents) * share_ppm // 1_000_000)
            else:
                count = integer_between(1, len(agents))(node)
            return self._pick(agents, min(count, len(agents)))

        return read

    def _pick(self, agents: tuple[str, ...], count: int) -> tuple[str, ...]:
        left = list(agents)
        chosen = {left.pop(self._chance.randrange(len(left))) for _ in range(count)}
        return tuple(agent_id for agent_id in agents if agent_id in chosen)

    def _agents(self, node: Node, processes: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Agents by id, by the name of their group, by a pattern, or `all`; `processes` are what else may be meant."""
        specs = self._topology.agents
        found: list[str] = []
        for item in one_or_more(as_is)(node):
            name = read_text(item)
            head, star, tail = name.partition("*")
            some = [
                spec.agent_id
                for spec in specs
                if name == "all"
                or name in (spec.agent_id, spec.group)
                or (star and spec.agent_id.startswith(head) and spec.agent_id.endswith(tail))
            ]
            if not some:
                known = [*processes, *{spec.group: None for spec in specs}, *(spec.agent_id for spec in specs[:1000])]
                raise FileError(item.place, f'no agent and no group of agents is called "{name}"{suggest(name, known)}')
            found += some
        return tuple(dict.fromkeys(found))

    # --- each kind ---------------------------------------------------------------------------------------------------

    def _kill(self, fields: Fields, action: str, at_us: int) -> Fault:
        processes = ("master", "broker") if action == "kill" else ()
        target, agents = self._target(fields.required(action, as_is), processes)
        points = {"master": KILL_POINTS, "agents": AGENT_KILL_POINTS, "broker": BROKER_KILL_POINTS}[target]
        point = cast(KillPoint, fields.optional("when", choice(*points), "now"))
        count = len(agents) if target == "agents" else 1
        restarts = fields.optional("restart", lambda node: self._restarts(node, at_us, count), None)
        return KillFault(
            at_us=at_us, target=target, agents=agents, point=point, restarts_us=restarts, power=action == "power_off"
        )

    def _restarts(self, node: Node, at_us: int, count: int) -> tuple[int, ...]:
        if isinstance(node, Scalar):
            return (at_us + read_duration(node),) * count
        fields = Fields(node, '"restart"', ("after", "spread"))
        after_us = fields.required("after", read_duration)
        spread_us = fields.optional("spread", quantity(units.parse_duration_us), 0)
        return tuple(at_us + after_us + (self._chance.randrange(spread_us) if spread_us else 0) for _ in range(count))

    def _between(self, fields: Fields, node: Node) -> tuple[Way, ...]:
        """The directed links between two sites (or patterns), or between one and all others."""
        ends = [node] if isinstance(node, Scalar) else list(node.items) if isinstance(node, Sequence) else []
        if len(ends) not in (1, 2):
            raise FileError(node.place, "name two sites, or one that is cut off from all others")
        read = read_sites(self._topology.sites)
        here = read(ends[0])
        there = read(ends[1]) if len(ends) == 2 else [site for site in self._topology.sites if site not in here]
        ways = {
            way for way in self._ways if (way[0] in here and way[1] in there) or (way[1] in here and way[0] in there)
        }
        if "direction" in fields:
            to = fields.required("direction", read_text)
            if not to.startswith("to "):
                raise FileError(fields.place_of("direction"), 'a direction is written "to <site>"')
            sites = set(read(Scalar(fields.place_of("direction"), to.removeprefix("to "), plain=False)))
            ways = {way for way in ways if way[1] in sites}
        if not ways:
            raise FileError(node.place, "there is no link between these")
        return tuple(sorted(ways))

    def _link(self, fields: Fields, node: Node, at_us: int, until_us: int) -> list[Fault]:
        ways = self._between(fields, node)
        if "set" not in fields and "flap" not in fields:
            raise FileError(node.place, "a link is changed (set:), goes down and up again (flap:), or both by turns")
        spans = [(at_us, until_us)]
        if "flap" in fields:
            flap = Fields(fields.required("flap", as_is), '"flap"', FLAP_KEYS)
            every_us, down_us = flap.required("every", read_duration), flap.required("down", read_duration)
            if down_us >= every_us or (until_us - at_us) // every_us > FLAPS_MAX:
                raise FileError(fields.place_of("flap"), f"down is less than every, and at most {FLAPS_MAX} times")
            spans = [(start_us, min(start_us + down_us, until_us)) for start_us in range(at_us, until_us, every_us)]
        if "set" not in fields:
            return [CutFault(at_us=from_us, until_us=to_us, ways=ways) for from_us, to_us in spans]
        change = Fields(fields.required("set", as_is), '"set"', SET_KEYS)
        if not change.mapping.entries:
            raise FileError(fields.place_of("set"), f"nothing is set; known: {', '.join(SET_KEYS)}")
        return [
            LinkFault(
                at_us=from_us,
                until_us=to_us,
                ways=ways,
                bandwidth_bps=change.optional("bandwidth", read_bandwidth, None),
                rtt_us=change.optional("rtt", quantity(units.parse_duration_us), None),
                jitter_us=change.optional("jitter", quantity(units.parse_duration_us), None),
                loss_ppm=change.optional("loss", read_chance, None),
            )
            for from_us, to_us in spans
        ]

    def _messages(self, node: Node, at_us: int, until_us: int) -> Fault:
        fields = Fields(node, '"messages"', MESSAGE_KEYS)
        ends = [key for key in ("from", "to") if key in fields]
        if not ends:
            raise FileError(node.place, "say whose: from: agents, to: agents, or both")
        agents: tuple[str, ...] = ()
        for key in ends:
            value = fields.required(key, as_is)
            everyone = isinstance(value, Scalar) and value.text == "agents"
            agents += tuple(spec.agent_id for spec in self._topology.agents) if everyone else self._agents(value)
        fault = MessageFault(
            at_us=at_us,
            until_us=until_us,
            agents=tuple(dict.fromkeys(agents)),
            from_agents="from" in ends,
            to_agents="to" in ends,
            drop_ppm=fields.optional("drop", read_chance, 0),
            duplicate_ppm=fields.optional("duplicate", read_chance, 0),
            reorder_ppm=fields.optional("reorder", read_chance, 0),
            corrupt_ppm=fields.optional("corrupt", read_chance, 0),
            delay_ppm=fields.optional("delay", read_chance, 0),
            delay_us=fields.optional("by", read_duration, 1_000_000),
        )
        harms = (fault.drop_ppm, fault.duplicate_ppm, fault.reorder_ppm, fault.corrupt_ppm, fault.delay_ppm)
        if not any(harms):
            raise FileError(
                node.place, "nothing happens to these messages: give drop, duplicate, reorder, corrupt or delay"
            )
        return fault

    def _clock(self, fields: Fields, at_us: int) -> Fault:
        value = fields.required("clock", as_is)
        mapping = as_mapping(value, '"clock"')
        inner = Fields(value, '"clock"', ("of", *PICK_KEYS, "jump", "drift"))
        if ("jump" in inner) == ("drift" in inner):
            raise FileError(value.place, "a clock jumps or drifts: give one of them")
        drift_ppm, until_us = 0, None
        if "drift" in inner:
            drift_ppm, until_us = inner.required("drift", _drift), at_us + fields.required("for", read_duration)
        elif "for" in fields:
            raise FileError(fields.place_of("for"), 'a jump has no "for"')
        text = inner.optional("jump", read_text, "0")
        try:
            jump_us = units.parse_duration_us(text.lstrip("+-")) * (-1 if text.startswith("-") else 1)
        except ConfigError as error:
            raise FileError(inner.place_of("jump"), str(error)) from None
        if "of" in inner:
            target, agents = self._target(inner.required("of", as_is), ("master",))
        else:
            kept = {key: node for key, node in mapping.entries.items() if key not in ("jump", "drift")}
            keys = {key: mapping.keys[key] for key in kept}
            target, agents = self._target(type(mapping)(mapping.place, kept, keys), ())
        return ClockFault(
            at_us=at_us, target=target, agents=agents, jump_us=jump_us, drift_ppm=drift_ppm, until_us=until_us
        )

    def _lie(self, node: Node, at_us: int, until_us: int) -> Fault:
        fields = Fields(node, '"lie"', (*PICK_KEYS, "bandwidth", "capacity"))
        if "bandwidth" not in fields and "capacity" not in fields:
            raise FileError(node.place, "a lie is about bandwidth, capacity or both")
        ppm = fields.optional("bandwidth", quantity(units.parse_percent_ppm), 1_000_000)
        capacity_ppm = fields.optional("capacity", quantity(units.parse_percent_ppm), 1_000_000)
        if not ppm or not capacity_ppm:
            raise FileError(node.place, "a lie of 0% says nothing")
        mapping = as_mapping(node, '"lie"')
        kept = {key: value for key, value in mapping.entries.items() if key not in ("bandwidth", "capacity")}
        keys = {key: mapping.keys[key] for key in kept}
        _, agents = self._target(type(mapping)(mapping.place, kept, keys), ())
        return LieFault(at_us=at_us, until_us=until_us, agents=agents, bandwidth_ppm=ppm, capacity_ppm=capacity_ppm)

    # --- by chance ---------------------------------------------------------------------------------------------------

    def random(self, fields: Fields) -> tuple[list[Fault], int]:
        """Faults at random times of random kinds; none in the quiet tail, which L13 looks at."""
        node = fields.required("random", as_is)
        inner = Fields(node, '"random"', RANDOM_KEYS)
        rate = inner.required("rate", quantity(units.parse_frequency))
        kinds = inner.optional("of", list_of(choice(*KINDS, *NAMED_KINDS), '"of"'), KINDS)
        down = inner.optional("down", read_law, Uniform(low_us=5_000_000, high_us=60_000_000))
        tail_us = inner.optional("quiet_tail", read_duration, 0)
        first_us = inner.optional("from", quantity(units.parse_duration_us), 0)
        last_us = self._duration_us - tail_us
        if last_us <= first_us:
            raise FileError(node.place, "the quiet tail leaves no time for faults")
        if not rate.n_events or not kinds:
            raise FileError(node.place, "no fault ever happens; leave it out")
        times = arrival_times_us(Poisson(n_events=rate.n_events, per_us=rate.per_us), first_us, last_us, self._chance)
        faults: list[Fault] = []
        for at_us in times:
            kind = kinds[self._chance.randrange(len(kinds))]
            until_us = min(at_us + draw_us(down, self._chance), last_us)
            if until_us > at_us:
                faults += self._one(kind, at_us, until_us)
        return faults, tail_us

    def _one(self, kind: str, at_us: int, until_us: int) -> list[Fault]:
        specs = self._topology.agents
        agents = (specs[self._chance.randrange(len(specs))].agent_id,)
        match kind:
            case "kill":
                point = AGENT_KILL_POINTS[self._chance.randrange(len(AGENT_KILL_POINTS))]
                return [KillFault(at_us=at_us, target="agents", agents=agents, point=point, restarts_us=(until_us,))]
            case "power_off":
                return [KillFault(at_us=at_us, target="agents", agents=agents, restarts_us=(until_us,), power=True)]
            case "kill-master":
                point = KILL_POINTS[self._chance.randrange(len(KILL_POINTS))]
                return [KillFault(at_us=at_us, target="master", point=point, restarts_us=(until_us,))]
            case "kill-broker":
                return [KillFault(at_us=at_us, target="broker", restarts_us=(until_us,))]
            case "pause":
                return [PauseFault(at_us=at_us, until_us=until_us, target="agents", agents=agents)]
            case "pause-master":
                return [PauseFault(at_us=at_us, until_us=until_us, target="master")]
            case "disk_full":
                return [DiskFault(at_us=at_us, until_us=until_us, target="agents", agents=agents)]
            case "disk_full-master":
                return [DiskFault(at_us=at_us, until_us=until_us, target="master")]
            case "clock":
                jump_us = self._chance.randrange(-CLOCK_JUMP_US, CLOCK_JUMP_US)
                return [ClockFault(at_us=at_us, target="agents", agents=agents, jump_us=jump_us)]
            case "lie":
                times_ppm = self._chance.randrange(2, 11) * 1_000_000
                return [LieFault(at_us=at_us, until_us=until_us, agents=agents, bandwidth_ppm=times_ppm)]
            case "messages":
                return [
                    MessageFault(
                        at_us=at_us, until_us=until_us, agents=tuple(spec.agent_id for spec in specs),
                        drop_ppm=50_000, duplicate_ppm=50_000, reorder_ppm=50_000, corrupt_ppm=10_000,
                        delay_ppm=50_000, delay_us=2_000_000,
                    )
                ]  # fmt: skip
            case _:
                return self._by_chance_a_link(kind, at_us, until_us)

    def _by_chance_a_link(self, kind: str, at_us: int, until_us: int) -> list[Fault]:
        if not self._ways:
            return []
        first, second = self._ways[self._chance.randrange(len(self._ways))]
        both = ((first, second), (second, first)) if self._chance.randrange(2) else ((first, second),)
        ways = tuple(way for way in both if way in self._ways)
        if kind == "partition":
            return [CutFault(at_us=at_us, until_us=until_us, ways=ways)]
        if kind == "flap":  # Down for a third of each of ten periods.
            every_us = max(3, (until_us - at_us) // 10)
            starts_us = range(at_us, until_us, every_us)
            return [CutFault(at_us=start, until_us=start + every_us // 3, ways=ways) for start in starts_us]
        truth = {(a, b): spec for a, b, spec in self._topology.links}[first, second]
        bps = max(1_000, truth.bandwidth_bps // 20)
        return [LinkFault(at_us=at_us, until_us=until_us, ways=ways, bandwidth_bps=bps, loss_ppm=30_000)]


def _drift(node: Node) -> int:
    """`0.5%`, `-1%`: parts per million, within half."""
    text = read_text(node)
    try:
        ppm = units.parse_percent_ppm(text.lstrip("+-")) * (-1 if text.startswith("-") else 1)
    except ConfigError as error:
        raise FileError(node.place, str(error)) from None
    if not 0 < abs(ppm) <= 500_000:
        raise FileError(node.place, f'a clock that drifts by "{text}" is none; the most is 50%')
    return ppm

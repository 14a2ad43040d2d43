"""The `topology` section: sites, agents, racks and trees, links, and sites and links that come from measured sets."""

from collections.abc import Mapping as Values
from pathlib import Path
from typing import Literal, NamedTuple, cast

import msgspec

from federation import units
from federation.jobfile import read_identifier, read_size
from federation.strictyaml import (
    Fields,
    FileError,
    Mapping,
    Node,
    Scalar,
    as_mapping,
    choice,
    integer_between,
    list_of,
    mapping_of,
    quantity,
    read_flag,
    read_text,
    suggest,
)
from policies.model import TIERS, Gpu, Resources, Tier
from scenarios.links import Link, read_egress, read_links
from scenarios.preparing import merge
from scenarios.sites import Site, as_is, no_site, read_bandwidth, read_chance, read_cores, read_speed
from scenarios.traces.folder import Traces
from scenarios.traces.networks import Measured, read_measured
from scenarios.transport import LinkSpec
from scenarios.world import AgentSpec, Variation

TOPOLOGY_KEYS = ("master", "templates", "sites", "from", "links", "egress", "notes")
SITE_KEYS = ("tier", "region", "agents", "racks", "network")
AGENT_KEYS = (
    "like", "count", "cpu", "memory", "disk", "gpus", "speed", "price", "hardware", "uplink", "labels", "claims",
    "metered",
)  # fmt: skip
CLAIM_KEYS = ("cpu", "memory")
GPU_KEYS = ("count", "memory", "shared", "price")
LINE_KEYS = ("bandwidth", "rtt", "jitter", "loss")  # of an agent's uplink, and of a rack's
DIRECTIONS = ("up", "down")
RACK_KEYS = ("count", "agents", *LINE_KEYS)
TREE_KEYS = ("fanout", "bandwidth", "rtt")
FAT_TREE_KEYS = ("k", "bandwidth", "rtt")
NETWORKS = ("tree", "fat_tree", "wiring")
WIRING_KEYS = ("links", "hosts")
AGENTS_MAX = 100_000

Access = tuple[str, LinkSpec, LinkSpec]


class Topology(NamedTuple):
    sites: dict[str, Site]
    links: tuple[tuple[str, str, LinkSpec], ...]
    access: tuple[Access, ...]
    master_site: str
    variations: tuple[Variation, ...]
    notes: tuple[str, ...]
    egress: tuple[tuple[str, str, int], ...] = ()

    @property
    def agents(self) -> tuple[AgentSpec, ...]:
        return tuple(spec for site in self.sites.values() for spec in site.agents)


def read_topology(node: Node, duration_us: int, traces: Traces, base: Path) -> Topology:
    """`base` is the folder of the file: what it names by path lies there."""
    fields = Fields(node, '"topology"', TOPOLOGY_KEYS)
    templates = as_mapping(fields.required("templates", as_is), '"templates"') if "templates" in fields else None
    reader = _Reader(templates)
    sites: dict[str, Site] = {}
    measured_links: list[Link] = []
    notes: list[str] = list(fields.optional("notes", list_of(read_text, '"notes"'), ()))
    egress: list[tuple[str, str, int]] = []
    if "from" in fields:
        for kind, value in as_mapping(fields.required("from", as_is), '"from"').entries.items():
            measured = read_measured(kind, value, traces)
            notes += measured.notes
            measured_links += measured.links
            egress += measured.egress
            reader.access += measured.access
            for name, agents in measured.agents.items():
                sites[name] = _wired(reader.site(name, _measured_site(measured, name, agents)), measured.paths)
    if "sites" in fields:
        for name, value in as_mapping(fields.required("sites", as_is), '"sites"').entries.items():
            read_identifier(Scalar(value.place, name, plain=False))
            sites[name] = reader.site(name, value)
    _check_agents(node, sites)
    links = read_links(fields.node("links"), sites, measured_links, duration_us, traces, base)
    master_site = fields.required("master", read_identifier)
    if master_site not in sites:
        raise FileError(fields.place_of("master"), no_site(master_site, sites))
    return Topology(
        sites,
        links.links,
        tuple(reader.access),
        master_site,
        links.variations,
        (*notes, *links.notes),
        read_egress(fields.node("egress"), sites, egress),
    )


def _check_agents(node: Node, sites: dict[str, Site]) -> None:
    ids = [spec.agent_id for site in sites.values() for spec in site.agents]
    if not ids:
        raise FileError(node.place, "the topology has no agents")
    if len(ids) > AGENTS_MAX:
        raise FileError(node.place, f"the topology has {len(ids)} agents; the limit is {AGENTS_MAX}")
    seen: set[str] = set()
    for agent_id in ids:
        if agent_id in seen:
            raise FileError(node.place, f'agent "{agent_id}" is there twice; name the groups of agents differently')
        seen.add(agent_id)


def _wired(site: Site, paths: Values[str, tuple[str, ...]]) -> Site:
    agents = (msgspec.structs.replace(each, access=paths.get(each.agent_id, each.access)) for each in site.agents)
    return site._replace(agents=tuple(agents))


def _measured_site(measured: Measured, name: str, agents: Node) -> Node:
    """A site of a measured set, as if a person had written it."""
    place = agents.place
    entries: dict[str, Node] = {
        "tier": Scalar(place, measured.tier, plain=True),
        "region": Scalar(place, measured.regions.get(name, ""), plain=False),
        "agents": agents,
    }
    return Mapping(place, entries, dict.fromkeys(entries, place))


# --- sites and agents ------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, templates: Mapping | None) -> None:
        self._templates = templates
        self.access: list[Access] = []

    def site(self, name: str, node: Node) -> Site:
        fields = Fields(node, f'site "{name}"', SITE_KEYS)
        tier = cast(Tier, fields.required("tier", choice(*TIERS)))
        region = fields.optional("region", read_text, "")
        if ("agents" in fields) + ("racks" in fields) != 1:
            raise FileError(node.place, f'site "{name}" has either agents: or racks:')
        if "racks" in fields:
            if "network" in fields:
                raise FileError(fields.place_of("network"), "racks bring their own network; leave the key out")
            return Site(name, tuple(self._racks(name, fields.required("racks", as_is), tier, region)), tier, region)
        agents: list[AgentSpec] = []
        for prefix, group in as_mapping(
            fields.required("agents", as_is), f'the agents of site "{name}"'
        ).entries.items():
            agents += self._agents(prefix, group, name, tier, region)
        if "network" in fields:
            agents = self._network(name, fields.required("network", as_is), agents)
        return Site(name, tuple(agents), tier, region)

    def _racks(self, site: str, node: Node, tier: Tier, region: str) -> list[AgentSpec]:
        """Racks of equal agents, `<site>-r1-<agents>-1` …; what leaves a rack shares its uplink."""
        fields = Fields(node, '"racks"', RACK_KEYS)
        outward, inward = _line(fields)
        agents: list[AgentSpec] = []
        for number in range(1, fields.required("count", integer_between(1, 10_000)) + 1):
            rack = f"{site}-r{number}"
            self.access.append((rack, outward, inward))
            groups = as_mapping(fields.required("agents", as_is), '"agents"')
            for prefix, group in groups.entries.items():
                agents += [
                    msgspec.structs.replace(each, access=(rack,), labels=(*each.labels, ("rack", rack)), group=prefix)
                    for each in self._agents(f"{rack}-{prefix}", group, site, tier, region)
                ]
        return agents

    def _network(self, site: str, node: Node, agents: list[AgentSpec]) -> list[AgentSpec]:
        """A tree or a fat-tree between the site's agents, who are dealt to its leaves in order; or any wiring."""
        kinds = as_mapping(node, '"network"')
        if len(kinds.entries) != 1 or next(iter(kinds.entries)) not in NETWORKS:
            raise FileError(node.place, "a network is {tree: …}, {fat_tree: …} or {wiring: …}")
        ((kind, value),) = kinds.entries.items()
        if kind == "wiring":
            return self._wire(value, agents)
        levels = _tree_levels(value) if kind == "tree" else _fat_tree_levels(value)
        return self._hang(site, levels, agents)

    def _hang(self, site: str, levels: list[tuple[int, LinkSpec]], agents: list[AgentSpec]) -> list[AgentSpec]:
        """`levels` from the core down: how many children each node has, and the link from a child to its parent."""
        paths: list[tuple[str, ...]] = [()]
        for depth, (fanout, spec) in enumerate(levels, start=1):
            below: list[tuple[str, ...]] = []
            for path in paths:
                for child in range(1, fanout + 1):
                    name = f"{path[0] if path else site}.{child}"
                    if depth < len(levels) or len(below) < len(agents):
                        self.access.append((name, spec, spec))
                        below.append((name, *path))
            paths = below
        leaves = len(paths)
        if leaves < len(agents):
            per_leaf = -(-len(agents) // leaves)
            paths = [path for path in paths for _ in range(per_leaf)]
        return [msgspec.structs.replace(each, access=path) for each, path in zip(agents, paths, strict=False)]

    def _wire(self, node: Node, agents: list[AgentSpec]) -> list[AgentSpec]:
        """Links by name, and for each agent in order its way up to the core over them."""
        fields = Fields(node, '"wiring"', WIRING_KEYS)
        links = as_mapping(fields.required("links", as_is), '"links"').entries
        hosts = fields.required("hosts", list_of(list_of(read_text, "a host's way up"), '"hosts"'))
        place = fields.place_of("hosts")
        if len(hosts) < len(agents):
            raise FileError(place, f"{len(hosts)} hosts are wired and the site has {len(agents)} agents")
        for name in dict.fromkeys(name for way in hosts for name in way):
            if name not in links:
                raise FileError(place, f'no link of the wiring is called "{name}"{suggest(name, links)}')
        for name, value in links.items():
            self.access.append((name, *_line(Fields(value, f'link "{name}"', LINE_KEYS))))
        return [msgspec.structs.replace(each, access=way) for each, way in zip(agents, hosts, strict=False)]

    def _agents(self, prefix: str, node: Node, site: str, tier: Tier, region: str) -> list[AgentSpec]:
        fields = Fields(self._like(node, prefix, ()), f'agents "{prefix}"', AGENT_KEYS)
        count = fields.optional("count", integer_between(1, AGENTS_MAX), None)
        total = Resources(
            cpu_milli=fields.required("cpu", read_cores),
            memory_bytes=fields.required("memory", read_size),
            disk_bytes=fields.optional("disk", read_size, 100 * 10**9),
        )
        real_cpu_milli = None
        if "claims" in fields:
            claims = Fields(fields.required("claims", as_is), '"claims"', CLAIM_KEYS)
            real_cpu_milli = total.cpu_milli
            total = msgspec.structs.replace(
                total,
                cpu_milli=claims.optional("cpu", read_cores, total.cpu_milli),
                memory_bytes=claims.optional("memory", read_size, total.memory_bytes),
            )
        gpus = as_mapping(fields.required("gpus", as_is), '"gpus"').entries if "gpus" in fields else {}
        kinds = [(model, *_read_gpu(model, value)) for model, value in gpus.items()]
        template = AgentSpec(
            agent_id=prefix,
            site=site,
            tier=tier,
            region=region,
            total=total,
            hardware=fields.optional("hardware", read_text, prefix),
            speed_milli=fields.optional("speed", read_speed, 1000),
            price_microusd_per_cpu_hour=fields.optional("price", quantity(units.parse_price_microusd_per_hour), 0),
            gpu_prices=tuple((model, price) for model, _, _, _, price in kinds if price),
            uplink=fields.optional("uplink", _read_uplink, None),
            metered=fields.optional("metered", read_flag, False),
            labels=tuple(sorted(fields.optional("labels", mapping_of(read_text, '"labels"'), {}).items())),
            real_cpu_milli=real_cpu_milli,
            group=prefix,
        )
        specs: list[AgentSpec] = []
        for index in range(1, 2 if count is None else count + 1):
            agent_id = prefix if count is None else f"{prefix}-{index}"
            own = tuple(
                Gpu(
                    uuid=f"{agent_id}-{model}-{number}",
                    model=model,
                    memory_bytes=memory_bytes,
                    memory_kind="dedicated",
                    isolation=isolation,
                )
                for model, n_gpus, memory_bytes, isolation, _ in kinds
                for number in range(n_gpus)
            )
            specs.append(
                msgspec.structs.replace(
                    template, agent_id=agent_id, total=msgspec.structs.replace(total, gpus=own) if own else total
                )
            )
        return specs

    def _like(self, node: Node, prefix: str, above: tuple[str, ...]) -> Node:
        """With what its template says beneath it."""
        mapping = as_mapping(node, f'agents "{prefix}"')
        like = mapping.entries.get("like")
        if like is None:
            return mapping
        name = read_text(like)
        known = self._templates.entries if self._templates is not None else {}
        if name not in known:
            has = f"; known: {', '.join(known)}" if known else "; the file has none (templates:)"
            raise FileError(like.place, f'no template is called "{name}"{suggest(name, known)}{has}')
        if name in above:
            raise FileError(like.place, f'template "{name}" is like itself')
        own = {key: value for key, value in mapping.entries.items() if key != "like"}
        bare = Mapping(mapping.place, own, {key: mapping.keys[key] for key in own})
        return merge(self._like(known[name], name, (*above, name)), bare)


def _read_gpu(model: str, node: Node) -> tuple[int, int, Literal["whole", "shared"], int]:
    """Count, bytes of memory each, whether shares of them are given out, and micro-dollars an hour of one."""
    fields = Fields(node, f'GPU "{model}"', GPU_KEYS)
    is_shared = fields.optional("shared", read_flag, False)
    count, memory_bytes = fields.required("count", integer_between(1, 1024)), fields.required("memory", read_size)
    price = fields.optional("price", quantity(units.parse_price_microusd_per_hour), 0)
    return count, memory_bytes, "shared" if is_shared else "whole", price


def _read_uplink(node: Node) -> tuple[LinkSpec, LinkSpec]:
    """`20Mbit` each way, or a line of its own: `{bandwidth: {up: 10Mbit, down: 50Mbit}, rtt, jitter, loss}`."""
    if isinstance(node, Scalar):
        spec = LinkSpec(rtt_us=0, bandwidth_bps=read_bandwidth(node))
        return spec, spec
    return _line(Fields(node, '"uplink"', LINE_KEYS))


def _line(fields: Fields) -> tuple[LinkSpec, LinkSpec]:
    """Outward and inward. Round trip, jitter and loss are those of either direction."""
    node = fields.required("bandwidth", as_is)
    if isinstance(node, Scalar):
        rates = (read_bandwidth(node),) * 2
    else:
        directions = Fields(node, '"bandwidth"', DIRECTIONS)
        rates = (directions.required("up", read_bandwidth), directions.required("down", read_bandwidth))
    rtt_us = fields.optional("rtt", quantity(units.parse_duration_us), 0)
    jitter_us = fields.optional("jitter", quantity(units.parse_duration_us), 0)
    loss_ppm = fields.optional("loss", read_chance, 0)
    outward, inward = (
        LinkSpec(rtt_us=rtt_us, bandwidth_bps=bps, jitter_us=jitter_us, loss_ppm=loss_ppm) for bps in rates
    )
    return outward, inward


def _tree_levels(node: Node) -> list[tuple[int, LinkSpec]]:
    fields = Fields(node, '"tree"', TREE_KEYS)
    fanouts = fields.required("fanout", list_of(integer_between(1, 10_000), '"fanout"'))
    bandwidths = fields.required("bandwidth", list_of(read_bandwidth, '"bandwidth"'))
    rtts = fields.optional("rtt", list_of(quantity(units.parse_duration_us), '"rtt"'), (0,) * len(fanouts))
    if not len(fanouts) == len(bandwidths) == len(rtts) or not fanouts:
        raise FileError(node.place, "fanout, bandwidth and rtt need one value each per level, the core's first")
    return [
        (fanout, LinkSpec(bandwidth_bps=bps, rtt_us=rtt))
        for fanout, bps, rtt in zip(fanouts, bandwidths, rtts, strict=True)
    ]


def _fat_tree_levels(node: Node) -> list[tuple[int, LinkSpec]]:
    """A k-ary fat-tree (Al-Fares, Loukissas, Vahdat, SIGCOMM 2008) with ideal multipath: k pods, k/2 edge switches
    each, k/2 hosts each; towards the core no level is narrower than all below it."""
    fields = Fields(node, '"fat_tree"', FAT_TREE_KEYS)
    k = fields.required("k", integer_between(2, 64))
    if k % 2:
        raise FileError(fields.place_of("k"), f"k is the number of ports of a switch and even, not {k}")
    bps = fields.required("bandwidth", read_bandwidth)
    rtt_us = fields.optional("rtt", quantity(units.parse_duration_us), 0)
    half = k // 2
    return [
        (k, LinkSpec(bandwidth_bps=bps * half * half, rtt_us=rtt_us)),
        (half, LinkSpec(bandwidth_bps=bps * half, rtt_us=rtt_us)),
        (half, LinkSpec(bandwidth_bps=bps, rtt_us=rtt_us)),
    ]

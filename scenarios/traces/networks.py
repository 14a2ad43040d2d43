"""Measured networks as sites and links: cloud regions, PlanetLab hosts, edge sites, and mobile links over time."""

import math
import re
from collections.abc import Iterator
from collections.abc import Mapping as Values
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from federation import units
from federation.errors import ConfigError
from federation.jobfile import read_duration
from federation.strictyaml import (
    Fields,
    FileError,
    Mapping,
    Node,
    Scalar,
    as_mapping,
    integer_between,
    list_of,
    quantity,
    read_text,
    suggest,
)
from policies.model import Tier
from scenarios.traces.folder import Traces, note_of, skipped_note
from scenarios.transport import LinkSpec
from scenarios.world import Variation

OTHER_TIER = "by another network tier than the premium ones"
KINDS = ("skyplane", "planetlab", "eua", "openb", "lingjun")
MOBILE = "mobile_5g"
RATES_HEAD = "down_kbit"  # what heads the rates that `trace import` writes
LIGHT_US_PER_KM = 5  # in fibre, one way
DEGREE_M = 111_195  # of latitude, on a sphere of 6,371 km
# The cosine of Melbourne's latitude (37.8°) in thousandths: over a city centre the error is below 0.1 %.
MELBOURNE_COS_MILLI = 790
GPU_MEMORY_BYTES = {  # published sizes; G2 and G3 are Alibaba's code names, taken as the 32 GiB of V100M32
    "P100": 16 * 2**30, "T4": 16 * 2**30, "V100M16": 16 * 2**30, "V100M32": 32 * 2**30, "A10": 24 * 2**30,
    "G2": 32 * 2**30, "G3": 32 * 2**30,
}  # fmt: skip


DAMAGED = "it cannot be read"

Pair = tuple[str, str]


class Measured(NamedTuple):
    """Sites (name → what runs there, as in a file) and the links between them."""

    tier: Tier
    agents: dict[str, Node]
    regions: dict[str, str]
    links: list[tuple[str, str, LinkSpec]]
    notes: tuple[str, ...]
    access: tuple[tuple[str, LinkSpec, LinkSpec], ...] = ()  # links between agents and their site's core
    paths: Values[str, tuple[str, ...]] = MappingProxyType(
        {}
    )  # agent → its way to the core over them, its own link first
    egress: tuple[tuple[str, str, int], ...] = ()  # from, to, micro-dollars a gigabyte


def read_measured(kind: str, node: Node, traces: Traces) -> Measured:
    match kind:
        case "skyplane":
            return _skyplane(node, traces)
        case "planetlab":
            return _planetlab(node, traces)
        case "eua":
            return _eua(node, traces)
        case "openb":
            return _openb(node, traces)
        case "lingjun":
            return _lingjun(node, traces)
        case _:
            known = ", ".join(KINDS)
            raise FileError(node.place, f'no measured set is called "{kind}"{suggest(kind, KINDS)}; known: {known}')


def site_name(text: str) -> str:
    """A name that a site may bear: `aws:us-east-1` → `aws-us-east-1`."""
    return re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")[:63]


# --- cloud regions ---------------------------------------------------------------------------------------------------


def _skyplane(node: Node, traces: Traces) -> Measured:
    fields = Fields(node, '"skyplane"', ("regions", "agents", "share"))
    regions = fields.optional("regions", list_of(read_text, '"regions"'), ()) or _all_regions(traces)
    share_ppm = fields.optional("share", quantity(units.parse_percent_ppm), 1_000_000)
    skipped: dict[str, int] = {}
    rtts, rates = _rtts(traces, set(regions), skipped), _rates(traces, set(regions), skipped)
    links: list[tuple[str, str, LinkSpec]] = []
    skipped["no round trip or no throughput was measured"] = 0
    for first in regions:
        for second in regions:
            rtt_us = rtts.get((first, second), rtts.get((second, first)))
            bps = rates.get((first, second))
            if first == second:
                continue
            if rtt_us is None or not bps:
                skipped["no round trip or no throughput was measured"] += 1
                continue
            spec = LinkSpec(rtt_us=rtt_us, bandwidth_bps=max(1, bps * share_ppm // 1_000_000))
            links.append((site_name(first), site_name(second), spec))
    for region in regions:
        if not any(site_name(region) in link[:2] for link in links):
            known = _all_regions(traces)
            name = next((each for each in regions if each not in known), region)
            near = suggest(name, known)
            raise FileError(fields.place_of("regions"), f'nothing was measured from or to "{name}" among these{near}')
    egress = []
    for _, row in _between(traces, "cost_all.csv", ("src", "dest", "cost"), set(regions), skipped):
        if (price := _whole(row["cost"], 1_000_000)) is not None:
            egress.append((site_name(row["src"]), site_name(row["dest"]), price))
    unpriced = len(regions) * (len(regions) - 1) - sum(first != second for first, second, _ in egress)
    free = f"skyplane: {unpriced} ways between regions have no listed price: carried for nothing"
    notes = (note_of("skyplane"), *skipped_note("skyplane", skipped), *((free,) if unpriced > 0 else ()))
    agents = {site_name(region): _named(fields, site_name(region)) for region in regions}
    names = {site_name(each): each for each in regions}
    return Measured("cloud", agents, names, links, notes, egress=tuple(egress))


def _rtts(traces: Traces, regions: set[str], skipped: dict[str, int]) -> dict[Pair, int]:
    """Of a pair that was measured several times, the least."""
    found: dict[Pair, int] = {}
    columns = ("src_region", "dst_region", "src_tier", "dst_tier", "avg_rtt")
    for pair, row in _between(traces, "latency.csv", columns, regions, skipped):
        if (rtt_us := _thousandths(row["avg_rtt"])) is None:
            _count(skipped, "latency.csv: it has no round trip")
            continue
        if not _is_premium(row):
            _count(skipped, f"latency.csv: {OTHER_TIER}")
            continue
        if pair in found:
            _count(skipped, "latency.csv: measured more than once; of each pair the least round trip stands")
        found[pair] = min(found.get(pair, rtt_us), rtt_us)
    return found


def _rates(traces: Traces, regions: set[str], skipped: dict[str, int]) -> dict[Pair, int]:
    """Of a pair that was measured several times, the best."""
    found: dict[Pair, int] = {}
    columns = ("src_region", "dst_region", "src_tier", "dst_tier", "throughput_received", "success")
    for pair, row in _between(traces, "throughput.csv", columns, regions, skipped):
        if row["success"] != "True":
            _count(skipped, "throughput.csv: the measurement failed")
            continue
        if not _is_premium(row):
            _count(skipped, f"throughput.csv: {OTHER_TIER}")
            continue
        if pair in found:
            _count(skipped, "throughput.csv: measured more than once; of each pair the best throughput stands")
        found[pair] = max(found.get(pair, 0), _whole(row["throughput_received"]) or 0)
    return found


def _is_premium(row: dict[str, str]) -> bool:
    """Whether both ends used their provider's own network as far as it goes: the one tier in which every pair was
    measured, and the only one of AWS and Azure."""
    return row["src_tier"] == row["dst_tier"] == "PREMIUM"


def _between(
    traces: Traces, file: str, columns: tuple[str, ...], regions: set[str], skipped: dict[str, int]
) -> Iterator[tuple[Pair, dict[str, str]]]:
    """The rows of a file whose first two columns are two of these regions; all others are counted."""
    for _, row in traces.rows("skyplane", file, *columns):
        pair = (row[columns[0]], row[columns[1]])
        if not regions.issuperset(pair):
            _count(skipped, f"{file}: of a region that is not among these")
        elif pair[0] == pair[1]:
            _count(skipped, f"{file}: within one region")
        else:
            yield pair, row


def _count(reasons: dict[str, int], reason: str) -> None:
    reasons[reason] = reasons.get(reason, 0) + 1


def _all_regions(traces: Traces) -> tuple[str, ...]:
    """Those whose throughput was measured, and whose round trip was."""
    found = [
        {row[end] for _, row in traces.rows("skyplane", file) for end in ("src_region", "dst_region")}
        for file in ("throughput.csv", "latency.csv")
    ]
    return tuple(sorted(found[0] & found[1]))


def _thousandths(text: str) -> int | None:
    """Milliseconds with decimals as microseconds; None for no reading."""
    return _whole(text, 1000) or None


def _whole(text: str, times: int = 1) -> int | None:
    """So many times a number with decimals, cut off; None for what is none, or is below 0."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return int(value * times) if value.is_finite() and value >= 0 else None


def _named(fields: Fields, site: str) -> Node:
    """The agents of one site: names are given by group, so each gets the site's in front."""
    node = as_mapping(fields.required("agents", lambda value: value), '"agents"')
    entries = {f"{site}-{name}"[:63]: value for name, value in node.entries.items()}
    return Mapping(node.place, entries, dict.fromkeys(entries, node.place))


# --- PlanetLab -------------------------------------------------------------------------------------------------------


def _planetlab(node: Node, traces: Traces) -> Measured:
    import numpy as np

    fields = Fields(node, '"planetlab"', ("hosts", "slice", "bandwidth", "agents"))
    n_hosts = fields.required("hosts", integer_between(2, 490))
    number = fields.optional("slice", integer_between(0, 8), 0)
    bps = fields.required("bandwidth", quantity(units.parse_bandwidth_bps))
    path = traces.path("netlatency", "planetlab_rtt_tenths_ms_9x490x490.npz")
    with np.load(path) as archive:
        tenths = archive[archive.files[0]][number]
    # Hosts that measured most others come first: a crashed one says nothing.
    n_measured = (tenths > 0).sum(axis=0) + (tenths > 0).sum(axis=1)
    chosen = sorted(sorted(range(len(tenths)), key=lambda host: (-int(n_measured[host]), host))[:n_hosts])
    links: list[tuple[str, str, LinkSpec]] = []
    skipped = {"no round trip was measured": 0, "it is past the number of hosts asked for": len(tenths) - len(chosen)}
    for first in chosen:
        for second in chosen:
            reading = int(tenths[first][second]) or int(tenths[second][first])
            if first == second:
                continue
            if not reading:
                skipped["no round trip was measured"] += 1
                continue
            spec = LinkSpec(rtt_us=reading * 100, bandwidth_bps=bps)
            links.append((f"host-{first}", f"host-{second}", spec))
    agents = {f"host-{host}": _named(fields, f"host-{host}") for host in chosen}
    notes = (note_of("netlatency"), "netlatency: bandwidth is assumed", *skipped_note("netlatency", skipped))
    return Measured("edge", agents, {}, links, notes)


# --- edge sites ------------------------------------------------------------------------------------------------------


def _eua(node: Node, traces: Traces) -> Measured:
    """Real positions; each site is linked to the hub, its round trip by distance in fibre plus what switches add."""
    fields = Fields(node, '"eua"', ("sites", "hub", "bandwidth", "rtt", "shared", "agents"))
    n_sites = fields.optional("sites", integer_between(1, 125), 125)
    hub = fields.required("hub", read_text)
    bps = fields.required("bandwidth", quantity(units.parse_bandwidth_bps))
    base_us = fields.optional("rtt", read_duration, 2_000)
    every, n_damaged = eua_spots(traces)
    spots = dict(list(every.items())[:n_sites])
    skipped = {DAMAGED: n_damaged, "it is past the number of sites asked for": len(every) - len(spots)}
    centre = (
        sum(latitude for latitude, _ in spots.values()) // len(spots),
        sum(longitude for _, longitude in spots.values()) // len(spots),
    )
    links: list[tuple[str, str, LinkSpec]] = []
    for name, spot in spots.items():
        spec = LinkSpec(rtt_us=base_us + 2 * LIGHT_US_PER_KM * metres(spot, centre) // 1000, bandwidth_bps=bps)
        links += [(name, hub, spec), (hub, name, spec)]
    agents = {name: _named(fields, name) for name in spots}
    assumed = "eua: positions are real; links to the hub are assumed, round trips follow distance"
    notes = (note_of("eua"), assumed, *skipped_note("eua", skipped))
    return Measured("edge", agents, dict.fromkeys(spots, "melbourne"), links, notes)


def _spot(latitude: str, longitude: str) -> tuple[int, int] | None:
    """In millionths of a degree; None for what is none."""
    try:
        return int(Decimal(latitude) * 1_000_000), int(Decimal(longitude) * 1_000_000)
    except (InvalidOperation, ValueError, OverflowError):
        return None


def eua_spots(traces: Traces) -> tuple[dict[str, tuple[int, int]], int]:
    """Site → latitude and longitude in millionths of a degree; and how many rows have none."""
    rows = [row for _, row in traces.rows("eua", "site-optus-melbCBD.csv", "SITE_ID", "LATITUDE", "LONGITUDE")]
    spots = {f"edge-{row['SITE_ID']}": spot for row in rows if (spot := _spot(row["LATITUDE"], row["LONGITUDE"]))}
    if not spots:
        raise ConfigError("the set eua has no site with a position")
    return spots, len(rows) - len(spots)


def eua_users(traces: Traces) -> list[tuple[int, int]]:
    rows = traces.rows("eua", "users-melbcbd-generated.csv", "Latitude", "Longitude")
    return [spot for _, row in rows if (spot := _spot(row["Latitude"], row["Longitude"]))]


def metres(first: tuple[int, int], second: tuple[int, int]) -> int:
    north = (first[0] - second[0]) * DEGREE_M // 1_000_000
    east = (first[1] - second[1]) * DEGREE_M // 1_000_000 * MELBOURNE_COS_MILLI // 1000
    return math.isqrt(north * north + east * east)


# --- a GPU cluster ---------------------------------------------------------------------------------------------------


def _openb(node: Node, traces: Traces) -> Measured:
    """The nodes of Alibaba's GPU cluster as one site; every n-th of them with `every`."""
    fields = Fields(node, '"openb"', ("site", "every"))
    site = fields.optional("site", read_text, "cluster")
    every = fields.optional("every", integer_between(1, 1213), 1)
    entries: dict[str, Node] = {}
    skipped = {DAMAGED: 0, f"only every {every}th node was asked for": 0}
    columns = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
    for number, (_, row) in enumerate(traces.rows("openb", "openb_node_list_gpu_node.csv", *columns)):
        if number % every:
            skipped[f"only every {every}th node was asked for"] += 1
            continue
        try:
            entries[row["sn"]] = _openb_node(node, row)
        except (ValueError, KeyError):
            skipped[DAMAGED] += 1
    agents = Mapping(node.place, entries, dict.fromkeys(entries, node.place))
    return Measured("cloud", {site: agents}, {}, [], (note_of("openb"), *skipped_note("openb", skipped)))


def _openb_node(node: Node, row: dict[str, str]) -> Node:
    def scalar(text: str) -> Scalar:
        return Scalar(node.place, text, plain=True)

    def mapping(entries: dict[str, Node]) -> Mapping:
        return Mapping(node.place, entries, dict.fromkeys(entries, node.place))

    entries: dict[str, Node] = {
        "cpu": scalar(units.format_cpu(int(row["cpu_milli"]))),
        "memory": scalar(f"{row['memory_mib']}MiB"),
        "hardware": scalar(row["model"] or "cpu"),
    }
    if int(row["gpu"]):
        memory = units.format_bytes(GPU_MEMORY_BYTES[row["model"]])
        gpus: dict[str, Node] = {"count": scalar(row["gpu"]), "memory": scalar(memory), "shared": scalar("true")}
        entries["gpus"] = mapping({row["model"]: mapping(gpus)})
    return mapping(entries)


def _lingjun(node: Node, traces: Traces) -> Measured:
    """The hosts of Alibaba's Lingjun cluster under their access, pod and core switches: equal switches share one link
    upwards. The set has the wiring; bandwidths are the file's, the core's first, as in a tree."""
    fields = Fields(node, '"lingjun"', ("site", "hosts", "bandwidth", "rtt", "agents"))
    site = fields.optional("site", read_text, "cluster")
    n_hosts = fields.optional("hosts", integer_between(1, 847), 847)
    bandwidths = fields.required("bandwidth", list_of(quantity(units.parse_bandwidth_bps), '"bandwidth"'))
    rtts = fields.optional("rtt", list_of(quantity(units.parse_duration_us), '"rtt"'), (2, 2, 2))
    if not len(bandwidths) == len(rtts) == 3:
        raise FileError(node.place, "lingjun has three levels: give bandwidth and rtt of pod, access switch and host")
    specs = [LinkSpec(rtt_us=rtt, bandwidth_bps=bps) for rtt, bps in zip(rtts, bandwidths, strict=True)]
    given = as_mapping(fields.required("agents", lambda value: value), '"agents"')
    if len(given.entries) != 1:
        raise FileError(given.place, "lingjun's hosts are all alike: give one kind of agent")
    ((prefix, agent),) = given.entries.items()
    entries: dict[str, Node] = {}
    access: dict[str, LinkSpec] = {}
    paths: dict[str, tuple[str, ...]] = {}
    skipped = {"it is past the number of hosts asked for": 0}
    for number, (_, row) in enumerate(traces.rows("lingjun", "topo.csv", "DSW", "PSW", "ASW"), start=1):
        if number > n_hosts:
            skipped["it is past the number of hosts asked for"] += 1
            continue
        name = f"{prefix}-{number}"
        pod = f"{site}.{row['DSW']}.{row['PSW']}"
        switch = f"{pod}.{row['ASW']}"
        access |= {pod: specs[0], switch: specs[1], f"{switch}.{number}": specs[2]}
        paths[name] = (f"{switch}.{number}", switch, pod)
        entries[name] = agent
    agents: dict[str, Node] = {site: Mapping(node.place, entries, dict.fromkeys(entries, node.place))}
    notes = (
        note_of("lingjun"),
        "lingjun: the wiring is real, bandwidths are assumed",
        *skipped_note("lingjun", skipped),
    )
    links = tuple((name, spec, spec) for name, spec in access.items())
    return Measured("cloud", agents, {}, [], notes, links, paths)


# --- links over time -------------------------------------------------------------------------------------------------


def variations_of(
    node: Node, links: list[tuple[str, str, LinkSpec]], duration_us: int, traces: Traces, base: Path
) -> tuple[list[Variation], tuple[str, ...]]:
    """A link that follows a phone's measured download rate, and what results have to say of it; the way up is a share
    of it, for uploads were not measured. Played from `skip` on, and again from the start when the trace is over. Files
    named with a folder lie relative to `base`."""
    fields = Fields(node, '"varies"', ("mobile_5g", "device", "up", "every", "skip"))
    file = fields.required("mobile_5g", read_text)
    device = fields.required("device", read_text)
    if device not in {site for link in links for site in link[:2]}:
        raise FileError(fields.place_of("device"), f'"{device}" is no end of this link')
    up_ppm = fields.optional("up", quantity(units.parse_percent_ppm), 200_000)
    every_us = fields.optional("every", read_duration, 5_000_000)
    skip = fields.optional("skip", read_duration, 0) // 1_000_000 if "skip" in fields else 0
    kbits, _, notes = mobile_rates(traces, file, base)
    window = max(1, every_us // 1_000_000)
    means = [max(8, sum(kbits[i : i + window]) // window) for i in range(skip, len(kbits) - window + 1, window)]
    if not means:
        raise FileError(node.place, f"{file} has no readings there")
    changes: list[Variation] = []
    for number, at_us in enumerate(range(0, duration_us, every_us)):
        down_bps = means[number % len(means)] * 1000
        for first, second, spec in links:
            bps = down_bps if second == device else max(8_000, down_bps * up_ppm // 1_000_000)
            varied = msgspec.structs.replace(spec, bandwidth_bps=bps)
            changes.append(Variation(at_us=at_us, from_site=first, to_site=second, spec=varied))
    return changes, notes


class Rates(NamedTuple):
    """Downloads in kbit/s, one a second; `notes` are source, licence and what was skipped."""

    kbits: list[int]
    n_skipped: int
    notes: tuple[str, ...]


def mobile_rates(traces: Traces, file: str, base: Path) -> Rates:
    """What `trace import` wrote is named with a folder (`./rates.csv`), relative to `base`."""
    if "/" in file:
        path = base / file
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None
        notes = tuple(line.removeprefix("# ") for line in lines if line.startswith("#"))
        if lines[len(notes) : len(notes) + 1] != [RATES_HEAD] or not all(map(_is_count, lines[len(notes) + 1 :])):
            raise ConfigError(f"{path}: these are no rates that `offerflow trace import {MOBILE}` wrote")
        return Rates([int(line) for line in lines[len(notes) + 1 :]], 0, notes)
    readings = [row["DL_bitrate"] or "" for _, row in traces.rows(MOBILE, file, "DL_bitrate")]
    rates = [int(reading) for reading in readings if _is_count(reading)]
    n_skipped = len(readings) - len(rates)
    skipped = skipped_note(MOBILE, {"it has no rate": n_skipped})
    return Rates(rates, n_skipped, (note_of(MOBILE), f"{MOBILE}: {file}, downloads; a second a line", *skipped))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit()

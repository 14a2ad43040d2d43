"""The published sets as scenario inputs: what each holds, and its compact form.

Job traces become CSV that `workload.traces` reads by its path; networks become a file to `include`, sites and links
without agents where the set has none; a phone's measured rates become CSV for a link's `varies`.
"""

import statistics
from pathlib import Path
from typing import Any

import msgspec

from federation.errors import ConfigError
from federation.strictyaml import Fields, Mapping, Node, Place, Scalar, Sequence
from federation.units import about_bandwidth, about_duration, format_bandwidth, format_duration, format_egress
from policies.model import Record
from scenarios.metrics import quantile
from scenarios.traces import jobs, networks
from scenarios.traces.folder import SOURCES, Traces
from scenarios.traces.networks import MOBILE, RATES_HEAD

NAMES = (*jobs.SETS, *networks.KINDS, MOBILE)
# What a set cannot do without when nobody says it: a network without rates cannot be joined to anything.
DEFAULTS: dict[str, dict[str, str]] = {
    "planetlab": {"hosts": "50", "bandwidth": "100Mbit"},
    "eua": {"hub": "hub", "bandwidth": "100Mbit"},
    "lingjun": {"bandwidth": "1.6Tbit,800Gbit,200Gbit"},
    MOBILE: {"file": SOURCES[MOBILE].files[0]},
}
LISTS = ("regions", "bandwidth", "rtt")  # options that are lists where the text has commas
_PLACE = Place("--set", 1, 1)


class Read(Record, frozen=True, kw_only=True, omit_defaults=False):
    """A set as read: `facts` are for people, `text` is its compact form, `suffix` the form's."""

    name: str
    notes: tuple[str, ...]
    facts: dict[str, str]
    text: str
    suffix: str


def set_of(name: str) -> str:
    """The folder that holds it."""
    return {**jobs.SETS, "planetlab": "netlatency"}.get(name, name)


def read_set(name: str, traces: Traces, options: dict[str, str]) -> Read:
    """Raises `ConfigError` where there is no such set, its files are missing, or an option is wrong."""
    if name in jobs.SETS:
        return _jobs(name, traces, options)
    if name in networks.KINDS:
        return _network(name, traces, options)
    if name == MOBILE:
        return _mobile(traces, options)
    raise ConfigError(f"no set is called {name!r}; known are {', '.join(NAMES)}")


def _node(text: str) -> Scalar:
    return Scalar(_PLACE, text, plain=True)


def _fields(name: str, options: dict[str, str], keys: tuple[str, ...]) -> Fields:
    entries: dict[str, Node] = {
        key: Sequence(_PLACE, tuple(_node(part.strip()) for part in text.split(",")))
        if (key in LISTS and "," in text) or key == "regions"
        else _node(text)
        for key, text in options.items()
    }
    return Fields(Mapping(_PLACE, entries, dict.fromkeys(entries, _PLACE)), name, keys)


# --- jobs ------------------------------------------------------------------------------------------------------------


def _jobs(name: str, traces: Traces, options: dict[str, str]) -> Read:
    skips = jobs.Skips()
    rows = list(jobs.rows_of(name, traces, jobs.read_options(_fields(name, options, jobs.OPTION_KEYS)), skips))
    notes = jobs.notes_of(name, skips)
    runs = sorted(row.run_us for row in rows if row.run_us is not None)
    p50, p99 = quantile([float(run) for run in runs], 0.5), quantile([float(run) for run in runs], 0.99)
    facts = {
        "jobs": str(len(rows)),
        "tasks": str(sum(row.n_tasks for row in rows)),
        "span": about_duration(rows[-1].at_us - rows[0].at_us) if rows else "–",
        "run p50": "the trace has none" if p50 is None else about_duration(int(p50)),
        "run p99": "the trace has none" if p99 is None else about_duration(int(p99)),
        "GPUs asked for": str(sum(row.gpus * row.n_tasks for row in rows)),
        "skipped": str(sum(skips.reasons.values())),
    }
    return Read(name=name, notes=notes, facts=facts, text=jobs.imported_text(rows, notes), suffix=".csv")


# --- networks --------------------------------------------------------------------------------------------------------


def _network(name: str, traces: Traces, options: dict[str, str]) -> Read:
    given = {**DEFAULTS.get(name, {}), **options}
    fields = _fields(name, given, tuple(given))
    entries: dict[str, Node] = {key: node for key in given if (node := fields.node(key)) is not None}
    has_agents = name == "openb"  # The others have none of their own.
    if not has_agents:
        entries["agents"] = Mapping(_PLACE, {"agent": Mapping(_PLACE, {}, {})}, {"agent": _PLACE})
    measured = networks.read_measured(name, Mapping(_PLACE, entries, dict.fromkeys(entries, _PLACE)), traces)
    rtts = [spec.rtt_us for _, _, spec in measured.links]
    rates = [spec.bandwidth_bps for _, _, spec in measured.links]
    counts = [len(agents.entries) for agents in measured.agents.values() if isinstance(agents, Mapping)]
    facts = {
        "sites": str(len(measured.agents)),
        "agents": str(sum(counts)) if has_agents or measured.paths else "the set has none",
        "links": str(len(measured.links)),
        "switch links": str(len(measured.access)),
        "round trip p50": about_duration(int(statistics.median(rtts))) if rtts else "–",
        "bandwidth p50": about_bandwidth(int(statistics.median(rates))) if rates else "–",
        "egress prices": str(len(measured.egress)),
    }
    facts |= _users(traces, measured) if name == "eua" else {}
    sites = {
        site: {
            "tier": measured.tier,
            **({"region": measured.regions[site]} if measured.regions.get(site) else {}),
            **({"agents": _plain(agents)} if has_agents else {}),
            **({"network": {"wiring": _wiring(measured)}} if measured.paths else {}),
        }
        for site, agents in measured.agents.items()
    }
    links = [
        {"from": a, "to": b, "rtt": format_duration(spec.rtt_us), "bandwidth": format_bandwidth(spec.bandwidth_bps)}
        for a, b, spec in measured.links
    ]
    prices = [{"from": a, "to": b, "price": format_egress(price)} for a, b, price in measured.egress]
    topology = {
        "notes": measured.notes,
        "sites": sites,
        **({"links": links} if links else {}),
        **({"egress": prices} if prices else {}),
    }
    body = msgspec.json.format(msgspec.json.encode({"topology": topology}), indent=1).decode()
    head = "".join(f"# {note}\n" for note in measured.notes)
    return Read(name=name, notes=measured.notes, facts=facts, text=f"{head}{body}\n", suffix=".yaml")


def _wiring(measured: networks.Measured) -> dict[str, Any]:
    """The links between switches, and host by host its way up over them."""
    links = {
        name: {"bandwidth": format_bandwidth(spec.bandwidth_bps), "rtt": format_duration(spec.rtt_us)}
        for name, spec, _ in measured.access
    }
    return {"links": links, "hosts": list(measured.paths.values())}


def _users(traces: Traces, measured: networks.Measured) -> dict[str, str]:
    """How many of the set's users have each site as their nearest: what a load by place would follow."""
    spots, _ = networks.eua_spots(traces)
    nearest: dict[str, int] = dict.fromkeys(spots, 0)
    for user in networks.eua_users(traces):
        nearest[min(spots, key=lambda name: (networks.metres(spots[name], user), name))] += 1
    counts = sorted(nearest.values())
    return {"users": str(sum(counts)), "users a site, most": str(counts[-1])}


def _plain(node: Node) -> Any:
    match node:
        case Scalar(text=text):
            return text
        case Sequence(items=items):
            return [_plain(item) for item in items]
        case Mapping(entries=entries):
            return {key: _plain(value) for key, value in entries.items()}


# --- a phone's rates -------------------------------------------------------------------------------------------------


def _mobile(traces: Traces, options: dict[str, str]) -> Read:
    given = {**DEFAULTS[MOBILE], **options}
    if set(given) != {"file"}:
        raise ConfigError(f"{MOBILE} takes one option, file=NAME")
    rates, n_skipped, notes = networks.mobile_rates(traces, given["file"], Path())
    down = sorted(rates)
    facts = {
        "seconds": str(len(rates)),
        "down p50": about_bandwidth(down[len(down) // 2] * 1000) if down else "–",
        "down most": about_bandwidth(down[-1] * 1000) if down else "–",
        "skipped": str(n_skipped),
    }
    text = "".join(f"# {note}\n" for note in notes) + f"{RATES_HEAD}\n" + "".join(f"{rate}\n" for rate in rates)
    return Read(name=MOBILE, notes=notes, facts=facts, text=text, suffix=".csv")

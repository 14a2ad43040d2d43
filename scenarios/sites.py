"""Sites of a topology, and how the other sections name some of them."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from federation import units
from federation.errors import ConfigError
from federation.strictyaml import FileError, Node, Place, one_or_more, quantity, read_text, suggest
from scenarios.world import AgentSpec

SELECTORS = ("tier", "region")


class Site(NamedTuple):
    name: str
    agents: tuple[AgentSpec, ...]
    tier: str = ""
    region: str = ""


Sites = dict[str, Site]
ReadSites = Callable[[Node], list[str]]


def as_is(node: Node) -> Node:
    return node


def no_site(name: str, sites: Sites) -> str:
    some = ", ".join(list(sites)[:12]) + (", …" if len(sites) > 12 else "")
    return f'no site is called "{name}"{suggest(name, sites)}; the file has {some}'


def check_holders(place: Place, names: Iterable[str], sites: Sites) -> None:
    """Shards lie on agents: a site without any holds none."""
    for name in names:
        if not sites[name].agents:
            raise FileError(place, f'site "{name}" has no agents, so nobody there holds data')


def is_selector(text: str) -> bool:
    """Whether it may stand for several sites."""
    return "*" in text or text.partition(":")[0] in SELECTORS


def site_names(text: str, sites: Sites) -> list[str]:
    """The site of that name, those whose name matches (`edge-*`), or those of a tier or region (`tier:edge`,
    `region:eu-*`); none where nothing is so called."""
    kind, colon, pattern = text.partition(":")
    if not colon:
        kind, pattern = "name", text
    elif kind not in SELECTORS:
        return []
    compiled = re.compile(".*".join(re.escape(part) for part in pattern.split("*")))
    return [name for name, site in sites.items() if compiled.fullmatch(getattr(site, kind))]


def named_sites(node: Node, sites: Sites) -> list[str]:
    """As `site_names`; nobody is a mistake."""
    text = read_text(node)
    names = site_names(text, sites)
    if names:
        return names
    kind = text.partition(":")[0]
    if kind in SELECTORS and ":" in text:
        known = dict.fromkeys(getattr(site, kind) for site in sites.values() if getattr(site, kind))
        pattern = text.partition(":")[2]
        has = f"the file has {', '.join(known)}" if known else f"no site of the file has a {kind}"
        raise FileError(node.place, f'no site is of the {kind} "{pattern}"{suggest(pattern, known)}; {has}')
    raise FileError(node.place, no_site(text, sites))


def read_sites(sites: Sites) -> ReadSites:
    """A site, a pattern such as `edge-*`, all of a tier or region (`tier:edge`, `region:eu`), or a list of these."""

    def read(node: Node) -> list[str]:
        found: list[str] = []
        for item in one_or_more(as_is)(node):
            found += [name for name in named_sites(item, sites) if name not in found]
        return found

    return read


# --- quantities with bounds -------------------------------------------------------------------------------------------


def some(parse: Callable[[str], int], instead: str) -> Callable[[Node], int]:
    """A reader of a quantity above nothing; `instead` says what to write where nothing was meant."""

    def read(node: Node) -> int:
        text = read_text(node)
        try:
            value = parse(text)
        except ConfigError as error:
            raise FileError(node.place, str(error)) from None
        if value <= 0:
            raise FileError(node.place, f'"{text}" is nothing: {instead}')
        return value

    return read


def read_begin(end_us: int) -> Callable[[Node], int]:
    """A reader of when something begins: what would begin at `end_us` or later never does, which nobody means."""

    def read(node: Node) -> int:
        at_us = quantity(units.parse_duration_us)(node)
        if at_us >= end_us:
            begin, end = units.about_duration(at_us), units.about_duration(end_us)
            raise FileError(node.place, f"it would begin at {begin}, and the run ends at {end}")
        return at_us

    return read


read_cores = some(units.parse_cpu_milli, "write a number of cores such as 2 or 0.5")
read_speed = some(units.parse_cpu_milli, "a core of speed 1 is the reference core; write one such as 0.5")
read_bandwidth = some(
    units.parse_bandwidth_bps, "write a bandwidth such as 5Mbit; where no bytes pass, leave the link out or cut it"
)


def read_chance(node: Node) -> int:
    """A part of a whole such as a loss, in parts per million: at most all of it."""
    ppm = quantity(units.parse_percent_ppm)(node)
    if ppm > 1_000_000:
        raise FileError(node.place, f'"{read_text(node)}" is more than all: the most is 100%')
    return ppm

"""The `links` and `egress` of a topology: between sites named one by one, by pattern, by tier or by region."""

from pathlib import Path
from typing import NamedTuple

from federation import units
from federation.jobfile import read_duration
from federation.strictyaml import Fields, FileError, Node, Scalar, as_mapping, list_of, quantity, read_flag, read_text
from scenarios.sites import Sites, as_is, is_selector, named_sites, read_bandwidth, read_chance, read_sites
from scenarios.traces.folder import Traces
from scenarios.traces.networks import variations_of
from scenarios.transport import LinkSpec
from scenarios.world import Variation

LINK_KEYS = ("between", "within", "from", "to", "rtt", "jitter", "bandwidth", "loss", "shared", "varies")
EGRESS_KEYS = ("from", "to", "price")
LINKS_MAX = 1_000_000

Way = tuple[str, str]
Link = tuple[str, str, LinkSpec]
Price = tuple[str, str, int]  # micro-dollars a gigabyte


class _Ends(NamedTuple):
    """The directed pairs of one entry; `n_selectors` of its ends name sites by what they are."""

    ways: dict[Way, str]  # way → the text that names where it leads
    n_selectors: int


class Links(NamedTuple):
    links: tuple[Link, ...]
    variations: tuple[Variation, ...]
    notes: tuple[str, ...]


def read_links(
    node: Node | None, sites: Sites, measured: list[Link], duration_us: int, traces: Traces, base: Path
) -> Links:
    """`measured` come first. An entry that names its sites wins over one that selects them by pattern, tier or region;
    two of a kind for one pair are a mistake."""
    ranks: dict[Way, int] = {(first, second): 0 for first, second, _ in measured}
    specs: dict[Way, LinkSpec] = {}
    for first, second, spec in measured:
        if (first, second) in specs and node is not None:
            raise FileError(node.place, _twice(first, second))
        specs[first, second] = spec
    variations: list[Variation] = []
    notes: list[str] = []
    for own in list_of(as_is, '"links"')(node) if node is not None else ():
        fields = Fields(own, "a link", LINK_KEYS)
        ends = _ends(fields, own, sites)
        rates = _bandwidths(fields, ends.ways)
        found: list[Link] = []
        for way, spec in _specs(fields, rates).items():
            rank = ranks.get(way)
            if rank == ends.n_selectors:
                raise FileError(own.place, _twice(*way))
            if rank is None or ends.n_selectors < rank:
                ranks[way], specs[way] = ends.n_selectors, spec
                found.append((*way, spec))
        if len(specs) > LINKS_MAX:
            raise FileError(own.place, f"the topology has more than {LINKS_MAX} links")
        varied = fields.node("varies")
        if varied is not None:
            if ends.n_selectors:
                raise FileError(varied.place, "a link that varies is between two sites that are named")
            changes, said = variations_of(varied, found, duration_us, traces, base)
            variations += changes
            notes += said
    return Links(tuple((*way, spec) for way, spec in specs.items()), tuple(variations), tuple(notes))


def _twice(first: str, second: str) -> str:
    return f"the link {first} → {second} is given twice"


def _specs(fields: Fields, rates: dict[Way, int]) -> dict[Way, LinkSpec]:
    rtt_us = fields.required("rtt", read_duration)
    jitter_us = fields.optional("jitter", quantity(units.parse_duration_us), 0)
    loss_ppm = fields.optional("loss", read_chance, 0)
    shared = fields.optional("shared", read_flag, True)
    return {
        way: LinkSpec(rtt_us=rtt_us, bandwidth_bps=bps, jitter_us=jitter_us, loss_ppm=loss_ppm, shared=shared)
        for way, bps in rates.items()
    }


def _ends(fields: Fields, node: Node, sites: Sites) -> _Ends:
    forms = [form for form in ("between", "within", "from") if form in fields]
    if len(forms) != 1 or ("to" in fields) != (forms == ["from"]):
        sentence = "a link is between: [one site, another], within: a site, or from: one site with to: another"
        raise FileError(node.place, sentence)
    if forms == ["within"]:
        end = fields.required("within", as_is)
        text = read_text(end)
        return _Ends({(name, name): text for name in named_sites(end, sites)}, int(is_selector(text)))
    if forms == ["from"]:
        ends = [fields.required("from", as_is), fields.required("to", as_is)]
    else:
        ends = list(fields.required("between", list_of(as_is, '"between"')))
        if len(ends) != 2:
            raise FileError(fields.place_of("between"), '"between" names two different sites')
    texts = [read_text(end) for end in ends]
    here, there = (named_sites(end, sites) for end in ends)
    ways = {(first, second): texts[1] for first in here for second in there if first != second}
    if not ways:
        raise FileError(fields.place_of(forms[0]), f'"{forms[0]}" names two different sites')
    if forms == ["between"]:
        back = {(second, first): texts[0] for first, second in ways}
        ways = dict(sorted((back | ways).items()))
    return _Ends(ways, sum(map(is_selector, texts)))


def _bandwidths(fields: Fields, ways: dict[Way, str]) -> dict[Way, int]:
    """One for all directions, or `{to plant: 20Mbit, to rack: 100Mbit}`, the ends as the link names them."""
    node = fields.required("bandwidth", as_is)
    if isinstance(node, Scalar):
        return dict.fromkeys(ways, read_bandwidth(node))
    entries = as_mapping(node, '"bandwidth"').entries
    wanted = {f"to {text}" for text in ways.values()}
    if set(entries) != wanted or len(wanted) != 2:
        raise FileError(node.place, f"a bandwidth by direction has the keys {' and '.join(sorted(wanted))}")
    return {way: read_bandwidth(entries[f"to {text}"]) for way, text in ways.items()}


def read_egress(node: Node | None, sites: Sites, measured: list[Price]) -> tuple[Price, ...]:
    """Prices of bytes that leave: `{from: region:eu, to: "*", price: 0.09/GB}`. Those that a file gives win over
    measured ones, later ones over earlier."""
    prices: dict[Way, int] = {(first, second): price for first, second, price in measured}
    read = read_sites(sites)
    for own in list_of(as_is, '"egress"')(node) if node is not None else ():
        fields = Fields(own, "an egress price", EGRESS_KEYS)
        here, there = fields.required("from", read), fields.required("to", read)
        price = fields.required("price", quantity(units.parse_price_microusd_per_gb))
        ways = [(first, second) for first in here for second in there if first != second]
        if not ways:
            raise FileError(own.place, "bytes that stay at their site leave nowhere: name two different sites")
        prices |= dict.fromkeys(ways, price)
    return tuple((*way, price) for way, price in prices.items())

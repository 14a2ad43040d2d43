"""`offerflow net`: the measured network."""

from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.output import (
    Format,
    MasterUrl,
    Output,
    TokenFile,
    connect,
    note,
    print_fields,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from policies.model import Link

app = typer.Typer(help="The network as it was measured.", no_args_is_help=True)


@app.command()
def show(output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """Every site: where it hangs, what it sends and receives at most, and whose ways share its uplink."""
    from federation.units import about_bandwidth

    sites = connect(master, token_file).sites()
    if output is Format.JSON:
        return print_json(sites)
    return print_table(
        ("site", "region", "racks", "agents", "sends", "receives", "falls together"),
        [
            (
                each.site,
                each.region,
                ", ".join(each.racks),
                str(each.n_agents),
                "?" if each.out_bps is None else about_bandwidth(each.out_bps),
                "?" if each.in_bps is None else about_bandwidth(each.in_bps),
                ", ".join(each.shares_uplink),
            )
            for each in sites
        ],
        right=("agents", "sends", "receives"),
    )


@app.command()
def path(
    from_site: Annotated[str, typer.Argument(metavar="FROM", help="A site; data flows from here.")],
    to_site: Annotated[str, typer.Argument(metavar="TO", help="A site.")],
    output: Output = Format.TABLE,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """The way between two sites whose narrowest hop is the widest, and what the direct way gives."""
    from federation.units import about_bandwidth, about_duration

    found = connect(master, token_file).path(from_site, to_site)
    if output is Format.JSON:
        return print_json(found)
    direct = "not measured" if found.direct_bps is None else about_bandwidth(found.direct_bps)
    note(f"at least {about_bandwidth(found.bandwidth_bps)}; the direct way: {direct}")
    return print_table(
        ("from", "to", "bandwidth", "round trip", ""),
        [
            (
                hop.from_site,
                hop.to_site,
                about_bandwidth(hop.bandwidth_bps),
                "" if hop.rtt_us is None else about_duration(hop.rtt_us),
                "disputed" if hop.is_disputed else "",
            )
            for hop in found.hops
        ],
        right=("bandwidth", "round trip"),
    )


@app.command()
def matrix(output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """Links between sites as a matrix: data flows from the row to the column."""
    links = connect(master, token_file).network()
    if output is Format.JSON:
        return print_json(links)
    between_sites = {
        (link.from_id, link.to_id): link for link in links if _is_site(link.from_id) and _is_site(link.to_id)
    }
    sites = sorted({end for ends in between_sites for end in ends})
    if not sites:
        note("no link between two sites has been measured yet; `offerflow net list` shows those of agents")
        return None
    return print_table(
        ("from \\ to", *(_name(site) for site in sites)),
        [
            (_name(row), *(_cell(between_sites.get((row, column)), same=row == column) for column in sites))
            for row in sites
        ],
    )


@app.command()
def services(output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """Services whose replicas are weighted: which part of each client site's requests goes where."""
    from federation.cli.service import print_services

    found = connect(master, token_file).services()
    return print_json(found) if output is Format.JSON else print_services(found)


@app.command("list")
def list_(output: Output = Format.TABLE, master: MasterUrl = None, token_file: TokenFile = None) -> None:
    """Every link estimate, with its confidence and age."""
    from federation.units import about_bandwidth, about_duration, format_percent

    links = connect(master, token_file).network()
    if output is Format.JSON:
        return print_json(links)
    return print_table(
        ("from", "to", "bandwidth", "round trip", "jitter", "loss", "confidence", "age"),
        [
            (
                link.from_id,
                link.to_id,
                "" if link.bandwidth_bps is None else about_bandwidth(link.bandwidth_bps),
                "" if link.rtt_us is None else about_duration(link.rtt_us),
                "" if link.jitter_us is None else about_duration(link.jitter_us),
                "" if link.loss_ppm is None else format_percent(link.loss_ppm),
                f"{link.confidence_ppm // 10_000}%",
                about_duration(link.age_us),
            )
            for link in links
        ],
        right=("bandwidth", "round trip", "jitter", "loss", "confidence", "age"),
    )


@app.command()
def explain(
    from_end: Annotated[str, typer.Argument(metavar="FROM", help="A site, or agent:ID; data flows from here.")],
    to_end: Annotated[str, typer.Argument(metavar="TO", help="A site, or agent:ID.")],
    output: Output = Format.TABLE,
    master: MasterUrl = None,
    token_file: TokenFile = None,
) -> None:
    """What is believed of one link, and why: the forecast with its bounds, what was measured, how old it is."""
    from federation.cli.exits import CommandError, Exit
    from federation.units import about_bandwidth, about_duration, format_percent

    ends = tuple(end if ":" in end or end == "master" else f"site:{end}" for end in (from_end, to_end))
    links = connect(master, token_file).network()
    link = next((link for link in links if (link.from_id, link.to_id) == ends), None)
    if link is None:
        raise CommandError(
            Exit.NOT_FOUND,
            f"no link {ends[0]} → {ends[1]} has been measured; see `offerflow net list` for those that were",
        )
    if output is Format.JSON:
        return print_json(link)
    low, high = link.bandwidth_bps, link.bandwidth_high_bps
    if link.forecast_us is None:
        forecast = "none yet: too few measurements; what was measured is planned with"
    else:
        forecast = f"over {about_duration(link.forecast_us)}, mostly by {link.forecast_by}"
    fields = (
        ("link", f"{link.from_id} → {link.to_id}"),
        ("planned with", "nothing measured" if low is None else about_bandwidth(low)),
        ("forecast", forecast),
        ("9 in 10 below", "" if high is None else about_bandwidth(high)),
        ("over", ", ".join(f"{about_duration(us)}: {about_bandwidth(bps)}" for us, bps in link.bandwidth_over)),
        ("lower quartile", "" if link.bandwidth_measured_bps is None else about_bandwidth(link.bandwidth_measured_bps)),
        ("round trip", "" if link.rtt_us is None else about_duration(link.rtt_us)),
        ("jitter", "" if link.jitter_us is None else about_duration(link.jitter_us)),
        ("loss", "" if link.loss_ppm is None else format_percent(link.loss_ppm)),
        ("confidence", f"{link.confidence_ppm // 10_000}%"),
        ("last measured", f"{about_duration(link.age_us)} ago"),
        ("disputed", "its two ends tell different rates; the lower one counts" if link.is_disputed else ""),
    )
    return print_fields((name, value) for name, value in fields if value)


def _is_site(end: str) -> bool:
    return end.startswith("site:")


def _name(end: str) -> str:
    return end.partition(":")[2]


def _cell(link: "Link | None", *, same: bool) -> str:
    """`9.1 Mbit/s, 12 ms`; `?` where nothing was measured."""
    from federation.units import about_bandwidth, about_duration

    if link is None:
        return "-" if same else "?"
    bandwidth = "?" if link.bandwidth_bps is None else about_bandwidth(link.bandwidth_bps)
    return f"{bandwidth}, {'?' if link.rtt_us is None else about_duration(link.rtt_us)}"

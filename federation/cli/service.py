"""Services on the command line: their replicas, and which of them answers which client site."""

from typing import TYPE_CHECKING

from federation.cli.exits import CommandError, Exit
from federation.cli.output import note, print_table

if TYPE_CHECKING:
    from federation.api import ServiceView


def print_services(services: "tuple[ServiceView, ...]") -> None:
    """A line for each client site and replica; a client that nobody answers has one of its own."""
    from federation.units import about_duration, format_percent

    rows: list[tuple[str, ...]] = []
    for service in services:
        missed = "" if service.missed_ppm is None else f"; {format_percent(service.missed_ppm)} of requests are missed"
        note(
            f"{service.service_id}: {service.n_ready} of {service.n_placed} replicas answer, "
            f"{service.replicas_min} to {service.replicas_max} may run{missed}"
        )
        for client in service.clients:
            asked = (client.site, f"{client.requests_per_second}/s", about_duration(client.rtt_us_target))
            if not client.shares:
                rows.append((service.service_id, *asked, "", "nobody", "", ""))
            for share in client.shares:
                rtt = "?" if share.rtt_us is None else about_duration(share.rtt_us)
                part = format_percent(share.share_ppm)
                rows.append((service.service_id, *asked, part, share.agent_id, share.site, rtt))
    print_table(
        ("service", "clients at", "ask", "target", "part", "agent", "at", "round trip"),
        rows,
        right=("ask", "target", "part", "round trip"),
    )


def read_demand(words: list[str]) -> dict[str, int]:
    """`SITE=N` each. Raises `CommandError` for what is none."""
    found: dict[str, int] = {}
    for word in words:
        site, mark, number = word.partition("=")
        if not mark or not site or not number.isdecimal() or not 1 <= int(number) <= 1_000_000:
            raise CommandError(Exit.USAGE, f"{word!r} is no demand: write SITE=N, N requests a second, at least one")
        found[site] = int(number)
    return found

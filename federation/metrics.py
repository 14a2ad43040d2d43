"""What Prometheus scrapes: the core's and the driver's counters, gauges from the views, and the HTTP side's own counts.

Everything is read at the scrape; the core knows nothing of Prometheus. Labels are bounded: states, codes, routes, and
at most `ROLES_MAX` roles, the rest of which are summed as "(other)". No agent, task or job ever becomes a label.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from federation import services, views
from federation.api import RoleView, StatusView
from federation.http.live import Live
from federation.market.book import FrameworkEntry, MarketBook
from federation.master import Master
from policies.model import Amount, Link

ROLES_MAX = 100
PREFIX = "offerflow"
_CODED = "garbage"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_KINDS = ("cpu_milli", "memory_bytes", "disk_bytes", "gpus")


class StreamCounts(Protocol):
    """Of the event streams: open now, and dropped for slowness ever."""

    n_open: int
    n_dropped: int


class HttpCounts:
    """Requests by route, method and status. Routes come from the table, so the number of keys is bounded."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()

    def count(self, request: web.Request, status: int) -> None:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unknown"
        method = request.method if request.method in _METHODS else "other"
        self.requests[route, method, status] += 1


def registry_of(live: Live, http: HttpCounts, streams: StreamCounts) -> CollectorRegistry:
    """A registry of its own, so that two masters in one process do not collide."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MasterCollector(live))
    registry.register(HttpCollector(http, streams))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class HttpCollector(Collector):
    def __init__(self, http: HttpCounts, streams: StreamCounts) -> None:
        self._http = http
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        labels = ["route", "method", "status"]
        requests = CounterMetricFamily(f"{PREFIX}_http_requests", "HTTP requests answered", labels=labels)
        for (route, method, status), count in sorted(self._http.requests.items()):
            requests.add_metric([route, method, str(status)], count)
        yield requests
        yield GaugeMetricFamily(f"{PREFIX}_http_event_streams", "event streams open", value=self._streams.n_open)
        dropped = f"{PREFIX}_http_event_streams_dropped"
        yield CounterMetricFamily(dropped, "event streams dropped for slowness", value=self._streams.n_dropped)


class MasterCollector(Collector):
    def __init__(self, live: Live) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        status = views.status(self._live.master, self._live.now_us())
        yield from _of_status(status)
        connected = self._live.broker_status().startswith("connected")
        yield GaugeMetricFamily(f"{PREFIX}_broker_connected", "1 while the broker's session stands", value=connected)
        yield from _of_roles(views.roles(self._live.master))
        yield from _of_frameworks(self._live.master.core.market)
        yield from _of_services(self._live.master)
        yield from _of_links(self._live.master, self._live.now_us())
        for name, value in sorted(self._live.gauges().items()):
            yield GaugeMetricFamily(f"{PREFIX}_driver_{name}", f"{name} now", value=value)
        yield from counters("driver", self._live.counters())
        yield from counters("core", self._live.master.counters)


def _of_status(status: StatusView) -> Iterator[Metric]:
    yield GaugeMetricFamily(f"{PREFIX}_term", "the master's term", value=status.term)
    state = GaugeMetricFamily(f"{PREFIX}_state", "1 for the master's state", labels=["state"])
    for name in ("recovering", "serving", "stepped_down"):
        state.add_metric([name], status.state == name)
    yield state
    for noun, counts in (("agents", status.agents), ("tasks", status.tasks), ("jobs", status.jobs)):
        family = GaugeMetricFamily(f"{PREFIX}_{noun}", f"{noun} by state", labels=["state"])
        for name in sorted(counts):
            family.add_metric([name], counts[name])
        yield family
    yield GaugeMetricFamily(f"{PREFIX}_offers", "live offers", value=status.n_offers)
    yield GaugeMetricFamily(f"{PREFIX}_demands", "classes of pending tasks", value=status.n_demands)
    yield GaugeMetricFamily(f"{PREFIX}_events_set_aside", "events that were bugs of ours", value=status.n_set_aside)
    yield CounterMetricFamily(f"{PREFIX}_rounds", "placement rounds", value=status.n_rounds)
    for name, text, amount in (
        ("capacity", "what the agents have", status.total),
        ("allocated", "what placed tasks hold", status.allocated),
    ):
        family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["resource"])
        _add_amount(family, [], amount)
        yield family


def _of_roles(roles: tuple[RoleView, ...] | list[RoleView]) -> Iterator[Metric]:
    shown = sorted(roles, key=lambda role: (-role.dominant_share_ppm, role.path))
    allocated = GaugeMetricFamily(f"{PREFIX}_role_allocated", "held by a role's tasks", labels=["role", "resource"])
    share = GaugeMetricFamily(f"{PREFIX}_role_dominant_share_ppm", "largest share of any resource", labels=["role"])
    pending = GaugeMetricFamily(f"{PREFIX}_role_pending_tasks", "tasks to be placed", labels=["role"])
    for role in sorted(shown[:ROLES_MAX], key=lambda role: role.path):
        _add_amount(allocated, [role.path], role.allocated)
        share.add_metric([role.path], role.dominant_share_ppm)
        pending.add_metric([role.path], role.n_pending)
    if rest := shown[ROLES_MAX:]:  # No role can have this name: paths hold no brackets.
        pending.add_metric(["(other)"], sum(role.n_pending for role in rest))
    yield from (allocated, share, pending)


def _of_frameworks(market: MarketBook) -> Iterator[Metric]:
    """Sums over all frameworks: their ids are no labels, there may be thousands."""
    frameworks = market.frameworks.values()
    n_connected = sum(entry.is_connected for entry in frameworks)
    state = GaugeMetricFamily(f"{PREFIX}_frameworks", "frameworks by state", labels=["state"])
    state.add_metric(["connected"], n_connected)
    state.add_metric(["disconnected"], len(frameworks) - n_connected)
    yield state
    for name, text, value in (
        ("tasks", "tasks of frameworks that have not ended", sum(map(_open_tasks, frameworks))),
        ("offers", "live offers to frameworks", len(market.leases)),
        ("requests", "requests that are not met", len(market.wants)),
        ("filters", "refusals that are remembered", sum(len(entry.filters) for entry in frameworks)),
        ("agents_held", "agents kept for a starving request", len(market.held)),
    ):
        yield GaugeMetricFamily(f"{PREFIX}_framework_{name}", text, value=value)


def _of_services(master: Master) -> Iterator[Metric]:
    """Sums over open services: their ids are no labels."""
    found = [services.service_view(master.core, group) for group in master.core.tasks.services.values()]
    replicas = GaugeMetricFamily(f"{PREFIX}_service_replicas", "replicas of services by state", labels=["state"])
    for state, count in (
        ("ready", sum(each.n_ready for each in found)),
        ("starting", sum(each.n_placed - each.n_ready for each in found)),
        ("pending", sum(each.n_pending for each in found)),
        ("spare", sum(each.n_spare for each in found)),
    ):
        replicas.add_metric([state], count)
    asked = sum(client.requests_per_second for each in found for client in each.clients)
    missed = sum((each.missed_ppm or 0) * sum(client.requests_per_second for client in each.clients) for each in found)
    yield GaugeMetricFamily(f"{PREFIX}_services", "open services whose replicas are weighted", value=len(found))
    yield replicas
    yield GaugeMetricFamily(f"{PREFIX}_service_requests_per_second", "that client sites ask for", value=asked)
    yield GaugeMetricFamily(
        f"{PREFIX}_service_missed_ppm", "of requests, expected past their target", value=missed // max(1, asked)
    )


def _of_links(master: Master, now_us: int) -> Iterator[Metric]:
    """By class of link: the tiers of its two sites, or `within` one site, or to the `master`. Six labels at most."""
    tiers = {f"site:{entry.site}": entry.enrolled.tier for entry in master.core.agents.sorted()}
    by_class: dict[str, list[Link]] = {}
    for link in master.core.network.links_told(now_us):
        if link.from_id in tiers and link.to_id in tiers:
            between = f"{tiers[link.from_id]}-{tiers[link.to_id]}"
            by_class.setdefault("within" if link.from_id == link.to_id else between, []).append(link)
        elif "master" in (link.from_id, link.to_id):
            by_class.setdefault("master", []).append(link)
    count = GaugeMetricFamily(f"{PREFIX}_links", "links between sites that were measured", labels=["class"])
    rate = GaugeMetricFamily(f"{PREFIX}_link_bandwidth_bps", "median rate planned with", labels=["class"])
    rtt = GaugeMetricFamily(f"{PREFIX}_link_rtt_us", "median round trip", labels=["class"])
    age = GaugeMetricFamily(f"{PREFIX}_link_age_us", "of the link longest not measured", labels=["class"])
    for name, links in sorted(by_class.items()):
        count.add_metric([name], len(links))
        age.add_metric([name], max(link.age_us for link in links))
        for family, values in (
            (rate, sorted(link.bandwidth_bps for link in links if link.bandwidth_bps is not None)),
            (rtt, sorted(link.rtt_us for link in links if link.rtt_us is not None)),
        ):
            if values:
                family.add_metric([name], values[len(values) // 2])
    n_disputed = sum(link.is_disputed for link in master.core.network.links_told(now_us))
    disputed = GaugeMetricFamily(f"{PREFIX}_links_disputed", "links whose two ends tell differently", value=n_disputed)
    yield from (count, rate, rtt, age, disputed)


def _open_tasks(entry: FrameworkEntry) -> int:
    return sum(task.is_open for task in entry.tasks.values())


def _add_amount(family: GaugeMetricFamily, labels: list[str], amount: Amount) -> None:
    for kind in _KINDS:
        more = amount.gpu_milli / 1000 if kind == "gpus" else 0
        family.add_metric([*labels, kind], getattr(amount, kind) + more)


def counters(part: str, counts: Mapping[str, int]) -> Iterator[Metric]:
    """Counters of a part of the master; `garbage_<code>` becomes `garbage` with a label `code`."""
    families: dict[str, CounterMetricFamily] = {}
    for key in sorted(counts):
        name, code = (_CODED, key.removeprefix(f"{_CODED}_")) if key.startswith(f"{_CODED}_") else (key, "")
        metric = f"{PREFIX}_{part}_" + re.sub(r"[^a-zA-Z0-9_]", "_", name).removesuffix("_total")
        if metric not in families:
            labels = ["code"] if code else []
            families[metric] = CounterMetricFamily(metric, f"{name} since this start", labels=labels)
        families[metric].add_metric([code] if code else [], counts[key])
    yield from families.values()

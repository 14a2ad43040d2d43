"""The `expect` section: what must hold of a run, in one line each.

    vision.latency.p99 < 5s                    of the tasks of a role or generator; p50 … p99.9, mean, min, max
    vision.deadline_miss < 1% excluding faults of tasks that met no fault in their life
    recovery.time.max < 30s
    jain(share) > 0.95                         over roles; also min(…), max(…), mean(…)
    baseline(fifo).completion.p50 ratio < 0.9  this run's value over that of the same world under fifo
    baseline(offers=plain).makespan ratio < 1  or over that with another value of a parameter

A metric, role, function or unit that does not exist is a mistake in the file, found before anything runs.
"""

import re
from collections.abc import Iterable
from typing import Literal, cast

from federation import units
from federation.errors import ConfigError
from federation.strictyaml import Fields, FileError, Node, Place, Scalar, choice, list_of, read_text, suggest
from policies.model import Record
from scenarios.preparing import read_policy

Kind = Literal["duration", "share", "count", "bytes", "dollars"]
Function = Literal["jain", "min", "max", "mean"]

# What is measured of each task or job, and so has a distribution.
DISTRIBUTIONS: dict[str, Kind] = {
    "latency": "duration",  # arrival → finished, of tasks
    "wait": "duration",  # could be placed → was placed, of the last attempt
    "stage": "duration",  # taken by the agent → all inputs there
    "run": "duration",
    "slowdown": "share",  # latency over the declared run time
    "completion": "duration",  # arrival → all its tasks ended, of jobs
    "prediction_error": "share",  # |expected - taken| / taken, transfer and run together, of finished tasks
    "client_rtt": "duration",  # true round trip between where a task ran and the clients it serves
    "request_rtt": "duration",  # of each answered request to services with replicas: {min, max}
    "recovery.time": "duration",  # cause gone → all in service again, of faults
}
SCALARS: dict[str, Kind] = {
    "client_miss": "share",  # of clients, by weight, whose round trip to what serves them is above its target
    "request_miss": "share",  # of requests to such services: past their target, or not answered
    "replicas": "count",  # that ran of such services, on average over the time in which they were asked
    "deadline_miss": "share",  # of tasks with a deadline: not finished by then
    "makespan": "duration",  # first arrival → last job's end
    "bytes_moved": "bytes",  # over links between sites
    "moves": "count",  # tasks stopped and placed anew because a link changed
    "redirects": "count",  # transfers sent to another source while they ran
    "edge_share": "share",  # of finished tasks
    "cost": "dollars",
    "egress": "dollars",  # what providers charge for bytes between their regions, where a set has prices
    "utilisation.cpu": "share",
    "utilisation.gpu": "share",
    "throughput": "count",  # tasks finished a second
    "rounds": "count",
    "tasks.finished": "count",
    "tasks.failed": "count",
    "tasks.cancelled": "count",
    "tasks.open": "count",
    "tasks.total": "count",
    "jobs.finished": "count",
    "jobs.failed": "count",
    "jobs.open": "count",
    "jobs.refused": "count",
    "offers.made": "count",  # to frameworks
    "offers.declined": "count",
    "offers.lapsed": "count",  # rescinded, or not answered in time
    "attempts.failed": "count",
    "attempts.total": "count",
    "laws.broken": "count",
    "decisions.changed": "count",  # rounds of a recording in which the policy decides otherwise now
    "recovery.missing": "count",  # faults from which the run did not recover
}
VECTORS: dict[str, Kind] = {"share": "share"}  # by role: dominant share over weight, while all want more
UNSCOPED = frozenset({"recovery.time", "prediction_error", "recovery.missing", "rounds", "bytes_moved", "egress",
                      "moves", "redirects", "utilisation.cpu", "utilisation.gpu", "laws.broken", "share",
                      "jobs.refused", "decisions.changed"})  # fmt: skip
# Sums over the whole run, of which nobody knows when what happened; and what happens in time, but to no task or job.
TIMELESS = frozenset({"rounds", "bytes_moved", "egress", "redirects", "laws.broken", "jobs.refused",
                      "decisions.changed", "offers.made", "offers.declined", "offers.lapsed"})  # fmt: skip
TASKLESS = frozenset({"recovery.time", "recovery.missing", "prediction_error", "moves", "utilisation.cpu",
                      "utilisation.gpu", "share", "request_miss", "request_rtt", "replicas"})  # fmt: skip
FUNCTIONS: tuple[Function, ...] = ("jain", "min", "max", "mean")
_STAT = re.compile(r"mean|min|max|count|p(100|[0-9]{1,2}(\.[0-9]{1,2})?)")
_LINE = re.compile(
    r"(?:baseline\((?P<base>[a-z0-9-]+(?:=[^()\s]+)?)\)\.)?"
    r"(?:(?P<function>[a-z]+)\((?P<inner>[^()]*)\)|(?P<name>[^\s<>=()]+))"
    r"(?P<ratio>\s+ratio)?\s*(?P<operator><=|>=|==|<|>)\s*(?P<limit>[^\s]+)(?:\s+(?P<window>.+))?"
)


class Metric(Record, frozen=True, kw_only=True):
    """`scope` is a role or a generator, "" for all; `stat` of a distribution, "" for a scalar or a vector."""

    measure: str
    scope: str = ""
    stat: str = ""
    function: str = ""

    @property
    def kind(self) -> Kind:
        if self.function == "jain":
            return "share"
        if self.stat == "count":
            return "count"
        return {**DISTRIBUTIONS, **SCALARS, **VECTORS}[self.measure]


class Window(Record, frozen=True, kw_only=True):
    """Which tasks count: by when they arrived, and by whether they met a fault."""

    from_us: int = 0
    to_us: int | None = None
    faults: Literal["any", "excluding", "during"] = "any"


class Slo(Record, frozen=True, kw_only=True):
    text: str
    metric: Metric
    operator: str
    limit: float  # in the metric's small unit: µs, bytes; shares and ratios as they are
    window: Window = Window()
    baseline: str = ""  # the policy, or "parameter=value", whose run it is compared with


class Expectations(Record, frozen=True, kw_only=True):
    slo: tuple[Slo, ...] = ()


def read_expectations(node: Node, scopes: set[str], parameters: Iterable[str]) -> Expectations:
    """`scopes` are the roles, generators and frameworks of the world, `parameters` the names of the file's."""
    fields = Fields(node, '"expect"', ("laws", "slo"))
    fields.optional("laws", choice("all"), "all")  # They hold always; a file may say so.
    slo = fields.optional("slo", list_of(lambda item: _read_slo(item, scopes, parameters), '"slo"'), ())
    return Expectations(slo=slo)


def _read_slo(node: Node, scopes: set[str], parameters: Iterable[str]) -> Slo:
    slo = parse_slo(read_text(node), scopes, node.place)
    name, is_parameter, _ = slo.baseline.partition("=")
    if is_parameter and name not in parameters:
        raise FileError(
            node.place, f"baseline({slo.baseline}) names no parameter of the file{suggest(name, parameters)}"
        )
    if name and not is_parameter:
        read_policy(Scalar(node.place, name, plain=False))
    return slo


def parse_slo(text: str, scopes: set[str], place: Place) -> Slo:
    match = _LINE.fullmatch(text.strip())
    if match is None:
        raise FileError(place, f'"{text}" is no expectation: write one such as vision.latency.p99 < 5s')
    function = match["function"] or ""
    if function and function not in FUNCTIONS:
        known = ", ".join(FUNCTIONS)
        raise FileError(place, f'there is no function "{function}"{suggest(function, FUNCTIONS)}; known: {known}')
    metric = _metric(match["inner"].strip() if function else match["name"], function, scopes, place)
    baseline = match["base"] or ""
    if bool(baseline) != bool(match["ratio"]):
        raise FileError(place, "a comparison reads baseline(<policy or parameter=value>).<metric> ratio < 0.9")
    kind: Kind = "share" if baseline else metric.kind
    return Slo(
        text=text.strip(),
        metric=metric,
        operator=match["operator"],
        limit=_limit(match["limit"], kind, place),
        window=_window(match["window"], metric.measure, place),
        baseline=baseline,
    )


def _metric(name: str, function: str, scopes: set[str], place: Place) -> Metric:
    known = {**DISTRIBUTIONS, **SCALARS, **VECTORS}
    parts = name.split(".")
    for skip in (0, 1):
        scope = parts[0] if skip else ""
        if skip and (len(parts) == 1 or scope not in scopes):
            break
        # A percentile may have a decimal point of its own: p99.9.
        for size in range(len(parts) - skip, 0, -1):
            measure, stat = ".".join(parts[skip : skip + size]), ".".join(parts[skip + size :])
            if measure in known:
                _check_form(name, measure, stat, function, scope, place)
                return Metric(measure=measure, scope=scope, stat=stat, function=function)
    names = [*known, *(f"{scope}.{measure}" for scope in scopes for measure in known if measure not in UNSCOPED)]
    roles = f"; roles: {', '.join(sorted(scopes))}" if scopes else ""
    raise FileError(place, f'there is no metric "{name}"{suggest(name, names)}; known: {", ".join(known)}{roles}')


def _check_form(name: str, measure: str, stat: str, function: str, scope: str, place: Place) -> None:
    if scope and measure in UNSCOPED:
        raise FileError(place, f'"{measure}" is of the whole run, not of "{scope}"')
    if measure in VECTORS:
        if not function or stat:
            raise FileError(place, f'"{measure}" has a value for each role: write jain({measure}), min, max or mean')
    elif function:
        raise FileError(place, f"{function}() takes what has a value for each role: {', '.join(VECTORS)}")
    elif measure in DISTRIBUTIONS:
        if not _STAT.fullmatch(stat):
            raise FileError(place, f'"{name}" has a distribution: write {measure}.p99, .mean, .min, .max or .count')
    elif stat:
        raise FileError(place, f'"{measure}" is one number; leave ".{stat}" out')


def _limit(text: str, kind: Kind, place: Place) -> float:
    try:
        match kind:
            case "duration":
                return float(units.parse_duration_us(text))
            case "bytes":
                return float(units.parse_bytes(text))
            case "share" if text.endswith("%"):
                return units.parse_percent_ppm(text) / 1_000_000
            case _:
                if not re.fullmatch(units.NUMBER_PATTERN, text):
                    raise ConfigError(f"{text!r} is not a number")
                return float(text)
    except ConfigError as error:
        raise FileError(place, str(error)) from None


def _window(text: str | None, measure: str, place: Place) -> Window:
    if text is None:
        return Window()
    words = text.strip()
    if measure in TIMELESS:
        raise FileError(place, f'"{measure}" is of the whole run: leave "{words}" out')
    if words in ("excluding faults", "during faults"):
        if measure in TASKLESS:
            raise FileError(place, f'"{measure}" is of no task that may have met a fault: leave "{words}" out')
        return Window(faults=cast(Literal["excluding", "during"], words.split()[0]))
    match = re.fullmatch(r"(?:from|after)\s+(\S+)(?:\s+to\s+(\S+))?|before\s+(\S+)", words)
    if match is None:
        raise FileError(place, f'"{words}" is no window: excluding faults, during faults, after 5m, from 5m to 9m')
    try:
        first_us = units.parse_duration_us(match[1]) if match[1] else 0
        last = match[2] or match[3]
        last_us = units.parse_duration_us(last) if last else None
    except ConfigError as error:
        raise FileError(place, str(error)) from None
    if last_us is not None and last_us <= first_us:
        raise FileError(place, f'"{words}" ends before it begins')
    return Window(from_us=first_us, to_us=last_us)


# --- judging ---------------------------------------------------------------------------------------------------------


class Verdict(Record, frozen=True, kw_only=True, omit_defaults=False):
    """One expectation of one run. `value` None: nothing was there to be measured, which fails."""

    text: str
    ok: bool
    value: float | None
    limit: float
    kind: str
    why: str = ""


def judge(slo: Slo, value: float | None, baseline: float | None) -> Verdict:
    """`baseline` is the other run's value, where one is named."""
    kind: Kind = "share" if slo.baseline else slo.metric.kind
    why = ""
    if value is None:
        why = "nothing was measured"
    elif slo.baseline:
        if not baseline:
            value, why = None, f"nothing was measured under {slo.baseline}"
        else:
            value = value / baseline
    ok = value is not None and _holds(value, slo.operator, slo.limit)
    return Verdict(text=slo.text, ok=ok, value=value, limit=slo.limit, kind=kind, why=why)


def _holds(value: float, operator: str, limit: float) -> bool:
    match operator:
        case "<":
            return value < limit
        case "<=":
            return value <= limit
        case ">":
            return value > limit
        case ">=":
            return value >= limit
        case _:
            return value == limit


def shown(value: float | None, kind: str) -> str:
    """A value for people."""
    if value is None:
        return "–"
    match kind:
        case "duration":
            return units.about_duration(int(value))
        case "bytes":
            return units.about_bytes(int(value))
        case "dollars":
            return f"${value:.2f}"
        case "share":
            return f"{value:.4g}"
        case _:
            return f"{value:g}"

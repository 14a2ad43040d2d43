"""How a file writes down chance: laws of durations (`run: {lognormal: {p50: 2s, p99: 9s}}`) and of arrivals."""

from fractions import Fraction

from federation import units
from federation.jobfile import read_duration
from federation.strictyaml import (
    Fields,
    FileError,
    Node,
    Scalar,
    as_mapping,
    integer_between,
    quantity,
    read_number,
    read_text,
    suggest,
)
from scenarios.randomness import (
    SPAN_US_MAX,
    Arrivals,
    Bursts,
    Constant,
    Diurnal,
    Every,
    Exponential,
    Law,
    Lognormal,
    Pareto,
    Poisson,
    Uniform,
)

LAWS = ("exponential", "lognormal", "pareto", "uniform")
PROCESSES = ("every", "poisson", "bursts", "diurnal")


def read_law(node: Node) -> Law:
    """A duration, or a law of durations."""
    if isinstance(node, Scalar):
        return Constant(us=read_duration(node))
    name, value = _one_of(node, LAWS, "a law of durations")
    if name == "exponential":
        return Exponential(mean_us=read_duration(value))
    if name == "lognormal":
        fields = Fields(value, f'"{name}"', ("p50", "p99"))
        law = Lognormal(p50_us=fields.required("p50", read_duration), p99_us=fields.required("p99", read_duration))
        if law.p99_us < law.p50_us:
            raise FileError(value.place, "p99 is below p50")
        return law
    if name == "pareto":
        fields = Fields(value, f'"{name}"', ("min", "alpha", "max"))
        pareto = Pareto(
            min_us=fields.required("min", read_duration),
            alpha_milli=fields.required("alpha", _read_alpha),
            max_us=fields.optional("max", read_duration, SPAN_US_MAX),
        )
        if pareto.max_us < pareto.min_us:
            raise FileError(value.place, '"max" is below "min"')
        return pareto
    fields = Fields(value, f'"{name}"', ("from", "to"))
    low_us, high_us = fields.required("from", read_duration), fields.required("to", read_duration)
    if high_us < low_us:
        raise FileError(value.place, '"to" is below "from"')
    return Uniform(low_us=low_us, high_us=high_us)


def read_arrivals(node: Node) -> Arrivals:
    name, value = _one_of(node, PROCESSES, "a law of arrivals")
    if name == "every":
        return Every(every_us=read_duration(value))
    if name == "poisson":
        return _read_rate(value)
    if name == "bursts":
        fields = Fields(value, f'"{name}"', ("every", "size", "within"))
        return Bursts(
            every_us=fields.required("every", read_duration),
            size=fields.required("size", integer_between(1, 1_000_000)),
            within_us=fields.optional("within", quantity(units.parse_duration_us), 0),
        )
    fields = Fields(value, f'"{name}"', ("low", "high", "period", "peak"))
    diurnal = Diurnal(
        low=fields.required("low", _read_rate),
        high=fields.required("high", _read_rate),
        period_us=fields.optional("period", read_duration, 86_400_000_000),
        peak_us=fields.required("peak", quantity(units.parse_duration_us)),
    )
    if diurnal.low.n_events * diurnal.high.per_us > diurnal.high.n_events * diurnal.low.per_us:
        raise FileError(value.place, '"low" is above "high"')
    return diurnal


def _one_of(node: Node, known: tuple[str, ...], what: str) -> tuple[str, Node]:
    mapping = as_mapping(node, what)
    if len(mapping.entries) != 1:
        raise FileError(node.place, f"{what} is one of {', '.join(known)}")
    ((name, value),) = mapping.entries.items()
    if name not in known:
        raise FileError(mapping.keys[name], f'"{name}" is not {what}{suggest(name, known)}; known: {", ".join(known)}')
    return name, value


def _read_rate(node: Node) -> Poisson:
    rate = quantity(units.parse_frequency)(node)
    if rate.n_events == 0:
        raise FileError(node.place, f'"{read_text(node)}" never happens')
    return Poisson(n_events=rate.n_events, per_us=rate.per_us)


def _read_alpha(node: Node) -> int:
    """In thousandths; a smaller one has a heavier tail."""
    read_number(node)
    milli = Fraction(read_text(node)) * 1000
    if milli.denominator != 1 or not 100 <= milli <= 100_000:
        raise FileError(node.place, "alpha is a number from 0.1 to 100 with at most three decimals")
    return milli.numerator

"""Quantities as people write them, to integers in small units and back. Exact: what is not a whole number of the small
unit is refused, never rounded.

`parse_*` takes text and raises `ConfigError` with one sentence that names the accepted forms. `format_*` gives text
that parses back to the same integer. `about_*` rounds to three digits, for people only.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from federation.errors import ConfigError

VALUE_MAX = 2**62  # Sums of two still fit int64 in the kernels.

BYTES_PER: dict[str, int] = {
    "B": 1,
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50,
}  # fmt: skip
US_PER: dict[str, int] = {
    "us": 1, "µs": 1, "ms": 10**3, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6,
}  # fmt: skip
BPS_PER: dict[str, int] = {
    "bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9, "Tbit": 10**12,
    "kB/s": 8 * 10**3, "MB/s": 8 * 10**6, "GB/s": 8 * 10**9, "MiB/s": 8 * 2**20, "GiB/s": 8 * 2**30,
}  # fmt: skip
PERIOD_US_PER: dict[str, int] = {key: US_PER[key] for key in ("s", "m", "h", "d")}

BYTES_FORMS = "a size such as 256MiB, 4MB or 512B"
DURATION_FORMS = "a duration such as 50ms, 2s, 1h30m or 3d"
BANDWIDTH_FORMS = "a bandwidth such as 100Mbit, 2.5Gbit or 12MB/s"
FREQUENCY_FORMS = "a frequency such as 4/s, 0.5/s or 6/h"
PERCENT_FORMS = "a percentage such as 30% or 0.2%"
GPU_FORMS = "a number of GPUs such as 2 or 0.5 (at most three decimals)"
CPU_FORMS = "a number of cores such as 2 or 0.5 (at most three decimals)"
PRICE_FORMS = "a price in dollars such as 3.2/h or 0.05/h"
EGRESS_FORMS = "a price in dollars such as 0.09/GB"
COUNT_FORMS = "a whole number such as 4"

# The same grammars as regular expressions, for JSON Schema.
NUMBER_PATTERN = r"[0-9]+(\.[0-9]+)?"


def _pattern(units: Mapping[str, int]) -> str:
    return rf"^{NUMBER_PATTERN} ?({'|'.join(sorted(units, key=lambda unit: (-len(unit), unit)))})"


BYTES_PATTERN = _pattern(BYTES_PER) + "$"
DURATION_PATTERN = rf"^(0|({NUMBER_PATTERN} ?(us|µs|ms|s|m|h|d))+)$"
BANDWIDTH_PATTERN = rf"^{NUMBER_PATTERN} ?([kMGT]?bit(/s)?|[kMG]B/s|[MG]iB/s)$"
FREQUENCY_PATTERN = rf"^{NUMBER_PATTERN} ?/ ?[smhd]$"
PERCENT_PATTERN = rf"^{NUMBER_PATTERN} ?%$"
CPU_PATTERN = rf"^{NUMBER_PATTERN}$"
PRICE_PATTERN = rf"^\$?{NUMBER_PATTERN} ?/ ?h$"
EGRESS_PATTERN = rf"^\$?{NUMBER_PATTERN} ?/ ?GB$"

_QUANTITY = re.compile(rf"({NUMBER_PATTERN})\s*([^\s0-9.].*)?", re.DOTALL)
_DURATION_PART = re.compile(rf"({NUMBER_PATTERN})\s*([a-zµ]+)\s*")
_DIGITS_MAX = 40  # Beyond any value in range; keeps exact arithmetic cheap on hostile input.


class Frequency(NamedTuple):
    """`n_events` every `per_us` microseconds, in lowest terms: 6/h is (1, 600_000_000)."""

    n_events: int
    per_us: int


def parse_bytes(text: str) -> int:
    """`256MiB`, `4MB`, `1.5GiB`, `512B` → bytes."""
    return _scaled(text, BYTES_PER, BYTES_FORMS, "bytes")


def parse_duration_us(text: str) -> int:
    """`50ms`, `2s`, `1.5h`, `1h30m`, `3d`, `0` → microseconds."""
    stripped = text.strip()
    if stripped == "0":
        return 0
    total, position, smallest = 0, 0, US_PER["d"] + 1
    while position < len(stripped):
        part = _DURATION_PART.match(stripped, position)
        scale = US_PER.get(part[3]) if part else None
        if part is None or scale is None:
            raise _refused(text, US_PER, DURATION_FORMS)
        if scale >= smallest:  # From large to small units, each once.
            raise ConfigError(f"{_shown(text)} has its parts out of order: write {DURATION_FORMS}")
        total += _whole(text, _number(part[1], text, DURATION_FORMS) * scale, "microseconds", DURATION_FORMS)
        position, smallest = part.end(), scale
    if position == 0:
        raise _refused(text, US_PER, DURATION_FORMS)
    return _bounded(text, total)


def parse_bandwidth_bps(text: str) -> int:
    """`100Mbit`, `100Mbit/s`, `12MB/s` → bits per second."""
    stripped = text.strip()
    return _scaled(stripped.removesuffix("/s") if stripped.endswith("bit/s") else stripped,
                   BPS_PER, BANDWIDTH_FORMS, "bits per second", shown=text)  # fmt: skip


def parse_frequency(text: str) -> Frequency:
    """`4/s`, `0.5/s`, `6/h` → events per period, exactly."""
    count, slash, unit = text.strip().partition("/")
    per_us = PERIOD_US_PER.get(unit.strip())
    if not slash or per_us is None:
        raise ConfigError(f"{_shown(text)} is not a frequency: write {FREQUENCY_FORMS}")
    per_second = _number(count.strip(), text, FREQUENCY_FORMS) / per_us
    return Frequency(_bounded(text, per_second.numerator), _bounded(text, per_second.denominator))


def parse_percent_ppm(text: str) -> int:
    """`30%`, `0.2%` → parts per million."""
    stripped = text.strip()
    if not stripped.endswith("%"):
        raise ConfigError(f"{_shown(text)} is not a percentage: write {PERCENT_FORMS}")
    value = _number(stripped[:-1].strip(), text, PERCENT_FORMS) * 10_000
    return _bounded(text, _whole(text, value, "parts per million", PERCENT_FORMS))


def parse_cpu_milli(text: str) -> int:
    """`2`, `0.5` cores → thousandths of a core."""
    return _bounded(text, _whole(text, _number(text.strip(), text, CPU_FORMS) * 1000, "thousandths", CPU_FORMS))


def parse_gpu_milli(text: str) -> int:
    """`2`, `0.5` GPUs → thousandths of a GPU."""
    return _bounded(text, _whole(text, _number(text.strip(), text, GPU_FORMS) * 1000, "thousandths", GPU_FORMS))


def format_gpus(milli: int) -> str:
    """`2`, `0.5`."""
    return f"{milli / 1000:g}"


def parse_price_microusd_per_hour(text: str) -> int:
    """`3.2/h`, `$3.2/h` → micro-dollars an hour."""
    return _priced(text, "h", PRICE_FORMS)


def parse_price_microusd_per_gb(text: str) -> int:
    """`0.09/GB`, `$0.09/GB` → micro-dollars a gigabyte (10⁹ bytes)."""
    return _priced(text, "GB", EGRESS_FORMS)


def parse_count(text: str) -> int:
    """`4` → 4."""
    value = _number(text.strip(), text, COUNT_FORMS)
    if value.denominator != 1:
        raise ConfigError(f"{_shown(text)} is not a whole number: write {COUNT_FORMS}")
    return _bounded(text, value.numerator)


# --- back to text ----------------------------------------------------------------------------------------------------


def format_bytes(n_bytes: int) -> str:
    return _exact(n_bytes, BYTES_PER, ("PiB", "TiB", "GiB", "MiB", "KiB", "PB", "TB", "GB", "MB", "kB", "B"))


def format_duration(n_us: int) -> str:
    return _exact(n_us, US_PER, ("d", "h", "m", "s", "ms", "us"))


def format_bandwidth(bps: int) -> str:
    return _exact(bps, BPS_PER, ("Tbit", "Gbit", "Mbit", "kbit", "bit"))


def format_frequency(frequency: Frequency) -> str:
    """The largest period in which the count is a finite decimal. Raises `ValueError` when there is none."""
    for unit in ("s", "m", "h", "d"):
        text = _decimal(Fraction(frequency.n_events * PERIOD_US_PER[unit], frequency.per_us))
        if text is not None:
            return f"{text}/{unit}"
    raise ValueError(f"{frequency} is no finite decimal in any period")


def format_percent(ppm: int) -> str:
    return f"{_decimal(Fraction(ppm, 10_000))}%"


def format_cpu(milli: int) -> str:
    return f"{_decimal(Fraction(milli, 1000))}"


def format_price(microusd_per_hour: int) -> str:
    return f"{_decimal(Fraction(microusd_per_hour, 10**6))}/h"


def format_egress(microusd_per_gb: int) -> str:
    return f"{_decimal(Fraction(microusd_per_gb, 10**6))}/GB"


# --- for people ------------------------------------------------------------------------------------------------------


def about_bytes(n_bytes: int) -> str:
    """`4.2 MiB`: three digits."""
    return _about(n_bytes, BYTES_PER, ("PiB", "TiB", "GiB", "MiB", "KiB", "B"))


def about_bandwidth(bps: int) -> str:
    """`9.1 Mbit/s`."""
    return _about(bps, BPS_PER, ("Tbit", "Gbit", "Mbit", "kbit", "bit")) + "/s"


def about_duration(n_us: int) -> str:
    """`18 ms`, `2.1 s`, `5 m 20 s`: the two leading units from a minute on."""
    if abs(n_us) < US_PER["m"]:
        return _about(n_us, US_PER, ("s", "ms", "us"))
    sign, left = ("-" if n_us < 0 else ""), abs(n_us)
    units = ("d", "h", "m", "s")
    lead = next(unit for unit in units if left >= US_PER[unit])
    count, left = divmod(left, US_PER[lead])
    following = units[units.index(lead) + 1]
    rest = left // US_PER[following]
    return f"{sign}{count} {lead} {rest} {following}" if rest else f"{sign}{count} {lead}"


# --- helpers ---------------------------------------------------------------------------------------------------------


def _priced(text: str, per: str, forms: str) -> int:
    amount, slash, unit = text.strip().removeprefix("$").partition("/")
    if not slash or unit.strip() != per:
        raise ConfigError(f"{_shown(text)} is not a price: write {forms}")
    value = _number(amount.strip(), text, forms) * 10**6
    return _bounded(text, _whole(text, value, "micro-dollars", forms))


def _scaled(text: str, units: Mapping[str, int], forms: str, small: str, *, shown: str | None = None) -> int:
    shown = text if shown is None else shown
    match = _QUANTITY.fullmatch(text.strip())
    scale = units.get((match[3] or "").strip()) if match else None
    if match is None or scale is None:
        raise _refused(shown, units, forms)
    return _bounded(shown, _whole(shown, _number(match[1], shown, forms) * scale, small, forms))


def _refused(text: str, units: Mapping[str, int], forms: str) -> ConfigError:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        if text.strip().startswith("-"):
            return ConfigError(f"{_shown(text)} is negative: write {forms}")
        return ConfigError(f"{_shown(text)} is not {forms.split(' such as ')[0]}: write {forms}")
    unit = (match[3] or "").strip()
    if not unit:
        return ConfigError(f"{_shown(text)} has no unit: write {forms}")
    alike = [known for known in units if known.lower() == unit.lower() or known.lower() == f"{unit.lower()}b"]
    alike += _ALIASES.get(unit.lower(), [])
    hints = [f"{match[1]}{known}" for known in alike if known in units]
    hint = f" (did you mean {' or '.join(dict.fromkeys(hints))}?)" if hints else ""
    return ConfigError(f"{_shown(text)} has an unknown unit{hint}: write {forms}")


# What people write out of habit, by lower case; only those known to the quantity at hand are suggested.
_ALIASES: dict[str, list[str]] = {
    "k": ["KiB", "kB"], "m": ["MiB", "MB"], "g": ["GiB", "GB"], "t": ["TiB", "TB"],
    "ki": ["KiB"], "mi": ["MiB"], "gi": ["GiB"], "ti": ["TiB"],
    "kbps": ["kbit"], "mbps": ["Mbit"], "gbps": ["Gbit"], "bps": ["bit"], "mb": ["Mbit"], "gb": ["Gbit"],
    "mbit/sec": ["Mbit"], "sec": ["s"], "secs": ["s"], "second": ["s"], "seconds": ["s"], "min": ["m"], "mins": ["m"],
    "minute": ["m"], "minutes": ["m"], "hour": ["h"], "hours": ["h"], "hr": ["h"], "day": ["d"], "days": ["d"],
    "msec": ["ms"], "usec": ["us"],
}  # fmt: skip


def _number(digits: str, text: str, forms: str) -> Fraction:
    if len(digits) > _DIGITS_MAX:
        raise ConfigError(f"{_shown(text)} is too large: the limit is {VALUE_MAX} in the smallest unit")
    if not re.fullmatch(NUMBER_PATTERN, digits, re.ASCII):
        what = "is negative" if digits.startswith("-") else f"is not {forms.split(' such as ')[0]}"
        raise ConfigError(f"{_shown(text)} {what}: write {forms}")
    return Fraction(digits)


def _whole(text: str, value: Fraction, small: str, forms: str) -> int:
    if value.denominator != 1:
        raise ConfigError(f"{_shown(text)} is not a whole number of {small}: write {forms}")
    return value.numerator


def _bounded(text: str, value: int) -> int:
    if value > VALUE_MAX:
        raise ConfigError(f"{_shown(text)} is too large: the limit is {VALUE_MAX} in the smallest unit")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _exact(value: int, units: Mapping[str, int], order: tuple[str, ...]) -> str:
    unit = next((unit for unit in order if value and value % units[unit] == 0), order[-1])
    return f"{value // units[unit]}{unit}"


def _decimal(value: Fraction) -> str | None:
    """The finite decimal notation of `value`, or None if it has none."""
    denominator, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while denominator % prime == 0:
            denominator //= prime
            power += 1
        places = max(places, power)
    if denominator != 1:
        return None
    digits = f"{value.numerator * 10**places // value.denominator:0{places + 1}d}"
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


def _about(value: int, units: Mapping[str, int], order: tuple[str, ...]) -> str:
    unit = next((unit for unit in order if abs(value) >= units[unit]), order[-1])
    scaled = value / units[unit]
    digits = 0 if abs(scaled) >= 100 or value % units[unit] == 0 else 1 if abs(scaled) >= 10 else 2
    text = f"{scaled:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"

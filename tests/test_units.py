"""Quantities: every integer survives the round trip, nothing is rounded, and refusals say what to write instead."""

import contextlib
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import units
from federation.errors import ConfigError
from federation.units import Frequency

VALUES = st.one_of(
    st.integers(0, units.VALUE_MAX),
    st.integers(0, 2000).flatmap(lambda n: st.sampled_from([n, n * 2**20, n * 2**30, n * 10**3, n * 10**6, n * 3600])),
)


@given(VALUES)
@pytest.mark.parametrize(
    ("parse", "write", "pattern"),
    [
        (units.parse_bytes, units.format_bytes, units.BYTES_PATTERN),
        (units.parse_duration_us, units.format_duration, units.DURATION_PATTERN),
        (units.parse_bandwidth_bps, units.format_bandwidth, units.BANDWIDTH_PATTERN),
        (units.parse_percent_ppm, units.format_percent, units.PERCENT_PATTERN),
        (units.parse_cpu_milli, units.format_cpu, units.CPU_PATTERN),
        (units.parse_price_microusd_per_hour, units.format_price, units.PRICE_PATTERN),
        (units.parse_price_microusd_per_gb, units.format_egress, units.EGRESS_PATTERN),
        (units.parse_count, str, "^[0-9]+$"),
    ],
)
def test_what_is_written_parses_back(
    parse: Callable[[str], int], write: Callable[[int], str], pattern: str, value: int
) -> None:
    text = write(value)
    assert parse(text) == value
    assert re.search(pattern, text), "the JSON Schema accepts what we write"


@given(st.integers(0, 10**9), st.sampled_from(["s", "m", "h", "d"]))
def test_frequencies_survive_the_round_trip(count: int, unit: str) -> None:
    frequency = units.parse_frequency(f"{count}/{unit}")
    assert units.parse_frequency(units.format_frequency(frequency)) == frequency


@given(st.text(max_size=30))
@pytest.mark.parametrize(
    "parse",
    [
        units.parse_bytes,
        units.parse_duration_us,
        units.parse_bandwidth_bps,
        units.parse_frequency,
        units.parse_percent_ppm,
        units.parse_cpu_milli,
        units.parse_price_microusd_per_hour,
        units.parse_price_microusd_per_gb,
        units.parse_count,
    ],
)
def test_any_text_is_a_value_or_a_config_error(parse: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_bytes, "256MiB", 256 * 2**20),
        (units.parse_bytes, "4MB", 4_000_000),
        (units.parse_bytes, "1.5GiB", 3 * 2**29),
        (units.parse_bytes, "0B", 0),
        (units.parse_duration_us, "50ms", 50_000),
        (units.parse_duration_us, "1h30m", 5_400_000_000),
        (units.parse_duration_us, "1.5h", 5_400_000_000),
        (units.parse_duration_us, "2m 5s", 125_000_000),
        (units.parse_duration_us, "0", 0),
        (units.parse_bandwidth_bps, "100Mbit", 100_000_000),
        (units.parse_bandwidth_bps, "100 Mbit/s", 100_000_000),
        (units.parse_bandwidth_bps, "12MB/s", 96_000_000),
        (units.parse_frequency, "4/s", Frequency(1, 250_000)),
        (units.parse_frequency, "6/h", Frequency(1, 600_000_000)),
        (units.parse_percent_ppm, "0.2%", 2_000),
        (units.parse_percent_ppm, "30%", 300_000),
        (units.parse_cpu_milli, "0.5", 500),
        (units.parse_cpu_milli, "64", 64_000),
        (units.parse_price_microusd_per_hour, "3.2/h", 3_200_000),
        (units.parse_price_microusd_per_hour, "$0.05/h", 50_000),
    ],
)
def test_accepted_forms(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (units.parse_bytes, "256", "'256' has no unit: write a size such as 256MiB, 4MB or 512B"),
        (
            units.parse_bytes,
            "256M",
            "'256M' has an unknown unit (did you mean 256MB or 256MiB?): write a size such as 256MiB, 4MB or 512B",
        ),
        (
            units.parse_bytes,
            "4mb",
            "'4mb' has an unknown unit (did you mean 4MB?): write a size such as 256MiB, 4MB or 512B",
        ),
        (
            units.parse_bytes,
            "0.3B",
            "'0.3B' is not a whole number of bytes: write a size such as 256MiB, 4MB or 512B",
        ),
        (units.parse_bytes, "-1MB", "'-1MB' is negative: write a size such as 256MiB, 4MB or 512B"),
        (units.parse_bytes, "lots", "'lots' is not a size: write a size such as 256MiB, 4MB or 512B"),
        (
            units.parse_bytes,
            "5000PiB",
            "'5000PiB' is too large: the limit is 4611686018427387904 in the smallest unit",
        ),
        (units.parse_duration_us, "10", "'10' has no unit: write a duration such as 50ms, 2s, 1h30m or 3d"),
        (
            units.parse_duration_us,
            "10 min",
            "'10 min' has an unknown unit (did you mean 10m?): write a duration such as 50ms, 2s, 1h30m or 3d",
        ),
        (
            units.parse_duration_us,
            "30m1h",
            "'30m1h' has its parts out of order: write a duration such as 50ms, 2s, 1h30m or 3d",
        ),
        (
            units.parse_bandwidth_bps,
            "100Mbps",
            "'100Mbps' has an unknown unit (did you mean 100Mbit?): "
            "write a bandwidth such as 100Mbit, 2.5Gbit or 12MB/s",
        ),
        (units.parse_frequency, "4", "'4' is not a frequency: write a frequency such as 4/s, 0.5/s or 6/h"),
        (units.parse_percent_ppm, "0.3", "'0.3' is not a percentage: write a percentage such as 30% or 0.2%"),
        (
            units.parse_cpu_milli,
            "0.0005",
            "'0.0005' is not a whole number of thousandths: "
            "write a number of cores such as 2 or 0.5 (at most three decimals)",
        ),
        (
            units.parse_price_microusd_per_hour,
            "3.2",
            "'3.2' is not a price: write a price in dollars such as 3.2/h or 0.05/h",
        ),
        (
            units.parse_price_microusd_per_gb,
            "0.09/GiB",
            "'0.09/GiB' is not a price: write a price in dollars such as 0.09/GB",
        ),
        (units.parse_count, "1.5", "'1.5' is not a whole number: write a whole number such as 4"),
    ],
)
def test_refusals_say_what_to_write(parse: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (units.about_bytes, 4_400_000, "4.2 MiB"),
        (units.about_bytes, 512, "512 B"),
        (units.about_bytes, 0, "0 B"),
        (units.about_bandwidth, 9_100_000, "9.1 Mbit/s"),
        (units.about_bandwidth, 12_000_000, "12 Mbit/s"),
        (units.about_duration, 330_000, "330 ms"),
        (units.about_duration, 2_100_000, "2.1 s"),
        (units.about_duration, 320_000_000, "5 m 20 s"),
        (units.about_duration, 7_200_000_000, "2 h"),
        (units.about_duration, -2_100_000, "-2.1 s"),
    ],
)
def test_numbers_for_people(write: Callable[[int], str], value: int, text: str) -> None:
    assert write(value) == text

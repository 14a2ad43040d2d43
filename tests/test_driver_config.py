"""The master's settings and clock."""

from pathlib import Path

import pytest

from federation.clock import Clock
from federation.config import LiveConfig, read_live_config
from federation.errors import ConfigError


def test_a_file_is_read_and_options_go_on_top(tmp_path: Path) -> None:
    path = tmp_path / "master.toml"
    path.write_text(
        'folder = "/srv/of"\nbroker = "mqtt://b:1"\npolicy = "fifo"\n'
        "[master]\nsuspect_after_us = 20_000_000\n[[master.roles]]\npath = 'vision'\nweight = 3\n"
        "[http]\nport = 8080\n"
    )
    config = read_live_config(path, {"http.port": 9090, "name": "second"})
    assert (config.folder, config.broker, config.policy, config.name) == ("/srv/of", "mqtt://b:1", "fifo", "second")
    assert config.master.suspect_after_us == 20_000_000 and config.master.roles[0].weight == 3
    assert config.http.port == 9090
    assert read_live_config(None, {}) == LiveConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("foldr = 'x'", "there is no setting 'foldr'; did you mean 'folder'?"),
        ("[master]\nsuspekt_after_us = 1", "'master.suspekt_after_us'; did you mean 'master.suspect_after_us'?"),
        ("[http]\nzzz = 1", "'http.zzz'; known are host, port"),
        ("[http]\nport = 'x'", "Expected `int`, got `str` - at `$.http.port`"),
        ("inbox_max = 0", "`int` >= 1 - at `$.inbox_max`"),
        ("name = 'Not A Name'", "$.name"),
        ("log_level = 'loud'", "$.log_level"),
        ("http = 3", "Expected `object`, got `int` - at `$.http`"),
        ("folder = ", "is not TOML"),
        ("folder = '\udcff'", "is not TOML"),
        ("[http]\nhost = '0.0.0.0'", "needs a token"),
        ("[master]\nsuspect_after_us = 1", "suspect_after_us must exceed ping_every_us"),
        ("solve_limit_us = 60_000_000", "solve_limit_us must be below"),
        ("[[master.roles]]\npath = 'a'\nwait = 3", "unknown field `wait`"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "master.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as refusal:
        read_live_config(path, {})
    assert said in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        read_live_config(tmp_path / "none.toml", {})


def test_the_clock_goes_on_from_the_journal_when_the_wall_clock_is_behind() -> None:
    monotonic = [1_000_000_000]
    clock = Clock(5_000_000, wall_ns=lambda: 3_000_000_000, monotonic_ns=lambda: monotonic[0])
    assert (clock.now_us(), clock.behind_us) == (5_000_000, 2_000_000)
    monotonic[0] += 1_500_000
    assert clock.now_us() == 5_001_500


def test_the_clock_is_the_wall_clock_otherwise() -> None:
    monotonic = [7]
    clock = Clock(1, wall_ns=lambda: 3_000_000_999, monotonic_ns=lambda: monotonic[0])
    assert (clock.now_us(), clock.behind_us) == (3_000_000, 0)
    monotonic[0] += 10**9
    assert clock.now_us() == 4_000_000
    real = Clock()
    assert real.now_us() <= real.now_us()


def test_the_documented_settings_are_settings(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "master.md").read_text()
    path = tmp_path / "master.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0])
    assert read_live_config(path, {}).master.roles[0].path == "vision"

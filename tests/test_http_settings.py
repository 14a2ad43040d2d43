"""Settings that would expose the master are refused, with the mend, before anything is bound."""

from pathlib import Path

import pytest

from federation.errors import ConfigError
from federation.http.settings import HttpConfig, check, is_loopback, tls_context, with_tokens

TOKEN = "t0ken-of-enough-length"
DATA_TOKEN = "data-t0ken-of-enough-length"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "master.example", "127.0.0.1.example", ""])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "config",
    [
        HttpConfig(),
        HttpConfig(token=TOKEN, data_token=DATA_TOKEN),
        HttpConfig(host="0.0.0.0", token=TOKEN, plaintext_ok=True),
        HttpConfig(host="0.0.0.0", token=TOKEN, tls_cert="c.pem", tls_key="k.pem"),
        HttpConfig(public_url="https://master.example:8080/offerflow"),
    ],
)
def test_sound_settings_pass(config: HttpConfig) -> None:
    check(config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (HttpConfig(host="0.0.0.0"), "needs a token"),
        (HttpConfig(host="master.example", plaintext_ok=True), "needs a token"),
        (HttpConfig(host="192.168.1.4", token=TOKEN), "needs tls_cert and tls_key, or plaintext_ok"),
        (HttpConfig(host=""), "empty"),
        (HttpConfig(token="short"), "shorter than 16"),
        (HttpConfig(token="with spaces in the middle"), "letters, digits"),
        (HttpConfig(token="schlüssel-mit-umlaut"), "letters, digits"),
        (HttpConfig(data_token=DATA_TOKEN), "without token protects nothing"),
        (HttpConfig(token=TOKEN, data_token=TOKEN), "equals token"),
        (HttpConfig(tls_cert="c.pem"), "belong together"),
        (HttpConfig(public_url="master.example"), "must look like"),
    ],
)
def test_what_would_expose_the_master_is_refused(config: HttpConfig, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(config)


def test_tokens_are_read_from_files(tmp_path: Path) -> None:
    file, empty = tmp_path / "token", tmp_path / "empty"
    file.write_text(f"{TOKEN}\n")
    empty.write_text("\n")
    config = HttpConfig(host="0.0.0.0", plaintext_ok=True, token_file=str(file), data_token=DATA_TOKEN)
    check(config)
    assert with_tokens(config) == HttpConfig(host="0.0.0.0", plaintext_ok=True, token=TOKEN, data_token=DATA_TOKEN)
    for wrong, says in (
        (HttpConfig(token_file=str(tmp_path / "none")), "cannot be read"),
        (HttpConfig(token_file=str(empty)), "is empty"),
        (HttpConfig(token_file=str(file), token=TOKEN), "both set"),
        (HttpConfig(token_file=str(file), data_token_file=str(file)), "equals token"),
        (HttpConfig(data_token_file=str(file)), "without token"),
    ):
        with pytest.raises(ConfigError, match=says):
            with_tokens(wrong)


def test_tls_files_that_do_not_serve_are_named(tmp_path: Path) -> None:
    assert tls_context(HttpConfig()) is None
    missing = HttpConfig(tls_cert=str(tmp_path / "c.pem"), tls_key=str(tmp_path / "k.pem"))
    with pytest.raises(ConfigError, match=r"c\.pem .* does not exist"):
        tls_context(missing)
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("not a certificate")
    with pytest.raises(ConfigError, match=r"c\.pem with tls_key"):
        tls_context(missing)

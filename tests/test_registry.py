"""Policies by name."""

import pytest

from policies import registry


def test_builtins_register_like_anyone() -> None:
    assert {"fifo", "flow"} <= set(registry.names())
    assert registry.load("fifo") is not registry.load("fifo")


def test_an_unknown_name_lists_the_known_and_guesses() -> None:
    with pytest.raises(ValueError, match=r"no policy is called 'flwo'; did you mean 'flow'\?.*fifo, flow"):
        registry.load("flwo")

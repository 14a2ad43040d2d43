"""Regular expressions of offer constraints: what Python's say of the same text, and nothing that takes long."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.market.regex import PATTERN_MAX, Regex, RegexError

ATOMS = st.sampled_from(
    ["a", "b", "-", ".", "[ab]", "[^a]", "[a-c-]", r"\d", r"\W", r"\.", r"\b", "^", "$", r"\x61", "(?i:A)", "[^\\s1]"]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=3).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})")
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,}", "*?"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        )
    ),
    max_leaves=6,
)


@given(PATTERNS, st.lists(st.text("ab-1A.\n", max_size=8), max_size=4))
def test_a_match_is_a_match_of_the_whole_text_as_python_has_it(pattern: str, texts: list[str]) -> None:
    ours = Regex(pattern)
    theirs = re.compile(pattern.replace("$", r"\Z"), re.ASCII)
    for text in texts:
        assert ours.matches(text) == (theirs.fullmatch(text) is not None), (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text", "is_match"),
    [
        ("(?i)rack-[0-9]+", "RACK-12", True), ("(?i)[^k]", "K", False), (r"\Qa.b\E+", "a.bb", True),
        ("[[:alpha:]_]+", "of_x", True), ("[[:^digit:]]", "1", False), ("[]a]+", "]a", True), ("a{,2}", "a{,2}", True),
        ("(?P<zone>a|b)(?<n>[0-9])", "b7", True), ("(?s).", "\n", True), (".", "\n", False), ("x|", "", True),
        (r"\x{1F600}\07", "\U0001f600\x07", True), ("(?m)a$.*", "a", True), (r"(?ms)a$.*", "a\nb", True),
        ("(?-i:a)(?s-m)", "a", True), ("ß", "ß", True), (r"\w", "é", False),
    ],
)  # fmt: skip
def test_what_python_writes_otherwise(pattern: str, text: str, is_match: bool) -> None:
    assert Regex(pattern).matches(text) == is_match


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "not closed"), ("a)", "closes nothing"), ("*a", "repeats nothing"), ("a**", "is repeated"),
        ("a{2}{3}", "is repeated"), ("(?=a)", "not taken"), ("(?<=a)b", "not taken"), (r"(a)\1", "not taken"),
        (r"\pL", "not taken"), ("[b-a]", "upside down"), ("[a", "ends too early"), ("a{1001}", "no count"),
        ("a{3,2}", "no count"), ("[[:foo:]]", "no class"), ("\\", "ends too early"), (r"\x{110000}", "no character"),
        (r"\xg1", "no character"), ("(?P<>a)", "name is missing"), ("(?P<a", "name is missing"), ("(?q)", "not taken"),
        ("((a{100}){100}){100}", "too large"), ("(" * 60 + ")" * 60, "too deeply"),
        ("((((){1000}){1000}){1000})", "too large"), ("x" * (PATTERN_MAX + 1), "exceeds"),
    ],
)  # fmt: skip
def test_what_is_no_pattern_is_refused_with_its_place(pattern: str, says: str) -> None:
    with pytest.raises(RegexError, match=says):
        Regex(pattern)


@given(st.text(max_size=30) | st.text("()[]{}|*+?^$\\abQE1,-:P<>", max_size=20))
def test_no_pattern_does_worse_than_be_refused(pattern: str) -> None:
    try:
        regex = Regex(pattern)
    except RegexError:
        return
    regex.matches("ab1")


@pytest.mark.parametrize("pattern", ["(a|aa)+b", "(a*)*b", "(.*a){12}b", "(a|a)*(a|a)*b", "(a?){60}a{60}b"])
def test_patterns_that_hold_up_others_end(pattern: str) -> None:
    """Each of these takes a backtracking engine longer than anyone waits; here no text costs more than its length times
    the program."""
    assert not Regex(pattern).matches("a" * 250)


def test_states_are_bounded() -> None:
    """One of which every text of x and y needs states of its own."""
    regex = Regex("(x|y)*x(x|y){12}")
    for number in range(120):
        text = f"{number * 7919:040b}".replace("0", "x").replace("1", "y")
        assert regex.matches(text) == (text[-13] == "x")
    assert len(regex._states) <= 1_000

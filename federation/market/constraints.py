"""Offer constraints: a small strict language of predicates on an agent, its GPUs and its measured links.

    constraint := all {"or" all};  all := predicate {"and" predicate}
    predicate := ["no"] field [selector] (operator value | "in" "(" value {"," value} ")" | nothing)
    selector  := "{" key "=" value {"," key "=" value} "}"
    operator  := "==" | "!=" | "<" | "<=" | ">" | ">=" | "=~" | "matches"

Fields of text: `agent.id`, `agent.site`, `agent.region`, `agent.tier`, `agent.hardware`, `label{key=…}`, and with
`gpu.` in front `model`, `memory_kind`, `isolation`. Fields of numbers: `agent.speed_milli`, `gpu.memory_bytes`,
`gpu.count`, and of links `link.rtt_us`, `link.jitter_us`, `link.loss_ppm`, `link.bandwidth_bps`, `link.age_us`,
`link.confidence_ppm`, with a selector `{to=site:x}` or `{from=site:x}` (the other end is the agent or its site).
Numbers may carry a unit: KiB MiB GiB TiB, kB MB GB TB, us ms s, bps kbps Mbps Gbps. `=~` is a glob, `matches` a regular
expression of the whole text: RE2's, because no pattern of a stranger takes that longer than linear in the text. A bare
`label{key=…}` asks only that the label is there; `no field` that the field has no value, `no` before a comparison that
nothing satisfies it. A quoted value holds anything, a quotation mark in it is written twice.

A predicate on GPUs holds when one of them satisfies it. What was never measured, or cannot be read, satisfies nothing.
"""

import re
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

import re2  # type: ignore[import-untyped]

from federation.agents_book import AgentEntry
from policies.model import Gpu, Link

TEXT_FIELDS: Final = frozenset(
    {"agent.id", "agent.site", "agent.region", "agent.tier", "agent.hardware", "label", "gpu.model",
     "gpu.memory_kind", "gpu.isolation"}
)  # fmt: skip
NUMBER_FIELDS: Final = frozenset(
    {"agent.speed_milli", "gpu.memory_bytes", "gpu.count", "link.rtt_us", "link.jitter_us", "link.loss_ppm",
     "link.bandwidth_bps", "link.age_us", "link.confidence_ppm"}
)  # fmt: skip
UNITS: Final = {
    "": ("*", 1), "KiB": ("bytes", 2**10), "MiB": ("bytes", 2**20), "GiB": ("bytes", 2**30), "TiB": ("bytes", 2**40),
    "kB": ("bytes", 10**3), "MB": ("bytes", 10**6), "GB": ("bytes", 10**9), "TB": ("bytes", 10**12),
    "us": ("us", 1), "ms": ("us", 10**3), "s": ("us", 10**6),
    "bps": ("bps", 1), "kbps": ("bps", 10**3), "Mbps": ("bps", 10**6), "Gbps": ("bps", 10**9),
}  # fmt: skip
TEXT_BYTES_MAX: Final = 16_384
PATTERN_MAX: Final = 1_000
PATTERN_MEMORY_MAX: Final = 256 * 2**10  # bytes: of a pattern's program and its states
Operator = Literal["==", "!=", "<", "<=", ">", ">=", "=~", "matches", "in", "exists"]
Tokens = list[tuple[str, str]]

_TOKEN = re.compile(
    r"""\s*(?:(?P<op>==|!=|<=|>=|=~|<|>)|(?P<mark>[{}(),=])|"(?P<quoted>(?:[^"]|"")*)"|(?P<word>[A-Za-z0-9_.:/*?+-]+))"""
)
_NUMBER = re.compile(r"(\d{1,15})(?:\.(\d{1,6}))?([A-Za-z]*)")


class ConstraintError(ValueError):
    """The text is no predicate; `str()` says what is wrong and where."""


class Predicate(NamedTuple):
    field: str
    operator: Operator
    texts: tuple[str, ...] = ()  # the value, or the values of `in`
    number: int = 0
    selector: tuple[tuple[str, str], ...] = ()
    is_denied: bool = False  # it stands after "no": it holds where nothing satisfies it


def quoted(value: str) -> str:
    """A value as texts hold it, whatever is in it."""
    return '"' + value.replace('"', '""') + '"'


def _tokens(text: str) -> Tokens:
    found: Tokens = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ConstraintError(f"{text[:80]!r}: {text[at : at + 1]!r} at {at + 1} has no place in a predicate")
        kind = match.lastgroup
        assert kind is not None
        found.append((kind, match[kind].replace('""', '"') if kind == "quoted" else match[kind]))
        at = match.end()
    return found


@lru_cache(maxsize=4096)
def parse(text: str) -> Predicate:
    """One predicate. Raises `ConstraintError`. Cost O(length); the answer is kept."""
    alternatives = parse_all(text)
    if len(alternatives) > 1 or len(alternatives[0]) > 1:
        raise ConstraintError(f"{text!r} holds several predicates; give each its own text")
    return alternatives[0][0]


@lru_cache(maxsize=4096)
def parse_all(text: str) -> tuple[tuple[Predicate, ...], ...]:
    """A constraint: of one of these, all must hold. Raises `ConstraintError`. Cost O(length); the answer is kept."""
    if len(text) > TEXT_BYTES_MAX:
        raise ConstraintError(f"a constraint of {len(text)} characters exceeds {TEXT_BYTES_MAX}")
    tokens: Tokens = []
    alternatives: list[list[Predicate]] = [[]]
    for token in (*_tokens(text), ("word", "and")):
        if token not in (("word", "and"), ("word", "or")):
            tokens.append(token)
            continue
        alternatives[-1].append(_predicate(text, tokens))
        tokens = []
        if token[1] == "or":
            alternatives.append([])
    return tuple(tuple(predicates) for predicates in alternatives)


def _predicate(text: str, tokens: Tokens) -> Predicate:
    text = text if len(text) <= 200 else f"{text[:200]}…"

    def expect(kind: str, value: str = "") -> str:
        if not tokens:
            raise ConstraintError(f"{text!r} ends where {value or kind} was expected")
        got_kind, got = tokens.pop(0)
        got_kind = "word" if got_kind == "quoted" else got_kind
        if got_kind != kind or (value and got != value):
            raise ConstraintError(f"{text!r}: {got!r} stands where {value or f'a {kind}'} was expected")
        return got

    is_denied = bool(tokens) and tokens[0] == ("word", "no")
    if is_denied:
        tokens.pop(0)
    field = expect("word")
    if field not in TEXT_FIELDS and field not in NUMBER_FIELDS:
        known = ", ".join(sorted(TEXT_FIELDS | NUMBER_FIELDS))
        raise ConstraintError(f"{text!r}: there is no field {field!r}; known are {known}")
    selector: list[tuple[str, str]] = []
    if tokens and tokens[0] == ("mark", "{"):
        tokens.pop(0)
        while True:
            key = expect("word")
            expect("mark", "=")
            selector.append((key, expect("word")))
            if tokens and tokens[0] == ("mark", ","):
                tokens.pop(0)
                continue
            expect("mark", "}")
            break
    _check_selector(text, field, tuple(key for key, _ in selector))
    if not tokens:
        if field != "label" and not is_denied:
            raise ConstraintError(f"{text!r} compares {field} with nothing")
        return Predicate(field, "exists", selector=tuple(selector), is_denied=is_denied)
    if tokens[0] == ("word", "in"):
        tokens.pop(0)
        expect("mark", "(")
        values = [expect("word")]
        while tokens and tokens[0] == ("mark", ","):
            tokens.pop(0)
            values.append(expect("word"))
        expect("mark", ")")
        operator: str = "in"
    elif tokens[0] == ("word", "matches"):
        operator = tokens.pop(0)[1]
        values = [expect("word")]
    else:
        operator = expect("op")
        values = [expect("word")]
    if tokens:
        raise ConstraintError(f"{text!r}: {tokens[0][1]!r} follows a whole predicate; give each its own text")
    if field in NUMBER_FIELDS:
        if operator in ("in", "=~", "matches"):
            raise ConstraintError(f"{text!r}: {field} is a number, it is compared with < <= > >= == !=")
        number = _number(text, field, values[0])
        return Predicate(field, operator, number=number, selector=tuple(selector), is_denied=is_denied)  # type: ignore[arg-type]
    if operator in ("<", "<=", ">", ">="):
        raise ConstraintError(f"{text!r}: {field} is text, it has no order")
    if operator == "matches":
        try:
            _compiled(values[0])
        except ValueError as error:
            raise ConstraintError(f"{text[:80]!r}: {error}") from None
    return Predicate(field, operator, texts=tuple(values), selector=tuple(selector), is_denied=is_denied)  # type: ignore[arg-type]


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    """Raises `ValueError` for what is no pattern, or too large a one; the answer is kept."""
    if len(pattern) > PATTERN_MAX:
        raise ValueError(f"a pattern of {len(pattern)} characters exceeds {PATTERN_MAX}")
    options = re2.Options()
    options.max_mem, options.log_errors = PATTERN_MEMORY_MAX, False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"{pattern[:80]!r} is no pattern: {error.args[0].decode(errors='replace')}") from None


def _check_selector(text: str, field: str, keys: tuple[str, ...]) -> None:
    if field.startswith("link."):
        if keys not in (("to",), ("from",)):
            raise ConstraintError(f"{text!r}: {field} needs one other end, as in {field}{{to=site:plant-a}}")
    elif field == "label":
        if keys != ("key",):
            raise ConstraintError(f"{text!r}: label needs its key, as in label{{key=zone}} == a")
    elif keys:
        raise ConstraintError(f"{text!r}: {field} takes no selector")


def _number(text: str, field: str, word: str) -> int:
    match = _NUMBER.fullmatch(word)
    if match is None or match[3] not in UNITS:
        raise ConstraintError(f"{text!r}: {word!r} is no number with one of the units {', '.join(UNITS).lstrip(', ')}")
    kind, scale = UNITS[match[3]]
    if kind != "*" and not field.endswith(f"_{kind}"):
        raise ConstraintError(f"{text!r}: {field} is not counted in {match[3]}")
    fraction = match[2] or ""
    value, rest = divmod(int(match[1] + fraction) * scale, int(10 ** len(fraction)))
    if rest:
        raise ConstraintError(f"{text!r}: {word!r} is not a whole number of the field's unit")
    return value


# --- judging ---------------------------------------------------------------------------------------------------------


def admits(constraints: tuple[str, ...], entry: AgentEntry, links: tuple[Link, ...]) -> bool:
    """Whether all constraints hold for an agent. `links` are those that end at it or its site."""
    return all(
        any(all(holds(predicate, entry, links) for predicate in predicates) for predicates in parse_all(text))
        for text in constraints
    )


def holds(predicate: Predicate, entry: AgentEntry, links: tuple[Link, ...]) -> bool:
    return _is_satisfied(predicate, entry, links) != predicate.is_denied


def _is_satisfied(predicate: Predicate, entry: AgentEntry, links: tuple[Link, ...]) -> bool:
    field, enrolled = predicate.field, entry.enrolled
    if field.startswith("link."):
        return _compare(predicate, _link_value(predicate, entry, links))
    if field == "gpu.count":
        return _compare(predicate, len(enrolled.total.gpus))
    if field.startswith("gpu."):
        return any(_gpu_holds(predicate, gpu) for gpu in enrolled.total.gpus)
    if field == "label":
        key = predicate.selector[0][1]
        values = [value for name, value in enrolled.labels if name == key]
        if predicate.operator == "exists":
            return bool(values)
        if predicate.operator == "!=":
            return all(_matches(predicate, value) for value in values)
        return any(_matches(predicate, value) for value in values)
    if field == "agent.speed_milli":
        return _compare(predicate, enrolled.speed_milli)
    value = {
        "agent.id": entry.agent_id,
        "agent.site": enrolled.site,
        "agent.region": enrolled.region,
        "agent.tier": str(enrolled.tier),
        "agent.hardware": enrolled.hardware,
    }[field]
    return _matches(predicate, value)


def _gpu_holds(predicate: Predicate, gpu: Gpu) -> bool:
    value = getattr(gpu, predicate.field.removeprefix("gpu."))
    if value is None:
        return False
    return _compare(predicate, value) if predicate.field in NUMBER_FIELDS else _matches(predicate, value)


def _link_value(predicate: Predicate, entry: AgentEntry, links: tuple[Link, ...]) -> int | None:
    """Of the agent's own link to that end, else of its site's."""
    name = predicate.field.removeprefix("link.")
    way, other = predicate.selector[0]
    for mine in (f"agent:{entry.agent_id}", f"site:{entry.site}"):
        if mine == other:
            return 0 if name in ("rtt_us", "jitter_us", "loss_ppm", "age_us") else 2**62
        ends = (mine, other) if way == "to" else (other, mine)
        for link in links:
            if (link.from_id, link.to_id) == ends:
                value: int | None = getattr(link, name)
                return value
    return None


def _compare(predicate: Predicate, value: int | None) -> bool:
    if value is None:
        return False
    number = predicate.number
    match predicate.operator:
        case "exists":
            return True
        case "==":
            return value == number
        case "!=":
            return value != number
        case "<":
            return value < number
        case "<=":
            return value <= number
        case ">":
            return value > number
        case ">=":
            return value >= number
        case _:
            raise AssertionError(f"{predicate.operator} of a number")


def _matches(predicate: Predicate, value: str) -> bool:
    match predicate.operator:
        case "==" | "in":
            return value in predicate.texts
        case "!=":
            return value not in predicate.texts
        case "=~":
            return fnmatchcase(value, predicate.texts[0])
        case "matches":
            return bool(value) and _compiled(predicate.texts[0]).fullmatch(value) is not None
        case "exists":
            return bool(value)
        case _:
            raise AssertionError(f"{predicate.operator} of a text")

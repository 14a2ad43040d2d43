r"""Regular expressions of strangers, matched in time linear in the text: no pattern can hold the master up.

The syntax is RE2's (github.com/google/re2, syntax.txt), as the offer constraints of Mesos have it: literals, `.`,
classes, alternatives, groups, repetition, `^ $ \A \z \b \B`, the flags `i m s U`. Not taken: classes of Unicode (`\p`),
`\C`, and what RE2 has not either, such as backreferences and looking around. A text matches as a whole.

A pattern becomes a program of at most `PROGRAM_MAX` steps (Thompson, CACM 11(6), 1968), whose sets of positions become
the states of an automaton as texts need them (Cox, swtch.com/~rsc/regexp/regexp1.html). Cost of a match: O(length)
where the states are known, else O(length · program); at most `STATES_MAX` states are kept.
"""

from functools import lru_cache
from typing import Final, Literal, NamedTuple

PATTERN_MAX: Final = 1_000
PROGRAM_MAX: Final = 256
STATES_MAX: Final = 1_000
_REPEATS_MAX: Final = 1_000  # as RE2
_DEPTH_MAX: Final = 50
_NODES_MAX: Final = 10_000  # of nothing repeated a thousand times a thousand times
_LAST: Final = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]
Kind = Literal["\\A", "\\z", "^", "$", "\\b", "\\B"]


class RegexError(ValueError):
    """The text is no pattern that is taken; `str()` says why."""


class Charset(NamedTuple):
    """Characters: within one of the ranges, or not. `folds`: in any case."""

    ranges: Ranges
    negated: bool = False
    folds: bool = False

    def holds(self, char: str) -> bool:
        forms = {char, char.lower(), char.upper()} if self.folds else {char}
        codes = [ord(form) for form in forms if len(form) == 1]
        return any(low <= code <= high for code in codes for low, high in self.ranges) != self.negated


class Cat(NamedTuple):
    parts: tuple["Node", ...]


class Alt(NamedTuple):
    parts: tuple["Node", ...]


class Repeat(NamedTuple):
    part: "Node"
    least: int
    most: int | None  # None: without end


class Assert(NamedTuple):
    kind: Kind


Node = Charset | Cat | Alt | Repeat | Assert

_DIGIT: Final[Ranges] = ((48, 57),)
_SPACE: Final[Ranges] = ((9, 10), (12, 13), (32, 32))
_WORD: Final[Ranges] = ((48, 57), (65, 90), (95, 95), (97, 122))
_PERL: Final[dict[str, Ranges]] = {"d": _DIGIT, "s": _SPACE, "w": _WORD}
_CONTROL: Final = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_POSIX: Final[dict[str, Ranges]] = {
    "alnum": ((48, 57), (65, 90), (97, 122)), "alpha": ((65, 90), (97, 122)), "ascii": ((0, 127),),
    "blank": ((9, 9), (32, 32)), "cntrl": ((0, 31), (127, 127)), "digit": _DIGIT, "graph": ((33, 126),),
    "lower": ((97, 122),), "print": ((32, 126),), "punct": ((33, 47), (58, 64), (91, 96), (123, 126)),
    "space": ((9, 13), (32, 32)), "upper": ((65, 90),), "word": _WORD, "xdigit": ((48, 57), (65, 70), (97, 102)),
}  # fmt: skip


def _outside(ranges: Ranges) -> Ranges:
    found: list[tuple[int, int]] = []
    low = 0
    for first, last in sorted(ranges):
        if low < first:
            found.append((low, first - 1))
        low = max(low, last + 1)
    return (*found, (low, _LAST)) if low <= _LAST else tuple(found)


# --- reading ---------------------------------------------------------------------------------------------------------


class _Reader:
    """A recursive descent over the pattern. Flags hold from where they stand to the end of their group."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._flags: frozenset[str] = frozenset()

    def read(self) -> Node:
        node = self._alternatives(0)
        if self._at < len(self._text):
            raise self._wrong("')' closes nothing")
        return node

    def _wrong(self, what: str) -> RegexError:
        return RegexError(f"{self._text[:80]!r}: {what} at {self._at + 1}")

    def _has(self, mark: str) -> bool:
        return self._text.startswith(mark, self._at)

    def _take(self, mark: str) -> bool:
        found = self._has(mark)
        self._at += len(mark) if found else 0
        return found

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise self._wrong("the pattern ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _alternatives(self, depth: int) -> Node:
        if depth > _DEPTH_MAX:
            raise self._wrong("groups are nested too deeply")
        outer, parts = self._flags, [self._sequence(depth)]
        while self._take("|"):
            parts.append(self._sequence(depth))
        self._flags = outer
        return parts[0] if len(parts) == 1 else Alt(tuple(parts))

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while self._at < len(self._text) and not self._has("|") and not self._has(")"):
            if self._take(r"\Q"):
                end = self._text.find(r"\E", self._at)
                quoted = self._text[self._at : end if end >= 0 else len(self._text)]
                parts += [self._literal(ord(char)) for char in quoted]
                self._at += len(quoted) + 2
                if quoted:
                    parts[-1] = self._repeated(parts[-1])
                continue
            atom = self._atom(depth)
            if atom is not None:
                parts.append(self._repeated(atom))
        return parts[0] if len(parts) == 1 else Cat(tuple(parts))

    def _repeated(self, atom: Node) -> Node:
        counts = self._counts()
        if counts is None:
            return atom
        self._take("?")  # The least or the most of it: a whole match is one or it is none.
        if self._counts() is not None:
            raise self._wrong("a repetition is repeated")
        return Repeat(atom, *counts)

    def _counts(self) -> tuple[int, int | None] | None:
        for mark, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(mark):
                return counts
        end = self._text.find("}", self._at)
        if not self._has("{") or end < 0:
            return None
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if not _is_number(low) or not (_is_number(high) or not high):
            return None  # A brace that counts nothing is a brace.
        least, most = int(low), int(high) if high else (None if comma else int(low))
        if least > _REPEATS_MAX or (most is not None and not least <= most <= _REPEATS_MAX):
            raise self._wrong(f"{{{low}{comma}{high}}} is no count up to {_REPEATS_MAX}")
        self._at = end + 1
        return least, most

    def _atom(self, depth: int) -> Node | None:
        char = self._next()
        match char:
            case "(":
                return self._group(depth)
            case "[":
                return self._class()
            case ".":
                return Charset(() if "s" in self._flags else ((10, 10),), negated=True)
            case "^":
                return Assert("^" if "m" in self._flags else "\\A")
            case "$":
                return Assert("$" if "m" in self._flags else "\\z")
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                raise self._wrong(f"{char!r} repeats nothing")
        return self._literal(ord(char))

    def _literal(self, code: int) -> Charset:
        return Charset(((code, code),), folds="i" in self._flags)

    def _group(self, depth: int) -> Node | None:
        outer = self._flags
        if self._take("?"):
            if self._take("P<") or (self._has("<") and not self._has("<=") and not self._has("<!") and self._take("<")):
                name = self._text[self._at : self._text.find(">", self._at)]
                if not name.isidentifier():
                    raise self._wrong("a group's name is missing")
                self._at += len(name) + 1
            elif not self._flagged():
                return None
        node = self._alternatives(depth + 1)
        self._flags = outer
        if not self._take(")"):
            raise self._wrong("a group is not closed")
        return node

    def _flagged(self) -> bool:
        """Flags after `(?`; whether a group follows them."""
        flags, on = set(self._flags), True
        while True:
            char = self._next()
            if char in "imsU":
                (flags.add if on else flags.discard)(char)
            elif char == "-" and on:
                on = False
            elif char in ":)":
                self._flags = frozenset(flags)
                return char == ":"
            else:
                raise self._wrong(f"'(?{char}' is not taken")

    def _escape(self) -> Node:
        char = self._next()
        if char.lower() in _PERL:
            return Charset(_PERL[char.lower()], negated=char.isupper())
        if char in "AzbB":
            kinds: dict[str, Kind] = {"A": "\\A", "z": "\\z", "b": "\\b", "B": "\\B"}
            return Assert(kinds[char])
        return self._literal(self._code(char))

    def _code(self, char: str) -> int:
        """The character that stands after a backslash."""
        if char in _CONTROL:
            return _CONTROL[char]
        if char == "x":
            digits = self._next()
            if digits == "{":
                end = self._text.find("}", self._at)
                digits, self._at = self._text[self._at : end], end + 1
            else:
                digits += self._next()
            if not 0 < len(digits) <= 6 or not set(digits) <= set("0123456789abcdefABCDEF") or int(digits, 16) > _LAST:
                raise self._wrong("no character has this number")
            return int(digits, 16)
        if char == "0":
            digits = ""
            while len(digits) < 2 and self._text[self._at : self._at + 1] in tuple("01234567"):
                digits += self._next()
            return int(digits or "0", 8)
        if char.isascii() and char.isalnum():
            raise self._wrong(f"'\\{char}' is not taken")
        return ord(char)

    def _class(self) -> Charset:
        negated = self._take("^")
        found: list[tuple[int, int]] = []
        is_first = True
        while is_first or not self._take("]"):
            is_first = False
            if self._has("[:"):
                end = self._text.find(":]", self._at)
                name = self._text[self._at + 2 : end] if end >= 0 else ""
                if name.removeprefix("^") not in _POSIX:
                    raise self._wrong(f"there is no class {name[:20]!r}")
                ranges = _POSIX[name.removeprefix("^")]
                found += _outside(ranges) if name.startswith("^") else ranges
                self._at = end + 2
                continue
            low = self._member(found)
            if low is None:
                continue
            high = low
            if self._has("-") and not self._has("-]"):
                self._at += 1
                last = self._member(found)
                if last is None or last < low:
                    raise self._wrong("a range is upside down")
                high = last
            found.append((low, high))
        return Charset(tuple(found), negated=negated, folds="i" in self._flags)

    def _member(self, found: list[tuple[int, int]]) -> int | None:
        """One character of a class; None where it was a class itself, which is noted."""
        char = self._next()
        if char != "\\":
            return ord(char)
        char = self._next()
        if char.lower() in _PERL:
            ranges = _PERL[char.lower()]
            found += _outside(ranges) if char.isupper() else ranges
            return None
        return self._code(char)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 8


# --- matching --------------------------------------------------------------------------------------------------------


class Split(NamedTuple):
    """Go on at both."""

    first: int
    second: int


class Match(NamedTuple):
    pass


Step = Charset | Assert | Split | Match


class _State:
    """A set of positions in the program, and the character before (as far as anything asks for it)."""

    __slots__ = ("before", "is_match", "next", "positions")

    def __init__(self, positions: frozenset[int], before: str) -> None:
        self.positions = positions
        self.before = before
        self.next: dict[str, _State] = {}
        self.is_match: bool | None = None


class Regex:
    def __init__(self, pattern: str) -> None:
        """Raises `RegexError`. Cost O(length + program)."""
        if len(pattern) > PATTERN_MAX:
            raise RegexError(f"a pattern of {len(pattern)} characters exceeds {PATTERN_MAX}")
        self._pattern = pattern
        self._program: list[Step] = []
        self._n_nodes = 0
        self._emit(_Reader(pattern).read())
        self._program.append(Match())
        self._asks = any(isinstance(step, Assert) for step in self._program)
        self._states: dict[tuple[frozenset[int], str], _State] = {}
        self._start = self._state(frozenset({0}), "")

    def matches(self, text: str) -> bool:
        """Whether the whole text does."""
        state = self._start
        for char in text:
            state = state.next.get(char) or self._step(state, char)
            if not state.positions:
                return False
        if state.is_match is None:
            state.is_match = any(isinstance(self._program[at], Match) for at in self._reached(state, ""))
        return state.is_match

    # --- the program -------------------------------------------------------------------------------------------------

    def _add(self, step: Step) -> int:
        self._program.append(step)
        if len(self._program) > PROGRAM_MAX:
            raise RegexError(f"{self._pattern[:80]!r} is too large: it takes more than {PROGRAM_MAX} steps")
        return len(self._program) - 1

    def _emit(self, node: Node) -> None:
        self._n_nodes += 1
        if self._n_nodes > _NODES_MAX:
            raise RegexError(f"{self._pattern[:80]!r} is too large")
        match node:
            case Cat(parts):
                for part in parts:
                    self._emit(part)
            case Alt(parts):
                self._alternatives(parts)
            case Repeat(part, least, most):
                for _ in range(least):
                    self._emit(part)
                if most is None:
                    fork = self._add(Split(0, 0))
                    self._emit(part)
                    self._add(Split(fork, fork))
                    self._program[fork] = Split(fork + 1, len(self._program))
                    return
                forks = []
                for _ in range(most - least):
                    forks.append(self._add(Split(0, 0)))
                    self._emit(part)
                for fork in forks:
                    self._program[fork] = Split(fork + 1, len(self._program))
            case _:
                self._add(node)

    def _alternatives(self, parts: tuple[Node, ...]) -> None:
        ends = []
        for part in parts[:-1]:
            fork = self._add(Split(0, 0))
            self._emit(part)
            ends.append(self._add(Split(0, 0)))
            self._program[fork] = Split(fork + 1, len(self._program))
        self._emit(parts[-1])
        for end in ends:
            self._program[end] = Split(len(self._program), len(self._program))

    # --- its states --------------------------------------------------------------------------------------------------

    def _state(self, positions: frozenset[int], before: str) -> _State:
        key = positions, before if self._asks else ""
        found = self._states.get(key)
        if found is None:
            if len(self._states) >= STATES_MAX:
                self._states.clear()
                self._start = self._state(frozenset({0}), "")
            found = self._states[key] = _State(*key)
        return found

    def _step(self, state: _State, char: str) -> _State:
        """Where a character leads, from now on known."""
        found: set[int] = set()
        for at in self._reached(state, char):
            step = self._program[at]
            if isinstance(step, Charset) and step.holds(char):
                found.add(at + 1)
        following = state.next[char] = self._state(frozenset(found), char)
        return following

    def _reached(self, state: _State, after: str) -> set[int]:
        """The positions that are reached without a character; `after` is the one that comes, "" at the end."""
        seen: set[int] = set()
        waiting = list(state.positions)
        while waiting:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            step = self._program[at]
            if isinstance(step, Split):
                waiting += step
            elif isinstance(step, Assert) and _holds(step.kind, state.before, after):
                waiting.append(at + 1)
        return seen


def _holds(kind: Kind, before: str, after: str) -> bool:
    match kind:
        case "\\A":
            return not before
        case "\\z":
            return not after
        case "^":
            return before in ("", "\n")
        case "$":
            return after in ("", "\n")
    is_edge = _is_word(before) != _is_word(after)
    return is_edge == (kind == "\\b")


def _is_word(char: str) -> bool:
    return char == "_" or (char.isascii() and char.isalnum())


@lru_cache(maxsize=1_024)
def compiled(pattern: str) -> Regex:
    """Raises `RegexError`; the answer is kept."""
    return Regex(pattern)

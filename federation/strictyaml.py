"""YAML 1.2 read strictly: a tree of what was written and where, and readers that say what was expected there.

Scalars keep their text, so `no` is text, `12:30` is text, and `0.1` loses nothing; a reader decides what a scalar is
where it is used. Errors: syntax, duplicate keys, unknown keys (with "did you mean"), tags, several documents,
recursion, and files past the bounds below. Every error is a `FileError` that begins `file:line:column:`.

    root = load(path)
    fields = Fields(root, "a job", ("job", "priority"))
    name = fields.required("job", read_text)
    priority = fields.optional("priority", integer_between(0, 100), 50)
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from federation.errors import ConfigError

FILE_BYTES_MAX = 4 * 2**20  # A job file of ten thousand groups is 2 MiB.
DEPTH_MAX = 64
NODES_MAX = 500_000  # after aliases are expanded, so that nine lines cannot mean a billion nodes

T = TypeVar("T")
D = TypeVar("D")


class Place(NamedTuple):
    """Where in which file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class FileError(ConfigError):
    """A file says something it may not. `place` is where, `reason` the sentence without the place."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Scalar:
    place: Place
    text: str
    plain: bool  # written without quotes, so it may be a number, a truth value or null

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True)
class Sequence:
    place: Place
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """`entries` in the order of the file; `keys` holds where each key stands."""

    place: Place
    entries: dict[str, "Node"]
    keys: dict[str, Place]


Node = Scalar | Sequence | Mapping


def load(path: Path) -> Node:
    """The tree of a file. Raises `FileError`, or `ConfigError` when it cannot be read."""
    try:
        with path.open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    return loads(content, str(path))


def loads(content: bytes | str, name: str) -> Node:
    """The tree of YAML text; `name` stands for the file in errors."""
    start = Place(name, 1, 1)
    if len(content) > FILE_BYTES_MAX:
        raise FileError(start, f"the file exceeds {FILE_BYTES_MAX // 2**20} MiB; split it")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(start, f"the file is not UTF-8 text (byte {error.start})") from None
    return _Builder(name).build(text)


def suggest(name: str, known: Iterable[str]) -> str:
    """` (did you mean "x"?)`, or nothing when no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f' (did you mean "{near[0]}"?)' if near else ""


# --- reading ---------------------------------------------------------------------------------------------------------


class Fields:
    """One mapping being read. `what` names it in errors ("a task group"); a key not in `known` is an error at once."""

    def __init__(self, node: Node, what: str, known: Iterable[str]) -> None:
        self.mapping = as_mapping(node, what)
        self.place = node.place
        self._what = what
        self._known = tuple(known)
        for key, place in self.mapping.keys.items():
            if key not in self._known:
                raise FileError(
                    place,
                    f'unknown key "{key}" in {what}{suggest(key, self._known)}; known: {", ".join(self._known)}',
                )

    def __contains__(self, key: str) -> bool:
        return key in self.mapping.entries

    def node(self, key: str) -> Node | None:
        return self.mapping.entries.get(key)

    def place_of(self, key: str) -> Place:
        """Where the key's value stands, or the mapping when it is absent."""
        node = self.node(key)
        return self.place if node is None else node.place

    def required(self, key: str, read: Callable[[Node], T]) -> T:
        assert key in self._known, key
        node = self.node(key)
        if node is None:
            raise FileError(self.place, f'{self._what} needs the key "{key}"')
        return self._read(key, node, read)

    def optional(self, key: str, read: Callable[[Node], T], default: D) -> T | D:
        assert key in self._known, key
        node = self.node(key)
        return default if node is None else self._read(key, node, read)

    def _read(self, key: str, node: Node, read: Callable[[Node], T]) -> T:
        if isinstance(node, Scalar) and node.is_null:
            raise FileError(self.mapping.keys[key], f'"{key}" has no value; give it one or leave the key out')
        try:
            return read(node)
        except FileError:
            raise
        except ConfigError as error:  # A quantity that does not parse: it knows the form, we know the place.
            raise FileError(node.place, f"{key}: {error}") from None


def as_mapping(node: Node, what: str) -> Mapping:
    if not isinstance(node, Mapping):
        raise FileError(node.place, f"{what} must be a mapping (key: value), not {_kind(node)}")
    return node


def as_sequence(node: Node, what: str) -> Sequence:
    if not isinstance(node, Sequence):
        raise FileError(node.place, f"{what} must be a list, not {_kind(node)}")
    return node


def read_text(node: Node) -> str:
    """A scalar's text as written; numbers too, so `[sleep, 5]` is a command."""
    if isinstance(node, Mapping) and node.entries and all(_is_null(value) for value in node.entries.values()):
        inner = ", ".join(node.entries)
        raise FileError(node.place, f'{{{inner}}} without quotes is a mapping in YAML: write "{{{inner}}}"')
    if not isinstance(node, Scalar):
        raise FileError(node.place, f"text is expected here, not {_kind(node)}")
    if node.is_null:
        raise FileError(node.place, 'text is expected here, and there is none; write "" for empty text')
    return node.text


def read_flag(node: Node) -> bool:
    """`true` or `false`, unquoted. YAML 1.2 has no `yes`, `no`, `on`, `off`."""
    text = read_text(node)
    if not (isinstance(node, Scalar) and node.plain and text in ("true", "false")):
        raise FileError(node.place, f'"{text}" is not a truth value: write true or false')
    return text == "true"


def read_integer(node: Node) -> int:
    text = read_text(node)
    if not re.fullmatch(r"[-+]?[0-9]{1,18}", text, re.ASCII):
        raise FileError(node.place, f'"{text}" is not a whole number: write one such as 4')
    return int(text)


def integer_between(low: int, high: int) -> Callable[[Node], int]:
    """A reader of whole numbers from `low` to `high`, both included."""

    def read(node: Node) -> int:
        value = read_integer(node)
        if not low <= value <= high:
            raise FileError(node.place, f"{value} is out of range: write a whole number from {low} to {high}")
        return value

    return read


def read_number(node: Node) -> float:
    """A plain decimal number, for statistics' parameters; quantities have exact readers in `units`."""
    text = read_text(node)
    if not re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?", text, re.ASCII):
        raise FileError(node.place, f'"{text}" is not a number: write one such as 0.5')
    return float(text)


def quantity(parse: Callable[[str], T]) -> Callable[[Node], T]:
    """A reader of a scalar that `units.parse_*` understands."""

    def read(node: Node) -> T:
        text = read_text(node)
        try:
            return parse(text)
        except ConfigError as error:
            raise FileError(node.place, str(error)) from None

    return read


def choice(*names: str) -> Callable[[Node], str]:
    """A reader of one of a few words."""

    def read(node: Node) -> str:
        text = read_text(node)
        if text not in names:
            raise FileError(node.place, f'"{text}" is unknown{suggest(text, names)}; known: {", ".join(names)}')
        return text

    return read


def matching(pattern: str, what: str) -> Callable[[Node], str]:
    """A reader of text that matches `pattern` whole; `what` says what is accepted, for the error."""
    compiled = re.compile(pattern)

    def read(node: Node) -> str:
        text = read_text(node)
        if not compiled.fullmatch(text):
            raise FileError(node.place, f'"{text}" is not {what}')
        return text

    return read


def list_of(read_item: Callable[[Node], T], what: str = "this") -> Callable[[Node], tuple[T, ...]]:
    return lambda node: tuple(read_item(item) for item in as_sequence(node, what).items)


def one_or_more(read_item: Callable[[Node], T]) -> Callable[[Node], tuple[T, ...]]:
    """A list, or a single item that means a list of it."""
    return lambda node: (
        tuple(read_item(item) for item in node.items) if isinstance(node, Sequence) else (read_item(node),)
    )


def mapping_of(read_value: Callable[[Node], T], what: str = "this") -> Callable[[Node], dict[str, T]]:
    """A mapping with free keys."""
    return lambda node: {key: read_value(value) for key, value in as_mapping(node, what).entries.items()}


_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)


def to_plain(node: Node) -> Any:
    """The tree as Python values by YAML 1.2's core schema, e.g. for JSON Schema. Quoted scalars are text."""
    if isinstance(node, Mapping):
        return {key: to_plain(value) for key, value in node.entries.items()}
    if isinstance(node, Sequence):
        return [to_plain(item) for item in node.items]
    if not node.plain:
        return node.text
    if node.is_null:
        return None
    if node.text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return node.text[0] in "tT"
    if _INTEGER.fullmatch(node.text) and len(node.text) < 4000:  # int() refuses more digits than 4300
        return int(node.text)
    return float(node.text) if _FLOAT.fullmatch(node.text) else node.text


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.is_null


def _kind(node: Node) -> str:
    match node:
        case Mapping():
            return "a mapping"
        case Sequence():
            return "a list"
        case Scalar() if node.is_null:
            return "nothing"
        case Scalar():
            return f'"{node.text[:40]}"'


# --- building --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been read."""

    place: Place
    anchor: str | None
    children: list[Node]
    is_mapping: bool


class _Builder:
    """Turns ruamel's parse events into nodes, without recursion: hostile depth cannot exhaust the stack."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._anchors: dict[str, tuple[Node, int]] = {}  # with how many nodes each stands for
        self._n_nodes = 0

    def build(self, text: str) -> Node:
        try:
            from ruamel.yaml import YAML
            from ruamel.yaml.error import MarkedYAMLError, YAMLError
        except ImportError:
            raise ConfigError("reading YAML needs ruamel.yaml: run `pip install 'offerflow[master]'`") from None
        try:
            return self._from_events(YAML(typ="safe", pure=True).parse(text))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Place(self._name, mark.line + 1, mark.column + 1) if mark else Place(self._name, 1, 1)
            context = f" {error.context}" if error.context else ""
            raise FileError(place, f"not YAML: {error.problem or 'unreadable'}{context}") from None
        except (YAMLError, ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0] if str(error) else "unreadable"
            raise FileError(Place(self._name, 1, 1), f"not YAML: {reason}") from None

    def _from_events(self, events: Iterator[Any]) -> Node:
        from ruamel.yaml import events as kinds

        root: Node | None = None
        open_: list[_Open] = []
        n_before: list[int] = []  # nodes counted when each open collection began
        for event in events:
            place = Place(self._name, event.start_mark.line + 1, event.start_mark.column + 1)
            match event:
                case kinds.DocumentStartEvent():
                    self._check_document(event, place, root)
                    continue
                case kinds.MappingStartEvent() | kinds.SequenceStartEvent():
                    self._check_tag(event, place)
                    if len(open_) == DEPTH_MAX:
                        raise FileError(place, f"nested deeper than {DEPTH_MAX} levels")
                    n_before.append(self._n_nodes)
                    self._count(place, 1)
                    open_.append(_Open(place, event.anchor, [], isinstance(event, kinds.MappingStartEvent)))
                    continue
                case kinds.ScalarEvent():
                    self._check_tag(event, place)
                    self._count(place, 1)
                    node: Node = Scalar(place, event.value, event.style is None)
                    self._name_anchor(event.anchor, node, 1)
                case kinds.AliasEvent():
                    node = self._aliased(event.anchor, place)
                case kinds.MappingEndEvent() | kinds.SequenceEndEvent():
                    done = open_.pop()
                    node = self._mapping(done) if done.is_mapping else Sequence(done.place, tuple(done.children))
                    self._name_anchor(done.anchor, node, self._n_nodes - n_before.pop())
                case _:
                    continue
            if open_:
                open_[-1].children.append(node)
            else:
                root = node
        if root is None or _is_null(root):
            raise FileError(Place(self._name, 1, 1), "the file is empty")
        return root

    def _check_document(self, event: Any, place: Place, root: Node | None) -> None:
        if root is not None:
            raise FileError(place, "a second document begins here; write one document a file")
        if event.version is not None and tuple(event.version) != (1, 2):
            raise FileError(Place(self._name, 1, 1), "files are YAML 1.2; leave the %YAML line out")

    def _check_tag(self, event: Any, place: Place) -> None:
        if event.ctag is not None and str(event.ctag):
            raise FileError(place, f"tags such as {event.ctag.handle or ''}{event.ctag.suffix} are not accepted")

    def _count(self, place: Place, n_nodes: int) -> None:
        self._n_nodes += n_nodes
        if self._n_nodes > NODES_MAX:
            raise FileError(place, f"more than {NODES_MAX} values, aliases expanded; split the file")

    def _name_anchor(self, anchor: str | None, node: Node, n_nodes: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, n_nodes)

    def _aliased(self, anchor: str, place: Place) -> Node:
        if anchor not in self._anchors:  # A collection gets its name when it ends, so none can hold itself.
            raise FileError(place, f"*{anchor} names no earlier value{suggest(anchor, self._anchors)}")
        node, n_nodes = self._anchors[anchor]
        self._count(place, n_nodes)
        return node

    def _mapping(self, done: _Open) -> Mapping:
        entries: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        for key, value in zip(done.children[::2], done.children[1::2], strict=True):
            if not isinstance(key, Scalar):
                raise FileError(key.place, f"a key must be text, not {_kind(key)}")
            if key.text in entries:
                first = keys[key.text]
                raise FileError(key.place, f'duplicate key "{key.text}"; it is first given on line {first.line}')
            entries[key.text] = value
            keys[key.text] = key.place
        return Mapping(done.place, entries, keys)

"""Before a scenario is read: files that it includes are merged in, and `$name` becomes the parameter's value."""

import re
from collections.abc import Callable, Iterable
from collections.abc import Mapping as Values
from pathlib import Path

from federation.errors import ConfigError
from federation.jobfile import read_identifier
from federation.strictyaml import (
    FileError,
    Mapping,
    Node,
    Place,
    Scalar,
    Sequence,
    as_mapping,
    integer_between,
    load,
    one_or_more,
    read_text,
    suggest,
)
from policies import registry

INCLUDES_MAX = 32
SEED_MAX = 2**31
_REFERENCE = re.compile(r"\$(?:\$|([a-z][a-z0-9_-]*))")


def prepare(path: Path, given: Values[str, str]) -> tuple[Mapping, dict[str, str]]:
    """The whole scenario as one tree, and the parameters' values. `given` overrides what the file says; a parameter
    that the file does not have is a `ConfigError`."""
    root = _included(path, ())
    parameters = _parameters(root)
    for name in given:
        if name not in parameters:
            known = f"; known: {', '.join(parameters)}" if parameters else "; it has none"
            raise ConfigError(f"{path}: there is no parameter {name!r}{suggest(name, parameters)}{known}")
    values = {name: given.get(name, default) for name, default in parameters.items()}
    entries = {key: node if key == "parameters" else _filled(node, values) for key, node in root.entries.items()}
    return Mapping(root.place, entries, root.keys), values


# --- includes --------------------------------------------------------------------------------------------------------


def _included(path: Path, above: tuple[Path, ...]) -> Mapping:
    """The file with what it includes beneath it: mappings are joined key by key, this file's values winning; lists
    are joined, the included first."""
    real = path.resolve()
    if real in above:
        raise ConfigError(f"{path}: it includes itself by way of {', '.join(each.name for each in above)}")
    if len(above) == INCLUDES_MAX:
        raise ConfigError(f"{path}: includes are nested deeper than {INCLUDES_MAX}")
    root = as_mapping(load(path), "a scenario")
    node = root.entries.get("include")
    if node is None:
        return root
    merged: Node = Mapping(root.place, {}, {})
    for name in one_or_more(read_text)(node):
        target = path.parent / name
        if not target.exists():
            raise FileError(node.place, f"there is no {target}; includes are relative to the file that names them")
        merged = _merged(merged, _included(target, (*above, real)))
    return as_mapping(_merged(merged, root), "a scenario")


def _merged(under: Node, over: Node) -> Node:
    if isinstance(under, Mapping) and isinstance(over, Mapping):
        entries, keys = dict(under.entries), dict(under.keys)
        for key, value in over.entries.items():
            entries[key] = _merged(entries[key], value) if key in entries else value
            keys[key] = over.keys[key]
        return Mapping(over.place, entries, keys)
    if isinstance(under, Sequence) and isinstance(over, Sequence):
        return Sequence(over.place, (*under.items, *over.items))
    return over


def merge(under: Node, over: Node) -> Node:
    """One mapping on top of another, as templates are: `over` wins."""
    return _merged(under, over)


# --- parameters ------------------------------------------------------------------------------------------------------


def _parameters(root: Mapping) -> dict[str, str]:
    node = root.entries.get("parameters")
    if node is None:
        return {}
    mapping = as_mapping(node, '"parameters"')
    for name, place in mapping.keys.items():
        read_identifier(Scalar(place, name, plain=False))
    return {name: read_text(value) for name, value in mapping.entries.items()}


def _filled(node: Node, values: Values[str, str]) -> Node:
    match node:
        case Scalar(place=place, text=text, plain=plain):
            return node if "$" not in text else Scalar(place, _replaced(text, values, place), plain)
        case Sequence(place=place, items=items):
            return Sequence(place, tuple(_filled(item, values) for item in items))
        case Mapping(place=place, entries=entries, keys=keys):
            return Mapping(place, {key: _filled(value, values) for key, value in entries.items()}, keys)


def _replaced(text: str, values: Values[str, str], place: Place) -> str:
    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"  # $$ is a dollar
        if name not in values:
            raise FileError(place, f'no parameter is called "{name}"{suggest(name, values)}; a dollar is written $$')
        return values[name]

    return _REFERENCE.sub(value_of, text)


def read_matrix(node: Node, parameters: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Policies, seeds and each parameter with the values to run it with: a list, or `1..20` for whole numbers."""
    mapping = as_mapping(node, '"matrix"')
    known = ("policy", "seed", *parameters)
    for key, place in mapping.keys.items():
        if key not in known:
            raise FileError(place, f'the matrix varies "{key}", which is no parameter of the file{suggest(key, known)}')
    readers = {"policy": read_policy, "seed": _read_seed}
    return {key: _values(key, value, readers.get(key, read_text)) for key, value in mapping.entries.items()}


def read_policy(node: Node) -> str:
    """The name of one that is installed."""
    name, known = read_text(node), registry.names()
    if name not in known:
        sentence = f"there is no policy {name!r}{suggest(name, known)}; known are {', '.join(known)}"
        raise FileError(node.place, sentence)
    return name


def _read_seed(node: Node) -> str:
    return str(integer_between(0, SEED_MAX)(node))


def _values(key: str, node: Node, read: Callable[[Node], str]) -> tuple[str, ...]:
    if isinstance(node, Scalar) and (match := re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", node.text)):
        first, last = int(match[1]), int(match[2])
        if not first <= last or last - first >= 10_000:
            raise FileError(node.place, f'"{node.text}" is no range of at most 10000 numbers, small to large')
        return tuple(str(number) for number in range(first, last + 1))
    values = one_or_more(read)(node)
    if not values:
        raise FileError(node.place, f'"{key}" has no values')
    return values

"""Strict reading of what people send: unknown and repeated keys are errors that name the place and the likely meaning.

Records ignore unknown fields, as peers of other versions must; a person's typing error must not pass that way. So a
request is checked key by key against its type before msgspec decodes it.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from federation.errors import PeerError

# Integers that every JSON reader holds exactly (RFC 7493); the journal's MessagePack ends at 2**63.
INTEGER_MAX = 2**53

T = TypeVar("T")


class _TwiceError(ValueError):
    """An object of the document has this key more than once."""


def decode_json(body: bytes, type_: type[T]) -> T:
    """Decode a JSON document into `type_`. Raises `PeerError` (malformed, unknown_key, invalid) with the path."""
    try:
        tree = json.loads(body, object_pairs_hook=_without_twins, parse_constant=_no_constant)
        check_keys(tree, type_)
    except _TwiceError as error:
        raise PeerError("unknown_key", f"the key {str(error)[:80]!r} appears twice in one object") from None
    except RecursionError:
        raise PeerError("malformed", "the document is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise PeerError("malformed", f"not a JSON document: {error}") from None
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise PeerError("invalid", str(error)) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise PeerError("malformed", f"not a JSON document: {error}") from None


def decode_query(pairs: Iterable[tuple[str, str]], type_: Any) -> Any:
    """Decode the query of a URL into a flat struct. Raises `PeerError` like `decode_json`.

    A parameter may be repeated only where its field is a tuple.
    """
    lists = _tuple_fields(type_)
    values: dict[str, Any] = {}
    for key, text in pairs:
        if key in lists:
            values.setdefault(key, []).append(text)
        elif key in values:
            raise PeerError("unknown_key", f"the parameter {key[:80]!r} is given twice")
        else:
            values[key] = text
    check_keys(values, type_)
    return convert_text(values, type_)


def convert_text(values: Any, type_: Any) -> Any:
    """Convert strings (of a URL) to the type. Raises `PeerError("invalid")`."""
    try:
        return msgspec.convert(values, type_, strict=False)
    except msgspec.ValidationError as error:
        raise PeerError("invalid", str(error)) from None


def check_keys(tree: Any, type_: Any) -> None:
    """Raise `PeerError` for the first key that `type_` does not know, or integer beyond 2**53, anywhere below."""
    _walk(tree, _type_info(type_), "$")


@cache
def _type_info(type_: Any) -> inspect.Type:
    return inspect.type_info(type_)


@cache
def _tuple_fields(type_: Any) -> frozenset[str]:
    info = _type_info(type_)
    assert isinstance(info, inspect.StructType)
    return frozenset(field.encode_name for field in info.fields if isinstance(_bare(field.type), inspect.VarTupleType))


def _bare(info: inspect.Type) -> inspect.Type:
    """Without the wrapper that holds a description."""
    return _bare(info.type) if isinstance(info, inspect.Metadata) else info


def _walk(tree: Any, info: inspect.Type, path: str) -> None:
    """Only keys and magnitudes are judged here; what does not match `info` otherwise is left to msgspec."""
    if isinstance(tree, int) and abs(tree) > INTEGER_MAX:
        raise PeerError("invalid", f"Expected an integer within ±2^53 - at `{path}`")
    if isinstance(tree, str) and not tree.isascii() and any("\ud800" <= char <= "\udfff" for char in tree):
        raise PeerError("invalid", f"Expected text, got half a surrogate pair - at `{path}`")
    info = _bare(info)
    if isinstance(info, inspect.UnionType):
        info = next((bare for member in info.types if _takes(bare := _bare(member), tree)), info)
    if isinstance(tree, dict):
        _walk_object(tree, info, path)
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            _walk(item, _item_type(info, index), f"{path}[{index}]")


def _walk_object(tree: Mapping[str, Any], info: inspect.Type, path: str) -> None:
    if not isinstance(info, inspect.StructType):
        value_type = info.value_type if isinstance(info, inspect.DictType) else inspect.AnyType()
        for key, value in tree.items():
            _walk(value, value_type, f"{path}[{key[:80]!r}]")
        return
    types = {field.encode_name: field.type for field in info.fields}
    for key, value in tree.items():
        if key in types:
            _walk(value, types[key], f"{path}.{key}")
        elif key != info.tag_field:
            near = difflib.get_close_matches(key[:80], types, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(types)}"
            raise PeerError("unknown_key", f"unknown key {key[:80]!r} - at `{path}`; {hint}")


def _takes(info: inspect.Type, tree: Any) -> bool:
    if isinstance(tree, dict):
        return isinstance(info, inspect.StructType | inspect.DictType)
    return isinstance(tree, list) and isinstance(info, inspect.VarTupleType | inspect.TupleType | inspect.ListType)


def _item_type(info: inspect.Type, index: int) -> inspect.Type:
    if isinstance(info, inspect.VarTupleType | inspect.ListType):
        return info.item_type
    if isinstance(info, inspect.TupleType) and index < len(info.item_types):
        return info.item_types[index]
    return inspect.AnyType()


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        raise _TwiceError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")

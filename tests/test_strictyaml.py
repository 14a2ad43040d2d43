"""The strict reader: YAML 1.2 values, places to the column, and one clear sentence for whatever is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import units
from federation.errors import ConfigError
from federation.strictyaml import (
    Fields,
    FileError,
    Mapping,
    Node,
    choice,
    integer_between,
    list_of,
    load,
    loads,
    mapping_of,
    one_or_more,
    quantity,
    read_flag,
    read_number,
    read_text,
    to_plain,
)


def reason(content: bytes | str) -> str:
    with pytest.raises(FileError) as caught:
        loads(content, "f.yaml")
    return str(caught.value)


def test_values_are_yaml_1_2_not_1_1() -> None:
    text = "a: no\nb: 12:30\nc: 0.10\nd: [1, '1', true, ~]\ne: 1_000\nf: 0o14\ng: 2026-01-01\n"
    assert to_plain(loads(text, "f.yaml")) == {
        "a": "no",
        "b": "12:30",
        "c": 0.1,
        "d": [1, "1", True, None],
        "e": "1_000",
        "f": "0o14",
        "g": "2026-01-01",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 'f.yaml:3:1: duplicate key "a"; it is first given on line 1'),
        ("a: {b: 1, b: 2}", 'f.yaml:1:11: duplicate key "b"; it is first given on line 1'),
        ("a: 1\n b: 2", "f.yaml:2:3: not YAML: mapping values are not allowed here"),
        ("a: !!int 3", "f.yaml:1:4: tags such as !!int are not accepted"),
        ("a: !pickle {b: 1}", "f.yaml:1:4: tags such as !pickle are not accepted"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: a second document begins here; write one document a file"),
        ("&a [*a]", "f.yaml:1:5: *a names no earlier value"),
        ("a: &base 1\nb: *bose", 'f.yaml:2:4: *bose names no earlier value (did you mean "base"?)'),
        ("? [a]\n: b", "f.yaml:1:3: a key must be text, not a list"),
        ("%YAML 1.1\n---\na: no", "f.yaml:1:1: files are YAML 1.2; leave the %YAML line out"),
        ("", "f.yaml:1:1: the file is empty"),
        ("# nothing\n", "f.yaml:1:1: the file is empty"),
        (b"\xff\xfe", "f.yaml:1:1: the file is not UTF-8 text (byte 0)"),
        ("[" * 5000, "f.yaml:1:65: nested deeper than 64 levels"),
        (b"a" * (4 * 2**20 + 1), "f.yaml:1:1: the file exceeds 4 MiB; split it"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(content: bytes | str, message: str) -> None:
    assert reason(content) == message


def test_nine_lines_cannot_mean_a_billion_values() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for name, before in zip("bcdefghi", "abcdefgh", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    assert "more than 500000 values, aliases expanded" in reason("\n".join(lines))


def test_an_alias_stands_for_its_value() -> None:
    assert to_plain(loads("a: &x {k: [1, 2]}\nb: *x\n", "f.yaml")) == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}}


@given(st.text(max_size=200))
def test_any_text_is_a_tree_or_a_config_error(text: str) -> None:
    try:
        tree = loads(text, "f.yaml")
    except ConfigError:
        return
    to_plain(tree)


def test_fields_refuse_unknown_and_demand_required_keys() -> None:
    root = loads("job: x\npriorty: 3\n", "f.yaml")
    with pytest.raises(FileError) as caught:
        Fields(root, "a job", ("job", "priority"))
    assert str(caught.value) == (
        'f.yaml:2:1: unknown key "priorty" in a job (did you mean "priority"?); known: job, priority'
    )
    fields = Fields(loads("job: x\nempty:\n", "f.yaml"), "a job", ("job", "role", "empty"))
    assert fields.required("job", read_text) == "x"
    assert fields.optional("role", read_text, "default") == "default"
    assert "role" not in fields
    with pytest.raises(FileError, match=r'^f\.yaml:1:1: a job needs the key "role"$'):
        fields.required("role", read_text)
    with pytest.raises(FileError, match=r'^f\.yaml:2:1: "empty" has no value; give it one or leave the key out$'):
        fields.optional("empty", read_text, None)
    with pytest.raises(FileError, match=r"^f\.yaml:1:1: a job must be a mapping \(key: value\), not a list$"):
        Fields(loads("[1]", "f.yaml"), "a job", ())


def value(text: str) -> Node:
    root = loads(f"v: {text}", "f.yaml")
    assert isinstance(root, Mapping)
    return root.entries["v"]


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (read_text, "5", "5"),
        (read_text, '""', ""),
        (read_flag, "true", True),
        (read_number, "-0.5e3", -500.0),
        (integer_between(0, 9), "7", 7),
        (choice("edge", "cloud"), "edge", "edge"),
        (quantity(units.parse_bytes), "4MiB", 4 * 2**20),
        (one_or_more(read_text), "x", ("x",)),
        (one_or_more(read_text), "[x, y]", ("x", "y")),
        (list_of(read_text), "[x, 2]", ("x", "2")),
        (mapping_of(read_text), "{k: v}", {"k": "v"}),
    ],
)
def test_readers(read: Callable[[Node], object], text: str, expected: object) -> None:
    assert read(value(text)) == expected


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_text, "{shard}", '{shard} without quotes is a mapping in YAML: write "{shard}"'),
        (read_text, "[a]", "text is expected here, not a list"),
        (read_text, "~", 'text is expected here, and there is none; write "" for empty text'),
        (read_flag, "yes", '"yes" is not a truth value: write true or false'),
        (read_flag, "'true'", '"true" is not a truth value: write true or false'),
        (read_number, "half", '"half" is not a number: write one such as 0.5'),
        (integer_between(0, 9), "70", "70 is out of range: write a whole number from 0 to 9"),
        (integer_between(0, 9), "7.5", '"7.5" is not a whole number: write one such as 4'),
        (choice("edge", "cloud"), "edg", '"edg" is unknown (did you mean "edge"?); known: edge, cloud'),
        (quantity(units.parse_bytes), "4", "'4' has no unit: write a size such as 256MiB, 4MB or 512B"),
        (list_of(read_text, "command"), "x", 'command must be a list, not "x"'),
        (mapping_of(read_text, "env"), "x", 'env must be a mapping (key: value), not "x"'),
    ],
)
def test_readers_refuse_with_a_reason(read: Callable[[Node], object], text: str, message: str) -> None:
    with pytest.raises(FileError) as caught:
        read(value(text))
    assert str(caught.value) == f"f.yaml:1:4: {message}"


def test_files_are_read_with_their_name_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(FileError, match=r"x\.yaml:2:1: duplicate"):
        load(path)
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml: No such file or directory"):
        load(tmp_path / "none.yaml")

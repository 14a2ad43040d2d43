"""What a job file's groups say about each other and about placeholders: each mistake with its line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from federation.jobs import TaskGroup
from federation.strictyaml import Fields, FileError, Mapping, Node, Place, Sequence, suggest

PLACEHOLDERS = ("shard.path", "shard.name", "in", "out", "index", "job")
_PLACEHOLDER = re.compile(r"(\$?)\{([A-Za-z_][A-Za-z0-9_.]*)\}")


@dataclass(frozen=True, slots=True)
class Draft:
    """A group as read, with where its parts stand."""

    name: str
    fields: Fields
    group: TaskGroup


def check_groups(drafts: dict[str, Draft]) -> None:
    """Raise `FileError` for the first mistake: order (unknown groups, cycles), then placeholders, then reads."""
    for draft in drafts.values():
        _check_after(draft, drafts)
    _check_cycles({name: _before(draft, drafts) for name, draft in drafts.items()})
    for draft in drafts.values():
        _check_placeholders(draft)
        _check_reads(draft, drafts)


def output_path(name: str, command: tuple[str, ...]) -> str | None:
    """The one file under `{out}` named `name` or `name.<suffix>` that the command's arguments mention, or None."""
    pattern = re.compile(rf"\{{out\}}/({re.escape(name)}(?:\.[A-Za-z0-9_]+)*)(?![A-Za-z0-9_./-])")
    found = {match[1] for argument in command for match in pattern.finditer(argument)}
    return found.pop() if len(found) == 1 else None


def _check_after(draft: Draft, drafts: dict[str, Draft]) -> None:
    for place, other in zip(_places(draft.fields.node("after")), draft.group.after, strict=True):
        if other not in drafts:
            raise FileError(place, f'no task group is called "{other}"{suggest(other, drafts)}')


def _before(draft: Draft, drafts: dict[str, Draft]) -> dict[str, Place]:
    """The groups that must finish first, as `after` says or as reading their outputs implies, and where it says so."""
    found = dict(zip(draft.group.after, _places(draft.fields.node("after")), strict=True))
    for place, glob in zip(_places(draft.fields.node("reads")), draft.group.reads, strict=True):
        source, slash, _ = glob.partition("/")
        if slash and source in drafts:
            found.setdefault(source, place)
    return found


def _check_cycles(before: dict[str, dict[str, Place]]) -> None:
    done: set[str] = set()
    for start in before:
        path: list[str] = []
        walk: list[Iterator[str]] = []
        if start not in done:
            path, walk = [start], [iter(before[start])]
        while walk:
            name = next(walk[-1], None)
            if name is None:
                walk.pop()
                done.add(path.pop())
            elif name in path:
                circle = " after ".join([*path[path.index(name) :], name])
                raise FileError(before[path[-1]][name], f"the groups wait for each other in a circle: {circle}")
            elif name not in done:
                path.append(name)
                walk.append(iter(before[name]))


def _check_placeholders(draft: Draft) -> None:
    for key in ("command", "env"):
        for place, text in _texts(draft.fields.node(key)):
            for match in _PLACEHOLDER.finditer(text):
                if not match[1]:
                    _check_placeholder(draft, place, match[2])
                elif match[2] in PLACEHOLDERS:  # `${HOME}` is the shell's; this is filled in before it sees it.
                    raise FileError(place, f"${{{match[2]}}} would keep its dollar sign: write {{{match[2]}}}")


def _check_placeholder(draft: Draft, place: Place, name: str) -> None:
    group = draft.group
    if name == "shard":
        raise FileError(place, "{shard} stands in reads only; a command has {shard.path} and {shard.name}")
    if name not in PLACEHOLDERS:
        known = ", ".join(f"{{{placeholder}}}" for placeholder in PLACEHOLDERS)
        raise FileError(place, f"unknown placeholder {{{name}}}{suggest(name, PLACEHOLDERS)}; known: {known}")
    if name.startswith("shard.") and group.for_each is None:
        raise FileError(place, f"{{{name}}} needs for_each: this group has no shard of its own")
    if name == "shard.path" and "{shard}" not in group.reads:
        raise FileError(place, '{shard.path} needs the shard to be read: add reads: ["{shard}"]')
    if name == "in" and not group.reads:
        raise FileError(place, "{in} is the folder of what the task reads, and it reads nothing: add reads")


def _check_reads(draft: Draft, drafts: dict[str, Draft]) -> None:
    for place, glob in zip(_places(draft.fields.node("reads")), draft.group.reads, strict=True):
        if glob == "{shard}":
            if draft.group.for_each is None:
                raise FileError(place, "{shard} needs for_each: this group has no shard of its own")
            continue
        if "{" in glob:
            raise FileError(place, f'"{glob}" is not readable: write "{{shard}}" or shard names, * and ? allowed')
        source, slash, rest = glob.partition("/")
        if slash and source in drafts:
            _check_outputs_read(place, glob, drafts[source].group, rest)


def _check_outputs_read(place: Place, glob: str, source: TaskGroup, rest: str) -> None:
    index, slash, output = rest.partition("/")
    if not slash:
        raise FileError(place, f'"{glob}" names no output: write "{source.name}/*/<output>"')
    names = [write.name for write in source.writes]
    if not any(fnmatchcase(name, output) for name in names):
        known = ", ".join(names) if names else "none; add writes to it"
        raise FileError(place, f'"{source.name}" writes no "{output}"{suggest(output, names)}; its outputs: {known}')
    if source.for_each is None and index.isdecimal() and int(index) >= source.count:
        tasks = "only task 0" if source.count == 1 else f"tasks 0 to {source.count - 1}"
        raise FileError(place, f'"{source.name}" has {tasks}, so nothing matches "{glob}"')


def _places(node: Node | None) -> list[Place]:
    """Where each item of a list, or the single item, stands."""
    if node is None:
        return []
    return [item.place for item in node.items] if isinstance(node, Sequence) else [node.place]


def _texts(node: Node | None) -> Iterator[tuple[Place, str]]:
    """The scalars of a list or of a mapping's values."""
    if isinstance(node, Sequence | Mapping):
        for item in node.items if isinstance(node, Sequence) else node.entries.values():
            yield from _texts(item)
    elif node is not None:
        yield node.place, node.text

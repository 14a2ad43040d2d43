"""How a file writes down what really happens to tasks, and nobody tells the master: failures, crashes, training."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from federation import units
from federation.jobfile import read_duration
from federation.jobs import TaskGroup
from federation.strictyaml import Fields, FileError, Node, as_mapping, integer_between, quantity, read_flag, read_number
from scenarios.sites import as_is, read_chance
from scenarios.world import Behaviour, Training

TRAINING_KEYS = (
    "grad", "sample", "local", "local_more", "apart", "apart_more", "overlap", "noise_scale", "restart",
)  # fmt: skip
BEHAVIOUR_KEYS = ("fails", "crashes", "training")
NOISE_MAX = 1_000_000_000

T = TypeVar("T")


def read_behaviour(fields: Fields, group: TaskGroup) -> Behaviour:
    """Of a generated task, whose keys they are."""
    return Behaviour(
        fails_ppm=fields.optional("fails", read_chance, 0),
        crashes_agent=fields.optional("crashes", read_flag, False),
        training=fields.optional("training", lambda node: _read_training(node, group), None),
    )


def read_behaviours(fields: Fields, groups: Sequence[TaskGroup]) -> dict[str, Behaviour]:
    """Of a job, whose groups are named under each key."""
    fails_ppm = by_group(fields, "fails", lambda node, _: read_chance(node), groups)
    crashes = by_group(fields, "crashes", lambda node, _: read_flag(node), groups)
    trainings = by_group(fields, "training", _read_training, groups)
    return {
        name: Behaviour(
            fails_ppm=fails_ppm.get(name, 0), crashes_agent=crashes.get(name, False), training=trainings.get(name)
        )
        for name in (group.name for group in groups)
        if name in fails_ppm or name in crashes or name in trainings
    }


def by_group(
    fields: Fields, key: str, read: Callable[[Node, TaskGroup], T], groups: Sequence[TaskGroup]
) -> dict[str, T]:
    """`{group: value}`."""
    if key not in fields:
        return {}
    mapping = as_mapping(fields.required(key, as_is), f'"{key}"')
    known = {group.name: group for group in groups}
    for name in mapping.entries:
        if name not in known:
            raise FileError(fields.place_of(key), f'the job has no task group "{name}"')
    return {name: read(value, known[name]) for name, value in mapping.entries.items()}


def _read_training(node: Node, group: TaskGroup) -> Training:
    if group.elastic is None:
        raise FileError(node.place, '"training" is of elastic work: give the group elastic: {batch: …} too')
    fields = Fields(node, '"training"', TRAINING_KEYS)
    return Training(
        batch=group.elastic.batch,
        grad_us=fields.optional("grad", _read_time, 0),
        sample_us=fields.required("sample", read_duration),
        local_us=fields.optional("local", _read_time, 0),
        local_more_us=fields.optional("local_more", _read_time, 0),
        apart_us=fields.optional("apart", _read_time, 0),
        apart_more_us=fields.optional("apart_more", _read_time, 0),
        overlap_milli=fields.optional("overlap", _read_overlap, 1000),
        noise_scale=fields.optional("noise_scale", integer_between(1, NOISE_MAX), group.elastic.noise_scale),
        restart_us=fields.optional("restart", _read_time, 30_000_000),
    )


_read_time = quantity(units.parse_duration_us)


def _read_overlap(node: Node) -> int:
    overlap_milli = int(read_number(node) * 1000)
    if not 1000 <= overlap_milli <= 10_000:
        raise FileError(node.place, '"overlap" is from 1, one after the other, to 10, wholly side by side')
    return overlap_milli

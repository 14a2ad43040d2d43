"""The plan's choice of how a worker is to communicate, as it finds it in its environment. Needs nothing but Python.

The variables are documented in docs/training.md; the master sets them when a policy tuned the job.
"""

import os
from collections.abc import Mapping
from typing import Literal, cast

from policies.model import Record

Aggregate = Literal["", "site", "rack"]
Compression = Literal["", "fp16", "powersgd"]


class Settings(Record, frozen=True, kw_only=True):
    """Defaults are what PyTorch does by itself. `group`: workers with the same value sum up with each other first."""

    aggregate: Aggregate = ""
    compression: Compression = ""
    local_steps: int = 1
    group: str = ""
    meet_at: str = ""  # the site where a parameter server is wanted; "": the job's own choice
    shift_us: int | None = None
    iteration_us: int = 0
    batch_per_worker: int = 0


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """What this worker was told. Raises ValueError that names the variable for what it cannot be."""
    env = os.environ if environment is None else environment
    shift = env.get("OFFERFLOW_COMM_SHIFT_US", "")
    return Settings(
        aggregate=cast(Aggregate, _one_of(env, "OFFERFLOW_COMM_AGGREGATE", ("", "site", "rack"))),
        compression=cast(Compression, _one_of(env, "OFFERFLOW_COMM_COMPRESSION", ("", "fp16", "powersgd"))),
        local_steps=max(1, _number(env, "OFFERFLOW_COMM_LOCAL_STEPS", 1)),
        group=env.get("OFFERFLOW_COMM_GROUP", "") or env.get("OFFERFLOW_SITE", ""),
        meet_at=env.get("OFFERFLOW_COMM_MEET_AT", ""),
        shift_us=_number(env, "OFFERFLOW_COMM_SHIFT_US", 0) if shift else None,
        iteration_us=_number(env, "OFFERFLOW_COMM_ITERATION_US", 0),
        batch_per_worker=_number(env, "OFFERFLOW_BATCH_PER_WORKER", 0),
    )


def wait_us(settings: Settings, wall_us: int) -> int:
    """How long to wait, at `wall_us` since the epoch, before a step begins where the plan shifted it to.

    Steps begin at whole multiples of the iteration time plus the shift, on every worker's own clock: clocks that differ
    by a tenth of the iteration spoil a tenth of what shifting brings.
    """
    if settings.shift_us is None or settings.iteration_us <= 0:
        return 0
    return (settings.shift_us - wall_us) % settings.iteration_us


def _one_of(env: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    value = env.get(name, "")
    if value not in known:
        raise ValueError(f"{name} is {value!r}; known are {', '.join(repr(each) for each in known)}")
    return value


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{name} is {text!r}; a whole number of 0 or more is wanted")
    return int(text)

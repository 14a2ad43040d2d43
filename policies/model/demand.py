"""What is asked for: classes of equal tasks, how they communicate, gangs, elastic work, learned run times."""

from typing import Annotated, Literal

import msgspec

from policies.model.record import Record, Tier
from policies.model.resources import Needs


class Where(Record, frozen=True, kw_only=True):
    """Hard placement constraints; an empty tuple constrains nothing. Labels are (key, value) pairs, all required."""

    tiers: tuple[Tier, ...] = ()
    sites: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    agents_avoided: tuple[str, ...] = ()  # agents on which this work failed before


class LatencyTarget(Record, frozen=True, kw_only=True):
    """Clients at `site` want answers within `rtt_us`; each microsecond above it costs `weight` microseconds."""

    site: str
    rtt_us: int
    weight: int = 1


RACK_LABEL = "rack"  # the label of an agent that says in which rack of its site it is

Saving = Literal["site_aggregation", "rack_aggregation", "fp16", "powersgd", "local_steps"]


class Communication(Record, frozen=True, kw_only=True):
    """What the workers of a gang say to each other: bytes each sends a step, in which pattern.

    `savings` are the ways to send less that the job allows; the plan chooses among them (`Tuning`). Those that lose
    digits (`fp16`, `powersgd`) need `compressible`.
    """

    pattern: Literal["allreduce", "parameter_server", "all_to_all"]
    bytes_per_step: int
    synchronous: bool = True
    compressible: bool = False
    iteration_us: int = 0  # from one step to the next where nobody is waited for; 0: not declared
    duty_ppm: int = 0  # the part of a step in which it sends; 0: as long as the bytes take
    savings: tuple[Saving, ...] = ()
    local_steps_max: int = 1  # steps between two synchronisations, with `local_steps`


class Tuning(Record, frozen=True, kw_only=True):
    """How the workers of one demand are to communicate: the plan's choice, which reaches them in their environment."""

    demand_id: str
    aggregate: Literal["", "site", "rack"] = ""  # sum up here first, and send one worker's worth on
    compression: Literal["", "fp16", "powersgd"] = ""
    local_steps: int = 1
    meet_at: str = ""  # the site of a parameter server: where what all send is summed up; "": of one site, or no server
    shift_us: int | None = None  # begin steps this long after whole multiples of `iteration_us`
    iteration_us: int = 0
    uplink_bytes_per_step: int | None = None  # what is expected to leave the busiest site each step
    batch_per_worker: int = 0  # of elastic work; 0: the job's own


class StepTime(Record, frozen=True, kw_only=True, gc=False):
    """A measured training step: `workers` on `agents` agents, `batch` samples in all, took `step_us`."""

    workers: int
    batch: int
    step_us: int
    agents: int = 1


class Elastic(Record, frozen=True, kw_only=True):
    """Work that runs with any number of workers between two bounds; each is a task, and all are of `group_id`.

    `noise_scale` is the gradient noise scale in samples: the batch beyond which more samples a step teach little.
    """

    group_id: str = ""  # filled in by the master, as is `workers_max`
    workers_max: int = 1
    workers_min: int = 1
    batch: int = 1  # samples a step that it was tuned for
    batch_max: int = 1
    noise_scale: int = 0  # 0: not known, the batch stays as it is
    steps: tuple[StepTime, ...] = ()


class GroupSteps(Record, frozen=True, kw_only=True):
    """What the workers of an elastic group measured while they ran; `noise_scale` 0: not estimated."""

    group_id: str
    steps: tuple[StepTime, ...] = ()  # one each of workers, agents and batch, sorted so
    noise_scale: int = 0


class Gang(Record, frozen=True, kw_only=True):
    """Tasks that run all together or not at all."""

    gang_id: str
    size: int
    communication: Communication | None = None


class Replicas(Record, frozen=True, kw_only=True):
    """How many replicas of a service may run, and how many answers a second one gives (0: as many as are asked)."""

    least: Annotated[int, msgspec.Meta(ge=1)] = 1
    most: Annotated[int, msgspec.Meta(ge=1)] = 1
    answers_per_second: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] = 0


class Demand(Record, frozen=True, kw_only=True):
    """An equivalence class of pending tasks: everything a policy may see of them, and how many there are.

    `demand_id` is a digest of every field but `count` and `oldest_us`: equal classes have equal ids.
    """

    demand_id: str
    role: str
    needs: Needs
    count: int
    oldest_us: int  # when its longest-waiting task became pending (the snapshot's clock)
    priority: int = 0  # higher first; 0–100
    where: Where = Where()
    reads: tuple[str, ...] = ()  # shard ids, sorted
    output_bytes: int = 0
    profile: str = ""  # run times are learned under this name, per hardware
    run_us: int = 1_000_000  # declared run time on speed_milli = 1000; the prior until the profile is learned
    deadline_us: int | None = None  # absolute, the snapshot's clock
    latency: tuple[LatencyTarget, ...] = ()
    gang: Gang | None = None
    attained_us: int = 0  # what earlier attempts ran before they were stopped, rounded down to a power of two
    elastic: Elastic | None = None
    is_service: bool = False  # it runs until it is stopped and answers clients all the time: its run time says nothing
    service_id: str = ""  # of a service that adds and removes replicas: these are to be placed, for it needs them


class Profile(Record, frozen=True, kw_only=True):
    """Learned run time of a work profile on a hardware class (mean over `samples` runs), for reads of one size:
    `data_class` is the number of bits of their bytes."""

    profile: str
    hardware: str
    run_us: int
    samples: int
    data_class: int = 0

"""What agents have and tasks need: resources, GPUs one by one, bounds on links, sums."""

from typing import Literal

from policies.model.record import Record


class Gpu(Record, frozen=True, kw_only=True, gc=False):
    """One accelerator, or what is left of it. Every reading is nullable: drivers, MIG slices and unified memory each
    hide some of them. Only one whose `isolation` is `shared` is given out in parts; of the others all or nothing."""

    uuid: str
    model: str | None = None
    memory_bytes: int | None = None
    memory_kind: Literal["dedicated", "unified"] | None = None
    isolation: Literal["whole", "mig", "shared"] | None = None
    milli: int = 1000  # thousandths of it
    memory_left_bytes: int | None = None  # that come with them, where they are not all of `memory_bytes`


class Resources(Record, frozen=True, kw_only=True, gc=False):
    """Concrete resources of one agent: what it has, offers, or has left. GPUs are named one by one."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()


class GpuNeed(Record, frozen=True, kw_only=True):
    """`count` GPUs of one agent, each of `model` (None: any) with at least `memory_bytes`.

    Below 1000 `milli` it is a share of one GPU (`count` 1) and takes `memory_bytes` of it; 0 is the same share of its
    memory.
    """

    count: int = 1
    model: str | None = None
    memory_bytes: int = 0
    milli: int = 1000


class LinkNeed(Record, frozen=True, kw_only=True):
    """A bound on the measured link between the task's agent and `site`; an unmeasured link does not meet it.

    Bandwidth is that from `site` to the agent: tasks pull.
    """

    site: str
    rtt_us_max: int | None = None
    bandwidth_bps_min: int | None = None


class Needs(Record, frozen=True, kw_only=True):
    """What one task must have on one agent, all at once."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpu: GpuNeed | None = None
    links: tuple[LinkNeed, ...] = ()


class Amount(Record, frozen=True, kw_only=True, gc=False):
    """Resources summed over agents, GPUs as a count and the thousandths beyond it: quotas, allocations and shares are
    in these."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: int = 0
    gpu_milli: int = 0  # 0 … 999

"""Data-parallel PyTorch that communicates as the plan chose: PyTorch's own hooks and optimisers, put together.

```python
dist.init_process_group("gloo")
model, optimizer = distributed(module, torch.optim.SGD(module.parameters(), lr=0.1))
for batch in loader:
    begin_step()
    ...  # as ever: zero_grad, forward, backward, optimizer.step()
```

| choice | by |
|---|---|
| half precision | `fp16_compress_wrapper` around what else is chosen |
| PowerSGD | `powerSGD_hook` (Vogels et al., NeurIPS 2019), exact for the first steps |
| local steps | `post_localSGD_hook` within a group and `PostLocalSGDOptimizer` over all (Lin et al., ICLR 2020) |
| sum up first | a hook over process groups by site or rack: reduce, one worker of each sends on, broadcast |

Needs PyTorch (extra `torch`). Groups follow from what each worker's environment says, asked once of all of them.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, post_localSGD_hook, powerSGD_hook
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.nn.parallel import DistributedDataParallel

from agents.training.settings import Settings, from_environment, wait_us

# Gradients of the first steps are large and change fast; both methods' authors start exact. Ten steps are what the
# sources of PyTorch's PowerSGD hook call too few for large models: give more there.
EXACT_STEPS = 10

Hook = Callable[[Any, dist.GradBucket], torch.futures.Future[torch.Tensor]]


class Groups:
    """The process groups that follow from every worker's `group`. Collective: all workers make it at the same time."""

    def __init__(self, group: str) -> None:
        names: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(names, group)
        ranks = {name: [rank for rank, each in enumerate(names) if each == name] for name in sorted(set(names))}
        # Every worker takes part in making every group, also those it is not in.
        made = {name: dist.new_group(members) for name, members in ranks.items()}
        self.own = made[group]
        self.size = len(ranks[group])
        self.leader = ranks[group][0]
        self.leaders = dist.new_group([members[0] for members in ranks.values()])
        self.n_groups = len(ranks)

    @property
    def is_leader(self) -> bool:
        return bool(dist.get_rank() == self.leader)


def distributed(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Settings | None = None,
    *,
    powersgd_rank: int = 2,
    exact_steps: int = EXACT_STEPS,
) -> tuple[DistributedDataParallel, torch.optim.Optimizer]:
    """The model and the optimizer to train with, under `settings` (None: what the environment says).

    The default process group must exist. Compression and local steps begin after `exact_steps` steps.
    """
    settings = settings or from_environment()
    model = DistributedDataParallel(module)
    if dist.get_world_size() == 1:
        return model, optimizer
    if settings.local_steps > 1:
        groups = Groups(settings.group)
        state = post_localSGD_hook.PostLocalSGDState(None, groups.own, exact_steps)
        model.register_comm_hook(state, post_localSGD_hook.post_localSGD_hook)
        averager = PeriodicModelAverager(settings.local_steps, warmup_steps=exact_steps)
        return model, PostLocalSGDOptimizer(optimizer, averager)
    if settings.compression == "powersgd":
        powersgd = powerSGD_hook.PowerSGDState(None, powersgd_rank, start_powerSGD_iter=max(2, exact_steps))
        model.register_comm_hook(powersgd, _low_rank)
        return model, optimizer
    group, hook = _exact(settings)
    if settings.compression == "fp16":
        hook = default_hooks.fp16_compress_wrapper(hook)
    model.register_comm_hook(group, hook)
    return model, optimizer


def begin_step(settings: Settings | None = None) -> None:
    """Wait for the moment at which the plan wants this job's steps to begin; at once where it wants none."""
    time.sleep(wait_us(settings or from_environment(), time.time_ns() // 1000) / 1e6)


def sum_up_first(groups: Groups, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Mean gradients over all workers, of which only the first of each group talks to the others'.

    Over an uplink goes what one worker sends in a ring of the groups, however many workers a group has.
    """
    total = bucket.buffer().div_(dist.get_world_size())
    if groups.size > 1:
        dist.reduce(total, groups.leader, group=groups.own)
    if groups.is_leader and groups.n_groups > 1:
        dist.all_reduce(total, group=groups.leaders)
    if groups.size > 1:
        dist.broadcast(total, groups.leader, group=groups.own)
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(total)
    return done


def _low_rank(state: powerSGD_hook.PowerSGDState, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """PyTorch's hook, waited for. It starts its second reduction when the first has ended; with gloo those of two
    buckets may then begin in another order on another worker, and all wait for ever."""
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(powerSGD_hook.powerSGD_hook(state, bucket).wait())
    return done


def _exact(settings: Settings) -> tuple[Any, Hook]:
    if settings.aggregate:
        return Groups(settings.group), sum_up_first
    return None, default_hooks.allreduce_hook

"""The flow network of a round: classes on the left, capacity on the right, and what the optimum says.

```
source ── role (quota) ─┐
              class ────┴┬──────────────→ kind ─→ group ─→ sink    now
                         ├──→ link ──→──┘  │
                         ├──→ link ──→ group, waiting ─→ wave ─→ sink   later
                         └─────────────────────────────────→ sink       not scheduled, or going on where it is
```

A **kind** lumps the groups that cost a class the same (they differ only in data that other classes read). A **link**
stands for data that crosses from one site to one kind: its parallel arcs grow dearer, the n-th transfer pays for the
n - 1 before it. A **wave** is capacity that comes later; its cost is the wait. Costs are microseconds times the weight
of the class's level, flow is in slots. Everything below is array work: O(C·G) plus the kernel.
"""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from policies.kernels.mincost.model import POTENTIAL_MAX, UNLIMITED, Result
from policies.kernels.mincost.network import FlowNetwork
from policies.lower import COUNT_MAX, TIME_US_MAX, UNKNOWN, Bools, Int64s
from policies.targets import Targets

_GAP = 1000  # pricing ends when what is left out can improve the optimum by no more than a thousandth,
_GAIN = 50  # or when the last ones improved it by less than a fiftieth: costs are not known that well
_SINGLE_STEPS = 4  # transfers over one link that are told apart one by one; beyond, steps double
_STEPS = np.array([*range(_SINGLE_STEPS), *(_SINGLE_STEPS << n for n in range(COUNT_MAX.bit_length() - 2))], np.int64)
_NONE = np.zeros(0, np.int64)
_WIDTHS = np.diff(_STEPS, append=2 * _STEPS[-1])


@dataclass(frozen=True, slots=True)
class Quota:
    """A role with a quota: the slots it may still fill, the quota above it, the active classes right below it."""

    room: int
    above: int  # index of a quota that comes earlier, or UNKNOWN
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """`slots` of active class `a` go to a group: now, or after `wait_us`."""

    a: int
    group: int
    slots: int
    congestion_us: int
    wait_us: int = 0


@dataclass(frozen=True, slots=True)
class Flows:
    now: tuple[Share, ...]
    later: tuple[Share, ...]
    objective: int  # weighted microseconds of all slots, those not scheduled included
    kernel: str
    n_arcs: int


@dataclass(frozen=True, slots=True)
class _Routes:
    """Ways for a class to capacity, now or later. [R] each."""

    a: Int64s
    group: Int64s  # one that stands for all the route leads to
    node: Int64s  # where it enters
    room: Int64s
    link: Int64s  # → links, or UNKNOWN where it loads none that others load

    def __len__(self) -> int:
        return len(self.a)


def solve(targets: Targets, quotas: tuple[Quota, ...] = ()) -> Flows:
    """The optimum over all targets, found over those that matter."""
    chosen = targets.first()
    network = _Network(targets, quotas, chosen)
    gap, more = network.solve()
    before: int | None = None
    while gap * _GAP > network.objective:
        if before is not None and (before - network.objective) * _GAIN <= network.objective:
            break
        before = network.objective
        chosen |= more
        network = _Network(targets, quotas, chosen)
        gap, more = network.solve()
    return network.read()


def unscheduled_us(total_us: Int64s, free: Bools, last_wait_us: int = 0) -> int:
    """The time that not being scheduled counts as, the same for all classes: more than any free place costs. So a task
    that can go goes, among equal weights the short before the long; only where its place saves a heavier task more
    than it would gain itself does a light one wait a round.
    """
    return 2 * int(np.where(free, total_us, 0).max(initial=0)) + last_wait_us + 1_000_000


class _Network:
    """Builds the arrays, solves, and reads the flow back. Use once."""

    def __init__(self, targets: Targets, quotas: tuple[Quota, ...], chosen: Bools) -> None:
        self._targets, self._quotas, self._chosen = targets, quotas, chosen
        self._slots, self._offered, self._n_groups = targets.slots, targets.offered, targets.columns.n_groups
        self._n_nodes = self._n_arcs = 0
        self._blocks: list[tuple[Int64s, Int64s | int, Int64s | int, Int64s | int]] = []
        self._supply: dict[int, int] = {}  # node → slots

    def solve(self) -> tuple[int, Bools]:
        """How much the targets left out can improve the objective at most, and those that could, best first."""
        n_classes = len(self._offered.classes)
        self._sink = self._nodes(1)
        self._class = self._nodes(n_classes)
        self._group = self._nodes(len(self._slots.now))
        groups = np.flatnonzero(self._slots.now)
        self._arcs(self._group + groups, self._sink, self._slots.now[groups], 0)
        self._routes = self._find_routes()
        self._waves()
        self._link_arcs(self._routes)
        self._taken = self._route_arcs(self._routes)
        self._unscheduled()
        result, shift = self._run()
        assert result.status == "optimal" and result.objective is not None, result.status
        self._flow, self._kernel = result.flow, result.kernel
        self.objective = result.objective << shift
        potential = result.potential
        gap, more = self._targets.price(
            self._chosen,
            shift,
            potential[self._class : self._class + n_classes],
            potential[self._group : self._group + len(self._slots.now)],
            int(potential[self._sink]),
        )
        return gap << shift, more

    # --- building ----------------------------------------------------------------------------------------------------

    def _nodes(self, count: int) -> int:
        """The first of `count` new nodes."""
        first, self._n_nodes = self._n_nodes, self._n_nodes + count
        return first

    def _arcs(self, tail: Int64s, head: Int64s | int, capacity: Int64s | int, cost: Int64s | int) -> int:
        """The first of new arcs, one for each tail."""
        self._blocks.append((tail, head, capacity, cost))
        first, self._n_arcs = self._n_arcs, self._n_arcs + len(tail)
        return first

    def _find_routes(self) -> _Routes:
        targets, n_groups = self._targets, self._n_groups
        a, target = np.nonzero(self._chosen)
        resource = targets.resource[a]
        whole = target >= n_groups
        kind = np.where(whole, target - n_groups, UNKNOWN)
        group, node = target, self._group + resource * n_groups + target
        n_kinds = len(targets.kinds)
        kind_node = self._kind_nodes(np.unique((resource * n_kinds + kind)[whole]))
        if n_kinds:
            group = np.where(whole, targets.stands[a, kind], target)
            node = np.where(whole, kind_node[resource * n_kinds + kind], node)
        b, w = np.nonzero(targets.waits)
        place = targets.resource[b] * n_groups + w
        self._wait_keys, wait = np.unique(place * len(targets.levels) + targets.level[b], return_inverse=True)
        self._wait = self._nodes(len(self._wait_keys))
        kind = np.concatenate([kind, np.where(targets.own[b, w], UNKNOWN, targets.columns.kind[w])])
        classes, group = np.concatenate([a, b]), np.concatenate([group, w])
        return _Routes(
            a=classes,
            group=group,
            node=np.concatenate([node, self._wait + wait]),
            room=np.concatenate([targets.room[a, target], targets.units[b]]),
            link=self._find_links(classes, group, kind),
        )

    def _kind_nodes(self, used: Int64s) -> Int64s:
        """[D·H] a node for each kind that is used, with arcs to its groups; UNKNOWN for the others."""
        kinds = self._targets.kinds
        node = np.full(self._targets.n_resources * len(kinds), UNKNOWN, np.int64)
        node[used] = self._nodes(len(used)) + np.arange(len(used))
        tails, heads = [_NONE], [_NONE]
        for key in used.tolist():
            resource, h = divmod(key, len(kinds))
            tails.append(np.full(len(kinds[h]), node[key]))
            heads.append(self._group + resource * self._n_groups + kinds[h])
        self._kind_tail, self._kind_head = np.concatenate(tails), np.concatenate(heads)
        self._kind_first = self._arcs(self._kind_tail, self._kind_head, UNLIMITED, 0)
        return node

    def _waves(self) -> None:
        """From each waiting node (group and level), arcs to that group's waves, later and dearer."""
        place, level = np.divmod(self._wait_keys, len(self._targets.levels))
        wave, n = np.nonzero(self._slots.wave[:, place] > 0)
        wave_keys, of = np.unique(place[n] * len(self._slots.wave) + wave, return_inverse=True)
        first = self._nodes(len(wave_keys))
        self._wave_wait_us = self._slots.wave_us[wave, place[n]]
        self._wave_tail = n
        cost = self._wave_wait_us * self._targets.level_weight[level[n]]
        self._wave_first = self._arcs(self._wait + n, first + of, UNLIMITED, cost)
        owner, which = np.divmod(wave_keys, max(1, len(self._slots.wave)))
        self._arcs(first + np.arange(len(wave_keys)), self._sink, self._slots.wave[which, owner], 0)

    def _route_arcs(self, routes: _Routes) -> Int64s:
        """An arc for each route, but only one for a class into a link, wherever that leads. The routes that have one,
        in the order of the arcs from `self._route_first` on."""
        n_links = len(self._link_in)
        number = np.arange(len(routes))
        straight = routes.link == UNKNOWN
        key = np.where(straight, len(self._targets.needs) * n_links + number, routes.a * n_links + routes.link)
        taken = np.sort(np.unique(key, return_index=True)[1])
        a, link, straight = routes.a[taken], routes.link[taken], straight[taken]
        entry = routes.node[taken]
        entry[~straight] = self._link_in[link[~straight]]
        cost = self._targets.weight[a] * self._targets.total_us[a, routes.group[taken]]
        room = np.where(straight, routes.room[taken], UNLIMITED)
        self._route_first = self._arcs(self._class + a, entry, room, cost)
        return taken

    # --- links -------------------------------------------------------------------------------------------------------

    def _find_links(self, a: Int64s, group: Int64s, kind: Int64s) -> Int64s:
        """The link each route loads. A link that a single task would load needs no node: nobody is in its way."""
        classes = self._offered.classes
        uplink = self._targets.costs.uplink[classes[a], group]
        target = np.where(kind == UNKNOWN, group, self._n_groups + kind)
        key = uplink
        for value, base in (
            (target, self._n_groups + len(self._targets.kinds)),
            (self._targets.resource[a], self._targets.n_resources),
            (self._targets.level[a], len(self._targets.levels)),
            (self._offered.may_wait[a].astype(np.int64), 2),
        ):
            key = key * base + value
        loads = np.flatnonzero(uplink != UNKNOWN)
        link = np.full(len(a), UNKNOWN, np.int64)
        if not len(loads):
            self._link_tasks = _NONE
            return link
        keys, of = np.unique(key[loads], return_inverse=True)
        # Each class counts once on a link, however many routes it has over it.
        _, once = np.unique(of * len(classes) + a[loads], return_index=True)
        tasks = np.bincount(of[once], weights=self._offered.tasks[a[loads][once]], minlength=len(keys))
        time_us = self._targets.costs.transfer_us[classes[a[loads]], group[loads]]
        weighed = self._offered.tasks[a[loads][once]] * time_us[once].astype(np.float64)
        mean_us = np.bincount(of[once], weights=weighed, minlength=len(keys)) / np.maximum(1, tasks)
        units = np.bincount(of[once], weights=self._targets.units[a[loads][once]], minlength=len(keys))
        shared = np.flatnonzero(tasks > 1)
        number = np.full(len(keys), UNKNOWN, np.int64)
        number[shared] = np.arange(len(shared))
        link[loads] = number[of]
        self._link_tasks = tasks[shared].astype(np.int64)
        self._link_mean_us = mean_us[shared].astype(np.int64)
        self._link_size = np.maximum(1, np.rint(units[shared] / np.maximum(1, tasks[shared]))).astype(np.int64)
        level = np.zeros(len(keys), np.int64)
        level[of] = self._targets.level[a[loads]]
        self._link_level = level[shared]
        return link

    def _link_arcs(self, routes: _Routes) -> None:
        """Two nodes a link with steps between them, and on from there to all its routes lead to."""
        n_links = len(self._link_tasks)
        self._link_in = self._nodes(n_links) + np.arange(n_links)
        if not n_links:
            self._link_exit, self._link_exits = self._n_arcs, np.zeros((0, 2), np.int64)
            return
        out = self._nodes(n_links) + np.arange(n_links)
        steps = np.searchsorted(_STEPS, self._link_tasks, side="left")
        of = np.repeat(np.arange(n_links), steps)
        step = np.arange(len(of)) - np.repeat(np.cumsum(steps) - steps, steps)
        width = np.minimum(_WIDTHS[step], self._link_tasks[of] - _STEPS[step])
        congestion_us = self._link_mean_us[of] * (2 * _STEPS[step] + width - 1) // 2
        congestion_us = np.minimum(congestion_us, TIME_US_MAX)
        first = self._arcs(
            self._link_in[of],
            out[of],
            width * self._link_size[of],
            congestion_us * self._targets.level_weight[self._link_level[of]],
        )
        self._step_first, self._step_starts, self._step_us = first, np.cumsum(steps) - steps, congestion_us
        loaded = np.flatnonzero(routes.link != UNKNOWN)
        pairs = np.unique(np.stack([routes.link[loaded], routes.node[loaded]], axis=1), axis=0)
        self._link_exit = self._arcs(out[pairs[:, 0]], pairs[:, 1], UNLIMITED, 0)
        self._link_exits = pairs

    # --- not scheduled, and quotas -----------------------------------------------------------------------------------

    def _unscheduled(self) -> None:
        """What a class pays for tasks that get nothing: by its weight, `unscheduled_us`. What is placed already pays
        what it costs to go on where it is, less the margin: this is its continuation arc (I. Gog, M. Schwarzkopf,
        A. Gleave, R. Watson and S. Hand, Firmament, OSDI 2016)."""
        last_wait_us = int(self._wave_wait_us.max(initial=0))
        waiting_us = unscheduled_us(self._targets.total_us, self._targets.free, last_wait_us)
        going_us = self._offered.going_us
        none_us = np.where(going_us == UNKNOWN, waiting_us, going_us)
        price = self._targets.weight * none_us
        supply = self._targets.units.copy()
        for root in [n for n, quota in enumerate(self._quotas) if quota.above == UNKNOWN]:
            self._quota_tree(root, price, supply)
        plain = np.flatnonzero(supply)
        self._supply.update(zip((self._class + plain).tolist(), supply[plain].tolist(), strict=True))
        self._arcs(self._class + plain, self._sink, UNLIMITED, price[plain])

    def _quota_tree(self, root: int, price: Int64s, supply: Int64s) -> None:
        """Let the classes below a quota draw from one source through its capacity. What the quota holds back leaves
        at the price of the dearest class, and each class is charged what its own price is below that."""
        quotas = self._quotas
        inside = [root]
        for n in range(root + 1, len(quotas)):
            if quotas[n].above in inside:
                inside.append(n)
        classes = np.array(sorted(a for n in inside for a in quotas[n].classes), np.int64)
        if not len(classes):
            return
        source = self._nodes(1 + len(inside))
        node = {n: source + 1 + m for m, n in enumerate(inside)}
        self._supply[source] = int(supply[classes].sum())
        supply[classes] = 0
        dearest = int(price[classes].max())
        self._arcs(np.array([source]), self._sink, UNLIMITED, dearest)
        for n in inside:
            above = source if n == root else node[quotas[n].above]
            self._arcs(np.array([above]), node[n], quotas[n].room, 0)
            below = np.array(quotas[n].classes, np.int64)
            self._arcs(
                np.full(len(below), node[n]), self._class + below, self._targets.units[below], dearest - price[below]
            )

    # --- solving and reading -----------------------------------------------------------------------------------------

    def _run(self) -> tuple[Result, int]:
        tail, head, capacity, cost = columns = np.empty((4, self._n_arcs), np.int64)
        at = 0
        for block in self._blocks:
            stop = at + len(block[0])
            for column, values in zip(columns, block, strict=True):
                column[at:stop] = values
            at = stop
        supply = np.zeros(self._n_nodes, np.int64)
        for node, units in self._supply.items():
            supply[node] = units
        supply[self._sink] = -supply.sum()
        shift = 0
        while 4 * (self._n_nodes + 1) * ((int(cost.max(initial=0)) >> shift) + 1) > POTENTIAL_MAX:
            shift += 1  # A coarser unit than the microsecond, where weights and times are beyond reason.
        return FlowNetwork(self._n_nodes, tail, head, capacity, cost >> shift, supply).solve(), shift

    def read(self) -> Flows:
        """Divide the flow over the classes. In links and waves all are alike: earlier classes get the better part."""
        flow, routes, taken = self._flow, self._routes, self._taken
        self._waiting = _Queues()  # waiting node → (wait_us, slots)
        self._waiting.fill(self._wait + self._wave_tail, self._wave_wait_us, flow[self._wave_first :])
        self._inside = _Queues()  # kind → (group's node, slots)
        self._inside.fill(self._kind_tail, self._kind_head, flow[self._kind_first :])
        exits = _Queues()  # link → (node, slots); what starts now comes first, its nodes being older
        exits.fill(self._link_exits[:, 0], self._link_exits[:, 1], flow[self._link_exit :])
        congestion_us = self._mean_congestion(flow)
        slots = flow[self._route_first : self._route_first + len(taken)]
        used = np.flatnonzero(slots)
        shares: list[Share] = []
        for n in used[np.argsort(routes.a[taken[used]], kind="stable")].tolist():
            a, link = int(routes.a[taken[n]]), int(routes.link[taken[n]])
            if link == UNKNOWN:
                shares += self._shares(a, int(routes.node[taken[n]]), int(slots[n]), 0)
            else:
                for node, part in exits.draw(link, int(slots[n])):
                    shares += self._shares(a, node, part, int(congestion_us[link]))
        now = tuple(replace(share, wait_us=0) for share in shares if share.wait_us == UNKNOWN)
        later = tuple(share for share in shares if share.wait_us != UNKNOWN)
        return Flows(now, later, self.objective, self._kernel, self._n_arcs)

    def _mean_congestion(self, flow: Int64s) -> Int64s:
        """What a slot pays on each link, on average."""
        if not len(self._link_in):
            return self._link_in
        first, starts = self._step_first, self._step_starts
        slots = flow[first : first + len(self._step_us)].astype(np.float64)
        paid = np.add.reduceat(slots * self._step_us, starts) / np.maximum(1, np.add.reduceat(slots, starts))
        mean: Int64s = paid.astype(np.int64)
        return mean

    def _shares(self, a: int, node: int, slots: int, congestion_us: int) -> list[Share]:
        """What `slots` of a class that enter at `node` come to."""
        if node < self._group + len(self._slots.now):
            return [Share(a, (node - self._group) % self._n_groups, slots, congestion_us, UNKNOWN)]
        if node < self._wait:
            return [
                share
                for group, part in self._inside.draw(node, slots)
                for share in self._shares(a, group, part, congestion_us)
            ]
        drawn = self._waiting.draw(node, slots)
        wait_us = sum(wait * part for wait, part in drawn) // max(1, sum(part for _, part in drawn))
        place = int(self._wait_keys[node - self._wait]) // len(self._targets.levels)
        return [Share(a, place % self._n_groups, slots, congestion_us, wait_us)]


class _Queues:
    """For each key, values with amounts, given out in the order of the rows that brought them."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[tuple[int, int]]] = {}

    def fill(self, keys: Int64s, values: Int64s, amounts: Int64s) -> None:
        for n in np.flatnonzero(amounts[: len(keys)]).tolist():
            self._queues.setdefault(int(keys[n]), deque()).append((int(values[n]), int(amounts[n])))

    def draw(self, key: int, amount: int) -> list[tuple[int, int]]:
        """`amount` from the front of a queue, which holds that much."""
        drawn: list[tuple[int, int]] = []
        queue = self._queues[key]
        while amount:
            value, there = queue.popleft()
            part = min(amount, there)
            drawn.append((value, part))
            amount -= part
            if part < there:
                queue.appendleft((value, there - part))
        return drawn

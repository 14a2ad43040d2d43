"""Where each class could start now, and which of it is worth putting into the network.

All pairs of classes and places would make the network large; nearly all of them are dear and stay empty. So it begins
with the cheapest places of each class and is priced: with the potentials of the optimum over those, a pair left out
whose reduced cost is not negative cannot improve it. Pairs that could are added and the network solved again, until
there are none. What remains is the optimum over all pairs.

Axes: A active classes; T targets, first the G groups, then the H kinds of groups; D kinds of resources.
"""

from dataclasses import dataclass

import numpy as np

from policies.cost import FREE, Costs, weight
from policies.kernels.greedy import spread, take_turns
from policies.lower import TIME_US_MAX, UNKNOWN, Bools, Columns, Int64s
from policies.slots import Slots

WAIT_GROUPS = 4  # a class may plan to wait for its so many best groups
_FIRST = 4  # cheapest targets of a class to begin with, beside those a greedy pass would fill
_SPREAD = 48  # targets among which a class's tasks are spread over links to begin with
_MORE = 24  # targets of a class that one pricing adds


@dataclass(frozen=True, slots=True)
class Offered:
    """What is to be placed. A are the active classes, each with at least one task."""

    classes: Int64s  # [A] → C
    tasks: Int64s  # [A]
    may_wait: Bools  # [A] gangs may not: they start together or not at all
    open: Bools  # [C, G] False where an earlier attempt of this round failed
    going_us: Int64s  # [A] what placing a placed task anew must not cost more than; UNKNOWN for those that wait


class Targets:
    """The ways of every active class to capacity; see the module."""

    def __init__(self, columns: Columns, costs: Costs, slots: Slots, offered: Offered) -> None:
        self.columns, self.costs, self.slots, self.offered = columns, costs, slots, offered
        classes = offered.classes
        self.needs = columns.needs_of[classes]
        self.size = slots.shapes.size[self.needs]
        self.resource = slots.shapes.kind[self.needs]  # [A] → D, the kind of resource it fills
        self.n_resources = slots.shapes.n_kinds
        self.units = offered.tasks * self.size
        self.levels, self.level = np.unique(costs.level[classes], return_inverse=True)
        self.level_weight = np.array([weight(int(each)) for each in self.levels], np.int64)
        self.weight = self.level_weight[self.level]
        self.total_us = costs.total_us[classes]
        self.free: Bools = (costs.obstacle[classes] == FREE) & offered.open[classes]
        self.kinds = [np.flatnonzero(columns.kind == h) for h in range(int(columns.kind.max(initial=-1)) + 1)]
        first_us = np.where(slots.wave > 0, slots.wave_us, TIME_US_MAX).min(axis=0, initial=TIME_US_MAX)
        self._first_wait_us = first_us.reshape(self.n_resources, columns.n_groups)[self.resource]
        self.own, self.stands = self._split_kinds()
        self.waits = self._choose_waits()
        self._order = np.argsort(columns.kind, kind="stable")
        self._starts = np.searchsorted(columns.kind[self._order], np.arange(len(self.kinds)))
        self.room = self._rooms()
        self.valid: Bools = self.room > 0
        of_kind = np.take_along_axis(self.total_us, np.maximum(self.stands, 0), axis=1) if self.kinds else self.stands
        self.cost_us = np.concatenate([self.total_us, of_kind], axis=1)

    def _split_kinds(self) -> tuple[Bools, Int64s]:
        """Which (class, group) pairs need a way of their own [A, G], and a group that stands for the others of each
        kind [A, H].

        A kind serves the class when none of its groups is closed to it; groups that cost the class less than the
        kind's dearest (they hold its data) keep a way of their own.
        """
        kind, n_groups = self.columns.kind, self.columns.n_groups
        if not n_groups:
            return self.free, np.zeros((len(self.needs), 0), np.int64)
        order = np.argsort(kind, kind="stable")
        starts = np.searchsorted(kind[order], np.arange(len(self.kinds)))
        single = np.array([len(groups) == 1 for groups in self.kinds], np.bool_)
        split = np.logical_or.reduceat(~self.free[:, order], starts, axis=1) | single
        dearest = np.maximum.reduceat(self.total_us[:, order], starts, axis=1)
        own: Bools = self.free & (split[:, kind] | (self.total_us < dearest[:, kind]))
        number = np.where(self.free & ~own, np.arange(n_groups), n_groups)
        stands = np.minimum.reduceat(number[:, order], starts, axis=1)
        return own, np.where(stands < n_groups, stands, UNKNOWN)

    def _choose_waits(self) -> Bools:
        """Where each class may plan to wait: its cheapest groups with later capacity that it fits. [A, G]"""
        allowed: Bools = self.free & self.slots.later[self.needs] & self.offered.may_wait[:, None]
        allowed &= self._first_wait_us < TIME_US_MAX
        if not allowed.any():
            return allowed
        when = np.where(allowed, self.total_us + self._first_wait_us, 4 * TIME_US_MAX)
        best = np.argsort(when, axis=1, kind="stable")[:, :WAIT_GROUPS]
        chosen = np.zeros_like(allowed)
        chosen[np.arange(len(best))[:, None], best] = True
        chosen &= allowed
        return chosen

    def _rooms(self) -> Int64s:
        """Slots each target has for the class alone, no more than it wants; 0 where it is none for it. [A, T]"""
        tasks = self.slots.tasks[self.needs]
        if not self.kinds:
            return np.zeros_like(tasks)
        of_kind = np.add.reduceat(tasks[:, self._order], self._starts, axis=1)
        room = np.concatenate([tasks * self.own, of_kind * (self.stands != UNKNOWN)], axis=1) * self.size[:, None]
        bounded: Int64s = np.minimum(room, self.units[:, None])
        return bounded

    def first(self) -> Bools:
        """The cheapest targets of each class, and those it would get if classes took turns and no link were shared."""
        cost = np.where(self.valid, self.cost_us, 4 * TIME_US_MAX)
        ranks = np.argsort(cost, axis=1, kind="stable")
        chosen = np.zeros_like(self.valid)
        chosen[np.arange(len(ranks))[:, None], ranks[:, :_FIRST]] = True
        self._spread(chosen, ranks[:, :_SPREAD])
        left = self.slots.now.reshape(self.n_resources, -1)
        if self.kinds:
            left = np.concatenate([left, np.add.reduceat(left[:, self._order], self._starts, axis=1)], axis=1)
            bounds = np.append(self._starts, self.columns.n_groups)
            of_groups = self.columns.kind, self._order, bounds
            take_turns(ranks, self.room, self.units, self.resource, *of_groups, left, chosen)
        chosen &= self.valid
        return chosen

    def _spread(self, chosen: Bools, ranks: Int64s) -> None:
        """Over links that others load too, each further task of a class costs one more transfer: choose the targets
        that are then no dearer than where its last task goes."""
        classes = self.offered.classes
        first = np.maximum(ranks, 0)
        group = np.where(first < self.columns.n_groups, first, 0)
        if self.kinds:
            whole = np.maximum(first - self.columns.n_groups, 0)
            group = np.where(first < self.columns.n_groups, group, np.take_along_axis(self.stands, whole, axis=1))
        group = np.maximum(group, 0)
        uplink = self.costs.uplink[classes[:, None], group]
        of_link = np.bincount((uplink[:, 0] + 1), weights=self.offered.tasks, minlength=len(self.costs.uplinks) + 1)
        crowd = np.maximum(1.0, of_link[uplink + 1] / self.offered.tasks[:, None])
        step_us = np.where(uplink == UNKNOWN, 0.0, self.costs.transfer_us[classes[:, None], group] * crowd)
        rows = np.arange(len(ranks))[:, None]
        room = self.room[rows, ranks] // self.size[:, None]
        spread(np.ascontiguousarray(ranks), self.cost_us[rows, ranks], step_us, room, self.offered.tasks, chosen)

    def price(self, chosen: Bools, shift: int, of_class: Int64s, of_group: Int64s, sink: int) -> tuple[int, Bools]:
        """How much the targets left out can improve the optimum over `chosen` at most, and the most promising of each
        class. Potentials by class and group; costs in the network were shifted right by `shift`.

        Each slot of a class takes one target, so the bound is the sum over classes of slots × least reduced cost. A
        group with room to spare is worth what the sink is; a kind is worth its best group.
        """
        worth = np.minimum(of_group, sink).reshape(self.n_resources, -1)
        if self.kinds:
            of_kind = np.maximum.reduceat(worth[:, self._order], self._starts, axis=1)
            worth = np.concatenate([worth, of_kind], axis=1)
        reduced = (self.weight[:, None] * self.cost_us) >> shift
        reduced += of_class[:, None]
        reduced -= worth[self.resource]
        added = (reduced < 0) & self.valid & ~chosen
        gap = -sum(
            int(units) * int(least)
            for units, least in zip(self.units, np.where(added, reduced, 0).min(axis=1, initial=0), strict=True)
        )
        crowded = np.flatnonzero(added.sum(axis=1) > _MORE)
        if len(crowded):
            rank = np.argsort(np.where(added[crowded], reduced[crowded], 0), axis=1, kind="stable")[:, :_MORE]
            best = np.zeros((len(crowded), added.shape[1]), np.bool_)
            best[np.arange(len(crowded))[:, None], rank] = True
            added[crowded] &= best
        return gap, added

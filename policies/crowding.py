"""Transfers of one round that leave a site over different ways and meet in a bottleneck that nobody declared.

The flow network prices what shares one way: transfers from one site to one group of agents. Ways that part behind a
shared uplink would need a node in which their flows meet and then go on each to where it was meant for, and one
commodity forgets that. So a round over such ways is solved again with what the others would take of the uplink on its
arcs, by the mean of the solutions so far (fictitious play: G. W. Brown, Iterative Solution of Games by Fictitious Play,
1951; it converges where all share one cost: D. Monderer and L. Shapley, Fictitious Play Property for Games with
Identical Interests, Journal of Economic Theory 68, 1996). Of all solutions the one with the least total counts.
"""

from dataclasses import replace

import numpy as np

from policies.cost import Costs
from policies.lower import TIME_US_MAX, Columns, Int64s

TURNS_MAX = 3  # solutions more

Placed = dict[tuple[int, int], list[int]]
"""(class, node) → [tasks, congestion_us]"""
Loads = dict[tuple[int, str], tuple[int, int]]
"""(uplink, site beyond it) → transfers, and the µs that they take one by one"""


class Crowd:
    """The shared uplinks of a round."""

    def __init__(self, columns: Columns, priced: Costs) -> None:
        self._columns, self._priced = columns, priced
        number = {site: n for n, site in enumerate(priced.uplinks)}
        self._beyond = {
            number[each.from_site]: set(each.to_sites)
            for each in columns.snapshot.bottlenecks
            if each.from_site in number
        }
        self._site = [columns.snapshot.nodes[n].site for n in columns.first.tolist()]

    def loads(self, placed: Placed) -> Loads:
        found: Loads = {}
        for c, g, count in self._counts(placed):
            uplink = int(self._priced.uplink[c, g])
            if uplink in self._beyond and self._site[g] in self._beyond[uplink]:
                n, us = found.get((uplink, self._site[g]), (0, 0))
                found[uplink, self._site[g]] = n + count, us + count * int(self._priced.transfer_us[c, g])
        return found

    def is_shared(self, loads: Loads) -> bool:
        """Whether two ways over one uplink are used."""
        uplinks = [uplink for uplink, _ in loads]
        return len(uplinks) > len(set(uplinks))

    def waits(self, loads: Loads) -> Int64s:
        """[C, G] how much longer a transfer takes by those over the uplink's other ways: each takes its share as long
        as it goes, and so delays another by no more than that one's own time."""
        out = np.zeros_like(self._priced.transfer_us)
        for g, site in enumerate(self._site):
            for uplink, beyond in self._beyond.items() if site else ():
                if site not in beyond:
                    continue
                others = [load for (of, to), load in loads.items() if of == uplink and to != site]
                n, us = sum(n for n, _ in others), sum(us for _, us in others)
                own_us = self._priced.transfer_us[:, g]
                wait_us = np.minimum(us, n * np.minimum(own_us, TIME_US_MAX // max(1, n)))
                out[:, g] = np.where(self._priced.uplink[:, g] == uplink, wait_us, 0)
        return out

    def crowded(self, loads: Loads) -> Costs:
        """The costs with these waits in the time that data take."""
        waits = self.waits(loads)
        return replace(
            self._priced,
            transfer_us=np.minimum(self._priced.transfer_us + waits, TIME_US_MAX),
            total_us=np.minimum(self._priced.total_us + waits, TIME_US_MAX),
        )

    def total_us(self, placed: Placed) -> tuple[int, int]:
        """Tasks that are placed, in negative, and what they cost: the less, the better."""
        waits = self.waits(self.loads(placed))
        total_us = tasks = 0
        for (c, n), (count, congestion_us) in placed.items():
            g = int(self._columns.group[n])
            tasks += count
            total_us += count * (int(self._priced.total_us[c, g]) + congestion_us + int(waits[c, g]))
        return -tasks, total_us

    def _counts(self, placed: Placed) -> list[tuple[int, int, int]]:
        group = self._columns.group
        return [(c, int(group[n]), count) for (c, n), (count, _) in placed.items()]


def mean(turns: list[Loads]) -> Loads:
    """Of the loads of some solutions."""
    out: Loads = {}
    for key in {key for loads in turns for key in loads}:
        some = [loads.get(key, (0, 0)) for loads in turns]
        out[key] = sum(n for n, _ in some) // len(turns), sum(us for _, us in some) // len(turns)
    return dict(sorted(out.items()))

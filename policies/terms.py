"""Cost terms of the operator's own: the small plug-in, for those to whom `flow` is right but for one thing.

A term is a function

```
def carbon(demand: Demand, node: Node, link: Link | None, forecast: Forecast) -> int
```

that says what one task of a demand costs on an agent, as a whole number of microseconds: one microsecond is what
finishing one later costs. It is asked once for each demand class and group of like agents, `node` being one of the
group; so it may look at the site, tier, hardware, speed and price of `node`, and at labels and links that some demand
asks for, but not at what tells like agents apart. `link` is the measured link over which most of the data comes, None
when the data is there or nobody measured.

Terms register in the entry-point group `offerflow.costs` and are switched on in the config with a weight; 1000 is one:

```toml
[costs]
carbon = 3000
```

Costs below zero are taken as 0, as the flow needs. What a term raises fails the round, as anything a policy raises.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import NamedTuple

import numpy as np

from policies.cost import FREE, Costs
from policies.lower import TIME_US_MAX, UNKNOWN, Columns, clip
from policies.model import Demand, Link, Node

GROUP = "offerflow.costs"


class Forecast(NamedTuple):
    """What is expected of one task there: the policy's own estimates."""

    transfer_us: int
    run_us: int


Term = Callable[[Demand, Node, Link | None, Forecast], int]


class WeightedTerm(NamedTuple):
    name: str
    term: Term
    weight_milli: int


def load_terms(weights: Mapping[str, int]) -> tuple[WeightedTerm, ...]:
    """The terms named in the config, sorted by name. Raises ValueError that names the known ones."""
    points = {point.name: point for point in entry_points(group=GROUP)}
    found: list[WeightedTerm] = []
    for name, weight_milli in sorted(weights.items()):
        if name not in points:
            close = get_close_matches(name, points, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise ValueError(f"no cost term is called {name!r}{hint} Known: {', '.join(sorted(points)) or 'none'}.")
        try:
            found.append(WeightedTerm(name, points[name].load(), weight_milli))
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the cost term {name!r} ({points[name].value}) does not load: {error}") from error
    return tuple(found)


def with_terms(columns: Columns, priced: Costs, terms: tuple[WeightedTerm, ...]) -> Costs:
    """The costs with the terms added. Time: a call for each class, group and term where nothing forbids the group."""
    links = {(link.from_id, link.to_id): link for link in columns.snapshot.links}
    heads = [columns.snapshot.nodes[n] for n in columns.first.tolist()]
    extra_us = np.zeros(priced.total_us.shape, np.int64)
    for c, g in np.argwhere(priced.obstacle == FREE).tolist():
        demand, node, link = columns.snapshot.demands[c], heads[g], None
        if priced.uplink[c, g] != UNKNOWN:
            from_site = f"site:{priced.uplinks[priced.uplink[c, g]]}"
            link = links.get((from_site, f"agent:{node.agent_id}")) or links.get((from_site, f"site:{node.site}"))
        forecast = Forecast(int(priced.transfer_us[c, g]), int(priced.run_us[c, g]))
        extra_us[c, g] = sum(
            clip(term(demand, node, link, forecast) * weight_milli // 1000, TIME_US_MAX)
            for _, term, weight_milli in terms
        )
    extra_us = np.minimum(extra_us, TIME_US_MAX)
    return replace(priced, extra_us=extra_us, total_us=np.minimum(priced.total_us + extra_us, TIME_US_MAX))

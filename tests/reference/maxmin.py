"""Weighted max-min fair rates the obvious way: raise everything from zero, one level after the other, each time."""

from collections.abc import Sequence

ONE = 1 << 22

Flow = tuple[Sequence[int], int, int]  # links crossed, own limit bit/s, weight


def rates(capacities: Sequence[int], flows: Sequence[Flow]) -> list[int]:
    """Integer rates as defined in `policies/kernels/maxmin.py`. A link that one flow has for itself is that flow's own
    bound and no more."""
    users = [[f for f, (path, _, _) in enumerate(flows) if link in path] for link in range(len(capacities))]
    bounds = [min([limit, *(capacities[link] for link in path)]) for path, limit, _ in flows]
    got: dict[int, int] = {}
    while len(got) < len(flows):
        rising = [f for f in range(len(flows)) if f not in got]
        stops = {f: -(-bounds[f] * ONE // flows[f][2]) for f in rising}
        fills: dict[int, int] = {}
        for link, capacity in enumerate(capacities):
            weight = sum(flows[f][2] for f in users[link] if f not in got)
            if len(users[link]) > 1 and weight:
                fills[link] = (capacity - sum(got.get(f, 0) for f in users[link])) * ONE // weight
        level = min([*stops.values(), *fills.values()])
        full = {link for link, at in fills.items() if at == level}
        for f in rising:
            path, _, weight = flows[f]
            if stops[f] == level or not full.isdisjoint(path):
                got[f] = min(bounds[f], level * weight // ONE)
    return [got[f] for f in range(len(flows))]

"""Network platforms and workloads for the network model and its competitor: the same links, routes and flows for both.

Hosts have between 100 Mbit/s and 10 Gbit/s each way and 50 µs to 20 ms of latency; everything comes from a seed.
"""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from scenarios.network import LinkSpec

ACCESS_MBIT = (100, 200, 500, 1000, 2500, 10_000)
SIZE_BYTES = (1_000_000, 100_000_000)


class Transfer(NamedTuple):
    at_us: int
    path: tuple[str, ...]
    from_host: int
    to_host: int
    size_bytes: int


class Platform(NamedTuple):
    """Directed links, and the links on the way from one host to another."""

    name: str
    links: dict[str, LinkSpec]
    n_hosts: int
    route: Callable[[int, int], tuple[str, ...]]

    def transfers(self, n: int, window_us: int, seed: int) -> list[Transfer]:
        """`n` flows between random hosts that begin within `window_us`, by time."""
        source = random.Random(f"{self.name}/{n}/{seed}")
        made = []
        for _ in range(n):
            from_host, to_host = source.sample(range(self.n_hosts), 2)
            path = self.route(from_host, to_host)
            at_us, size_bytes = source.randint(0, window_us), source.randint(*SIZE_BYTES)
            made.append(Transfer(at_us, path, from_host, to_host, size_bytes))
        return sorted(made)


def platform(name: str, n_hosts: int) -> Platform:
    return {"star": star, "tree": tree, "dumbbell": dumbbell, "random": random_graph}[name](n_hosts)


NAMES = ("star", "tree", "dumbbell", "random")


def star(n_hosts: int) -> Platform:
    """Each host by a link up and a link down to a core without limits."""
    links = _access(n_hosts, random.Random(f"star/{n_hosts}"))
    return Platform("star", links, n_hosts, lambda a, b: (f"up-{a}", f"down-{b}"))


def tree(n_hosts: int, fan_out: int = 10) -> Platform:
    """Racks of ten hosts, ten racks a row, rows on a root; each level has room for half of what is below."""
    source = random.Random(f"tree/{n_hosts}")
    links = _access(n_hosts, source)
    for level, below in (("rack", fan_out), ("row", fan_out**2)):
        for number in range(-(-n_hosts // below)):
            spec = _link(source.randint(50, 200), 500 * below)
            links |= {f"{level}-up-{number}": spec, f"{level}-down-{number}": spec}

    def route(a: int, b: int) -> tuple[str, ...]:
        way: tuple[str, ...] = (f"up-{a}", f"down-{b}")
        for level, below in (("rack", fan_out), ("row", fan_out**2)):
            if a // below == b // below:
                break
            middle = len(way) // 2
            way = (*way[:middle], f"{level}-up-{a // below}", f"{level}-down-{b // below}", *way[middle:])
        return way

    return Platform("tree", links, n_hosts, route)


def dumbbell(n_hosts: int) -> Platform:
    """Two halves with one link between them each way: where everything meets."""
    links = _access(n_hosts, random.Random(f"dumbbell/{n_hosts}"))
    links |= {f"waist-{way}": _link(10_000, 10_000) for way in ("there", "back")}

    def route(a: int, b: int) -> tuple[str, ...]:
        half = n_hosts // 2
        if (a < half) == (b < half):
            return (f"up-{a}", f"down-{b}")
        return (f"up-{a}", "waist-there" if a < half else "waist-back", f"down-{b}")

    return Platform("dumbbell", links, n_hosts, route)


def random_graph(n_hosts: int, degree: int = 3) -> Platform:
    """Hosts on the routers of a random connected graph, routed over the fewest hops."""
    source = random.Random(f"random/{n_hosts}")
    n_routers = max(4, n_hosts // 5)
    links = _access(n_hosts, source)
    near: dict[int, set[int]] = {router: set() for router in range(n_routers)}
    for router in range(1, n_routers):  # a tree first, so that it is connected
        other = source.randrange(router)
        near[router].add(other)
        near[other].add(router)
    for _ in range(n_routers * (degree - 2)):
        a, b = source.sample(range(n_routers), 2)
        near[a].add(b)
        near[b].add(a)
    for a in range(n_routers):
        for b in sorted(near[a]):
            links[f"core-{a}-{b}"] = _link(source.randint(500, 10_000), source.choice((1000, 2500, 10_000)))
    parents: dict[int, dict[int, int]] = {}

    def toward(root: int) -> dict[int, int]:
        """The next router on the way to `root`, breadth first."""
        found = {root: root}
        queue = [root]
        for router in queue:
            for other in sorted(near[router]):
                if other not in found:
                    found[other] = router
                    queue.append(other)
        return found

    def route(a: int, b: int) -> tuple[str, ...]:
        here, there = a % n_routers, b % n_routers
        if there not in parents:
            parents[there] = toward(there)
        steps = parents[there]
        way = [f"up-{a}"]
        while here != there:
            way.append(f"core-{here}-{steps[here]}")
            here = steps[here]
        return (*way, f"down-{b}")

    return Platform("random", links, n_hosts, route)


def described(platform: Platform, transfers: list[Transfer], options: dict[str, Any]) -> dict[str, Any]:
    """A platform and its flows as plain data, for a program that knows nothing of ours."""
    links = {name: [spec.bandwidth_bps / 8, spec.rtt_us / 2e6] for name, spec in platform.links.items()}
    flows = [[t.at_us / 1e6, t.from_host, t.to_host, t.size_bytes] for t in transfers]
    routes = {(t.from_host, t.to_host): t.path for t in transfers}
    return {
        "links": links,
        "n_hosts": platform.n_hosts,
        "routes": [[a, b, path] for (a, b), path in routes.items()],
        "flows": flows,
        **options,
    }


def _access(n_hosts: int, source: random.Random) -> dict[str, LinkSpec]:
    links: dict[str, LinkSpec] = {}
    for host in range(n_hosts):
        spec = _link(source.randint(100, 40_000), source.choice(ACCESS_MBIT))
        links |= {f"up-{host}": spec, f"down-{host}": spec}
    return links


def _link(rtt_us: int, mbit: int) -> LinkSpec:
    return LinkSpec(rtt_us=rtt_us, bandwidth_bps=mbit * 1_000_000)

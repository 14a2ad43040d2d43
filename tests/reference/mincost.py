"""Min-cost flow the obvious way: route what can be routed, then cancel negative cycles one by one."""

from collections import deque

UNBOUNDED_AMOUNT = 10**15  # More than any test's supplies and capacities together.


def _residual(arcs: list[tuple[int, int, int, int]], flow: list[int]) -> list[tuple[int, int, int, int, int]]:
    """(from, to, room, cost, arc) with arc = index, or ~index for taking flow back."""
    out = []
    for index, (tail, head, capacity, cost) in enumerate(arcs):
        if flow[index] < capacity:
            out.append((tail, head, capacity - flow[index], cost, index))
        if flow[index] > 0:
            out.append((head, tail, flow[index], -cost, ~index))
    return out


def _push(flow: list[int], path: list[tuple[int, int, int, int, int]], amount: int) -> None:
    for *_, arc in path:
        if arc >= 0:
            flow[arc] += amount
        else:
            flow[~arc] -= amount


def _path(residual: list[tuple[int, int, int, int, int]], source: int, sink: int) -> list[tuple[int, ...]] | None:
    """A path with the fewest arcs, or None."""
    came: dict[int, tuple[int, ...]] = {source: ()}
    queue = deque([source])
    while queue:
        node = queue.popleft()
        for step in residual:
            if step[0] == node and step[1] not in came:
                came[step[1]] = step
                queue.append(step[1])
    if sink not in came:
        return None
    path = []
    while sink != source:
        path.append(came[sink])
        sink = came[sink][0]
    return path


def _negative_cycle(n_nodes: int, residual: list[tuple[int, int, int, int, int]]) -> list[tuple[int, ...]] | None:
    """Bellman and Ford, every node at distance 0."""
    distance, came = [0] * n_nodes, [None] * n_nodes
    touched = None
    for _ in range(n_nodes):
        touched = None
        for step in residual:
            if distance[step[0]] + step[3] < distance[step[1]]:
                distance[step[1]] = distance[step[0]] + step[3]
                came[step[1]] = step
                touched = step[1]
    if touched is None:
        return None
    for _ in range(n_nodes):
        touched = came[touched][0]
    cycle, node = [], touched
    while True:
        cycle.append(came[node])
        node = came[node][0]
        if node == touched:
            return cycle


def solve(
    n_nodes: int, arcs: list[tuple[int, int, int | None, int]], supply: list[int]
) -> tuple[str, int | None, list[int]]:
    """(status, objective, flow) for arcs (tail, head, capacity or None, cost) and balanced supplies."""
    ends = [(n_nodes, v, amount, 0) for v, amount in enumerate(supply) if amount > 0]
    ends += [(v, n_nodes + 1, -amount, 0) for v, amount in enumerate(supply) if amount < 0]
    real = [(t, h, UNBOUNDED_AMOUNT if capacity is None else capacity, cost) for t, h, capacity, cost in arcs]
    whole = real + ends
    flow = [0] * len(whole)
    while path := _path(_residual(whole, flow), n_nodes, n_nodes + 1):
        _push(flow, path, min(step[2] for step in path))
    flow_real = flow[: len(real)]
    if sum(flow[len(real) :]) != sum(abs(amount) for amount in supply):
        return "infeasible", None, flow_real
    while cycle := _negative_cycle(n_nodes, _residual(real, flow_real)):
        amount = min(step[2] for step in cycle)
        if amount > UNBOUNDED_AMOUNT // 2:
            return "unbounded", None, flow_real
        _push(flow_real, cycle, amount)
    return "optimal", sum(f * arc[3] for f, arc in zip(flow_real, real, strict=True)), flow_real

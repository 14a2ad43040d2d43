"""Read DIMACS `min` problems, and the deltas of ../shared/mcf (see ../shared/traces/INDEX.md)."""

from pathlib import Path
from typing import NamedTuple


class Problem(NamedTuple):
    """Columns of a network, node ids from 0."""

    n_nodes: int
    tail: list[int]
    head: list[int]
    capacity: list[int]
    cost: list[int]
    supply: list[int]


def rows(path: Path) -> list[list[str]]:
    """The fields of every line that is no comment."""
    lines = (line.split() for line in path.read_text().splitlines())
    return [fields for fields in lines if fields and fields[0] != "c"]


def read(path: Path) -> Problem:
    """A whole problem. Lower bounds must be 0."""
    problem = Problem(0, [], [], [], [], [])
    for kind, *fields in rows(path):
        if kind == "p":
            n_nodes = int(fields[1])
            problem = Problem(n_nodes, [], [], [], [], [0] * n_nodes)
        elif kind == "n":
            problem.supply[int(fields[0]) - 1] = int(fields[1])
        elif kind == "a":
            tail, head, low, high, cost = map(int, fields)
            assert low == 0
            problem.tail.append(tail - 1)
            problem.head.append(head - 1)
            problem.capacity.append(high)
            problem.cost.append(cost)
    return problem

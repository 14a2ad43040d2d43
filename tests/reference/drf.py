"""Weighted hierarchical DRF as one would say it: objects, sorting, no cleverness. The oracle of the kernel `drf`."""

from dataclasses import dataclass, field

Amounts = list[int]


@dataclass
class Node:
    path: str
    weight: int = 1
    limit: Amounts | None = None
    guarantee: Amounts = field(default_factory=lambda: [0, 0, 0, 0])
    children: list["Node"] = field(default_factory=list)
    parent: "Node | None" = None
    allocated: Amounts = field(default_factory=lambda: [0, 0, 0, 0])
    grants: int = 0
    gpus: Amounts = field(default_factory=lambda: [0, 0])  # of them, by class
    is_client: bool = False
    takes_gpus: bool = True
    takes_revocable: bool = True
    admitted: set[int] | None = None  # agents; None: all
    refused: list[tuple[int, Amounts]] = field(default_factory=list)  # (agent, amounts)
    leasts: list[Amounts] = field(default_factory=list)  # an offer holds all of one of them

    def chain(self) -> list["Node"]:
        return [self] + (self.parent.chain() if self.parent else [])


@dataclass
class Item:
    agent: int
    free: Amounts
    root: Node
    has_gpus: bool = False
    revocable: bool = False
    gpus: Amounts = field(default_factory=list)  # the class of each free one, as they are given


def share(node: Node, whole: Amounts) -> int:
    """`whole`: CPU, memory, disk, then the GPUs of each class."""
    parts = [0]
    for have, total in zip([*node.allocated[:3], *node.gpus], whole, strict=True):
        if total > 0:
            shift = max(0, total.bit_length() - 31)
            parts.append(((have >> shift) << 30) // (total >> shift))
    return (max(parts) << 20) // node.weight


def clients_in_order(node: Node, whole: Amounts) -> list[Node]:
    if node.is_client:
        return [node]
    ordered = sorted(node.children, key=lambda child: (share(child, whole), child.grants, child.path))
    return [client for child in ordered for client in clients_in_order(child, whole)]


def offered(item: Item, client: Node, is_first: bool, spare: Amounts | None, least: tuple[int, int]) -> Amounts | None:
    if (item.has_gpus and not client.takes_gpus) or (item.revocable and not client.takes_revocable):
        return None
    if client.admitted is not None and item.agent not in client.admitted:
        return None
    out = list(item.free)
    for node in client.chain():
        if node.limit is not None:
            for k, limit in enumerate(node.limit):
                if limit >= 0:
                    out[k] = min(out[k], max(0, limit - node.allocated[k]))
    if is_first:
        short = [n for n in client.chain() if any(g > a for g, a in zip(n.guarantee, n.allocated, strict=True))]
        if not short:
            return None
        for k in range(4):
            if short[0].guarantee[k] > 0:
                out[k] = min(out[k], max(0, short[0].guarantee[k] - short[0].allocated[k]))
    elif spare is not None and item.root.parent is None:
        out = [min(have, max(0, left)) for have, left in zip(out, spare, strict=True)]
    if client.leasts:
        suffices = (all(have >= need for have, need in zip(out, row, strict=True)) for row in client.leasts)
        if not any(out) or not any(suffices):
            return None
    elif out[0] < least[0] and out[1] < least[1]:
        return None
    for agent, refused in client.refused:
        if agent == item.agent and all(no >= have for no, have in zip(refused, out, strict=True)):
            return None
    return out


def nodes_below(node: Node) -> list[Node]:
    return [node] + [found for child in node.children for found in nodes_below(child)]


def allocate(root: Node, items: list[Item], whole: Amounts, least: tuple[int, int]) -> list[tuple[int, str, Amounts]]:
    """(item, path of the client, amounts) in the order they are granted."""
    grants: list[tuple[int, str, Amounts]] = []
    floor = (0, 0) if any(node.leasts for node in nodes_below(root)) else least
    has_guarantees = any(sum(node.guarantee) for node in nodes_below(root))
    for is_first in (True, False):
        if is_first and not has_guarantees:
            continue
        spare: Amounts | None = None
        if not is_first and has_guarantees:
            wanted = [
                sum(max(0, node.guarantee[k] - node.allocated[k]) for node in nodes_below(root)) for k in range(4)
            ]
            here = [item for item in items if item.root is root and not item.revocable]
            spare = [sum(item.free[k] for item in here) - wanted[k] for k in range(4)]
        for number, item in enumerate(items):
            while item.free[0] >= floor[0] or item.free[1] >= floor[1]:
                for client in clients_in_order(item.root, whole):
                    out = offered(item, client, is_first, spare, least)
                    if out is not None:
                        break
                else:
                    break
                assert out is not None
                grants.append((number, client.path, out))
                item.free = [have - gone for have, gone in zip(item.free, out, strict=True)]
                if spare is not None and item.root is root:
                    spare = [have - gone for have, gone in zip(spare, out, strict=True)]
                given, item.gpus = item.gpus[: out[3]], item.gpus[out[3] :]
                for node in client.chain():
                    node.allocated = [have + gone for have, gone in zip(node.allocated, out, strict=True)]
                    node.gpus = [have + given.count(g) for g, have in enumerate(node.gpus)]
                    node.grants += 1
    return grants

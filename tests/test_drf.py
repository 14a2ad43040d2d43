"""The DRF kernel gives exactly what the plain reference gives, in the same order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kernels import drf
from tests.reference.drf import Item, Node, allocate, nodes_below

LEAST = (10, 5)
kinds = st.tuples(st.integers(0, 4000), st.integers(0, 1000), st.integers(0, 50), st.integers(0, 3))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Node, list[Item], list[int]]:
    root = Node("")
    n_agents = draw(st.integers(1, 6))
    for role in range(draw(st.integers(1, 3))):
        top = Node(f"{role}", weight=draw(st.integers(1, 5)), parent=root)
        root.children.append(top)
        for node in [top, *(Node(f"{role}/{n}", draw(st.integers(1, 3))) for n in range(draw(st.integers(0, 2))))]:
            if node is not top:
                node.parent = top
                top.children.append(node)
            if draw(st.booleans()):
                node.limit = [draw(st.sampled_from([-1, 0, 500, 3000])) for _ in range(4)]
            if draw(st.integers(0, 4)) == 0:
                node.guarantee = list(draw(kinds))
            for n in range(draw(st.integers(0, 2)) if node is top else draw(st.integers(1, 2))):
                client = Node(
                    f"{node.path}/~{n}", parent=node, is_client=True, takes_gpus=draw(st.booleans()),
                    takes_revocable=draw(st.booleans()), grants=draw(st.integers(0, 2)),
                )  # fmt: skip
                if draw(st.integers(0, 3)) == 0:
                    client.admitted = draw(st.sets(st.integers(0, n_agents - 1)))
                client.refused = [
                    (draw(st.integers(0, n_agents - 1)), list(draw(kinds))) for _ in range(draw(st.integers(0, 2)))
                ]
                if draw(st.integers(0, 3)) == 0:
                    client.leasts = draw(st.lists(kinds.map(list), min_size=1, max_size=2))
                before = list(draw(kinds))
                n_large = draw(st.integers(0, before[3]))
                for above in client.chain():
                    above.gpus = [above.gpus[0] + before[3] - n_large, above.gpus[1] + n_large]
                    above.allocated = [have + more for have, more in zip(above.allocated, before, strict=True)]
                node.children.append(client)
    inner = [node for node in nodes_below(root) if not node.is_client and (node is root or node.children)]
    for node in nodes_below(root):
        node.children.sort(key=lambda child: child.path)
    items = [
        Item(n % n_agents, list(draw(kinds)), root if draw(st.integers(0, 2)) else draw(st.sampled_from(inner)),
             draw(st.booleans()), draw(st.integers(0, 4)) == 0)
        for n in range(draw(st.integers(0, 8)))
    ]  # fmt: skip
    for item in items:
        item.gpus = draw(st.lists(st.integers(0, 1), min_size=item.free[3], max_size=item.free[3]))
    scale = draw(st.sampled_from([1, 1, 2**40]))
    return root, items, [20_000 * scale, 9_000, 300, draw(st.integers(1, 40)), draw(st.integers(1, 4))]


def lower(root: Node, items: list[Item], whole: list[int]) -> tuple[drf.Market, list[Node]]:
    nodes = sorted(nodes_below(root), key=lambda node: node.path)
    index = {id(node): n for n, node in enumerate(nodes)}
    rows = np.zeros((len(nodes), drf.NODE_ROW), np.int64)
    amounts = np.zeros((4, len(nodes), 4), np.int64)
    amounts[drf.LIMIT] = drf.UNLIMITED
    children: list[int] = []
    masks: list[list[int]] = []
    leasts: list[list[int]] = []
    for n, node in enumerate(nodes):
        row = rows[n]
        row[drf.PARENT] = index[id(node.parent)] if node.parent else -1
        row[drf.FIRST], row[drf.N_CHILDREN] = len(children), len(node.children)
        children += [index[id(child)] for child in node.children]
        row[drf.WEIGHT], row[drf.LEAF], row[drf.N_GRANTS] = node.weight, node.is_client, node.grants
        row[drf.GPUS], row[drf.REVOCABLE], row[drf.MASK] = node.takes_gpus, node.takes_revocable, -1
        if node.admitted is not None:
            row[drf.MASK] = len(masks)
            masks.append([item.agent in node.admitted for item in items])
        row[drf.LEAST_FROM] = len(leasts)
        leasts += node.leasts
        row[drf.LEAST_TO] = len(leasts)
        amounts[drf.ALLOCATED, n] = node.allocated
        amounts[drf.GUARANTEE, n] = node.guarantee
        if node.limit is not None:
            amounts[drf.LIMIT, n] = node.limit
    filters: list[list[int]] = []
    table = np.zeros((len(items), drf.ITEM_ROW), np.int64)
    for n, item in enumerate(items):
        first = len(filters)
        filters += [[index[id(node)], *no] for node in nodes for agent, no in node.refused if agent == item.agent]
        gpu_from = sum(len(earlier.gpus) for earlier in items[:n])
        table[n] = (index[id(item.root)], item.has_gpus, item.revocable, first, len(filters), 0, gpu_from)
    market = drf.Market(
        nodes=rows,
        children=np.array(children, np.int64),
        amounts=amounts,
        whole=np.array([*whole[:3], sum(whole[3:])], np.int64),
        items=table,
        free=np.array([item.free for item in items], np.int64).reshape(-1, 4),
        filters=np.array(filters, np.int64).reshape(-1, drf.FILTER_ROW),
        masks=np.array(masks, np.int64).reshape(len(masks), len(items)),
        least=np.array(LEAST, np.int64),
        leasts=np.array(leasts, np.int64).reshape(-1, 4),
        floor=np.array((0, 0) if leasts else LEAST, np.int64),
        grants=np.zeros((512, drf.GRANT_ROW), np.int64),
        gpus=np.array([gpu for item in items for gpu in item.gpus], np.int64),
        gpus_whole=np.array(whole[3:], np.int64),
        gpus_allocated=np.array([node.gpus for node in nodes], np.int64),
    )
    return market, nodes


@pytest.mark.kernel
@settings(max_examples=300, deadline=None)
@given(worlds())
def test_the_kernel_is_the_reference(world: tuple[Node, list[Item], list[int]]) -> None:
    root, items, whole = world
    market, nodes = lower(root, items, whole)
    count = drf.allocate(market)
    assert count >= 0
    got = [(int(row[0]), nodes[row[1]].path, [int(x) for x in row[2:]]) for row in market.grants[:count]]
    assert got == allocate(root, items, whole, LEAST)
    assert market.free.tolist() == [item.free for item in items]

"""From slots of a group to tasks on agents: what the flow says in one unit is fitted here in all kinds at once."""

import numpy as np

from policies.ledger import Ledger
from policies.lower import Columns


def pack(columns: Columns, ledger: Ledger, c: int, group: int, count: int) -> list[tuple[int, int]]:
    """Place up to `count` tasks of class `c` on agents of a group and book them; (node, tasks) in that order.

    Best fit: agents with the least room for such tasks first, so that what is large stays whole for those who need
    it; ties in order of id. Quotas are kept. Time O(n log n) in the agents looked at.
    """
    count = ledger.quota_room(c, count)
    if count <= 0:
        return []
    nodes = columns.members[group]
    room = ledger.slots(int(columns.needs_of[c]), nodes)
    some = np.flatnonzero(room)
    order = some[np.lexsort((nodes[some], room[some]))]
    before = np.cumsum(room[order]) - room[order]
    placed: list[tuple[int, int]] = []
    for n in order[before < count].tolist():
        node, part = int(nodes[n]), min(int(room[n]), count)
        ledger.take(c, node, part)
        placed.append((node, part))
        count -= part
    return placed

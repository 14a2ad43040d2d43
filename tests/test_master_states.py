"""The state tables: complete, closed, and the same as the page that is generated from them."""

import pytest

from federation import states
from federation.states import AGENT_EDGES, OFFER_EDGES, PLACED_STATES, TASK_EDGES, TERMINAL_STATES


@pytest.mark.parametrize("edges", [AGENT_EDGES, OFFER_EDGES, TASK_EDGES])
def test_every_state_is_in_its_table_and_every_edge_ends_in_one(edges: dict[str, tuple[str, ...]]) -> None:
    assert set(edges) == set(type(next(iter(edges))))  # type: ignore[call-overload]
    assert {follower for followers in edges.values() for follower in followers} <= set(edges)
    assert all(state not in followers for state, followers in edges.items())


def test_terminal_states_lead_nowhere_and_every_other_one_to_an_end() -> None:
    assert {state for state, followers in TASK_EDGES.items() if not followers} == TERMINAL_STATES
    for state in TASK_EDGES:
        reached, todo = set(), [state]
        while todo:
            found = todo.pop()
            if found not in reached:
                reached.add(found)
                todo += TASK_EDGES[found]
        assert reached & TERMINAL_STATES
    assert not PLACED_STATES & TERMINAL_STATES


def test_the_page_is_current() -> None:
    assert states.PAGE.read_text(encoding="utf-8") == states.page(), "run: python -m federation.states"

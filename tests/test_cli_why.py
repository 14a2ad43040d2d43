"""How the answer to "why" reads."""

from pathlib import Path

import msgspec

from federation.api import WhyView
from federation.cli.why import why_lines
from policies.model import Blocker, Candidate, CostTerms, Miss, Reason

NOW_US = 1_700_000_000_000_000
PENDING = WhyView(
    task_id="digits/train/7",
    state="pending",
    since_us=NOW_US - 41_300_000,
    policy="flow",
    round_id=18231,
    term=4,
    agent_id="",
    terms=None,
    alternatives=(),
    blockers=(
        Blocker(
            reason=Reason.LINK_BANDWIDTH,
            agents=12,
            nearest=Miss(
                agent_id="gw-17", needs=12_000_000, has=9_100_000, unit="bps", site="plant-a", age_us=3_000_000
            ),
        ),
        Blocker(reason=Reason.LABEL, agents=4),
        Blocker(reason=Reason.CPU, agents=22, nearest=Miss(agent_id="gw-2", needs=1000, has=500, unit="milli")),
        Blocker(reason=Reason.QUOTA, agents=6, role="vision"),
    ),
    n_agents=44,
    waits_for=None,
    hints=("deadline ≥ 7 s", "quota of vision +0.5 cpu", "gw-03 frees in ~18 s"),
    detail="",
)
PLACED = WhyView(
    task_id="digits/train/3",
    state="running",
    since_us=NOW_US,
    policy="flow",
    round_id=18231,
    term=4,
    agent_id="gw-12",
    terms=CostTerms(transfer_us=330_000, run_us=2_100_000),
    alternatives=(
        Candidate(agent_id="vm-2", terms=CostTerms(transfer_us=1_900_000, run_us=900_000, price_us=400_000)),
    ),
    blockers=(),
    n_agents=44,
    waits_for=None,
    hints=(),
    detail="",
)


def lines(view: WhyView, **changes: object) -> list[str]:
    return why_lines(msgspec.structs.replace(view, **changes), NOW_US)


def test_a_pending_task_tells_every_reason_and_the_nearest_miss() -> None:
    assert lines(PENDING) == [
        "task digits/train/7  PENDING 41 s  blocked by: link bandwidth",
        "  44 agents: 12 link bandwidth (short 2.9 Mbit/s) · 4 label · 22 cpu (short 0.5) · 6 quota role=vision"
        "  (by flow, round 18231, term 4)",
        "  nearest miss gw-17: needs 12 Mbit/s from plant-a, has 9.1 Mbit/s (measured 3 s ago)",
        "  would run if: deadline ≥ 7 s | quota of vision +0.5 cpu | gw-03 frees in ~18 s",
    ]


def test_a_placed_task_tells_each_cost_term_of_the_candidates() -> None:
    assert lines(PLACED) == [
        "task digits/train/3  on gw-12  by flow, round 18231, term 4",
        "  agent  transfer   run  price  total",
        "  gw-12      0.33  2.10   0.00   2.43  chosen",
        "  vm-2       1.90  0.90   0.40   3.20  +0.77",
        "  (seconds; price and latency count as time)",
    ]


def test_a_policy_without_costs_is_named() -> None:
    assert lines(PLACED, policy="fifo", terms=CostTerms(), alternatives=(), state="finished") == [
        "task digits/train/3  FINISHED  on gw-12  by fifo, round 18231, term 4",
        "  fifo places without costs, so there is nothing to compare",
    ]


def test_a_planned_wait_tells_for_whom_and_how_long() -> None:
    waits_for = Candidate(agent_id="gw-03", terms=CostTerms(wait_us=18_000_000, run_us=2_000_000))
    blockers = (Blocker(reason=Reason.PLANNED_WAIT),)
    assert lines(PENDING, blockers=blockers, waits_for=waits_for, hints=()) == [
        "task digits/train/7  PENDING 41 s  blocked by: planned wait",
        "  planned wait  (by flow, round 18231, term 4)",
        "  waits for gw-03: free in ~18 s, done in ~20 s",
    ]


def test_a_waiting_task_tells_what_it_comes_after() -> None:
    blockers = (Blocker(reason=Reason.DEPENDENCY),)
    assert lines(PENDING, state="waiting", blockers=blockers, hints=("train: 3 of 4 finished",)) == [
        "task digits/train/7  WAITING 41 s",
        "  waits for: train: 3 of 4 finished",
    ]


def test_units_of_every_kind_of_miss() -> None:
    def nearest(reason: Reason, miss: Miss) -> str:
        return lines(PENDING, blockers=(Blocker(reason=reason, agents=1, nearest=miss),), hints=())[2]

    def miss(needs: int, has: int | None, unit: str, **rest: object) -> Miss:
        return msgspec.convert({"agent_id": "a", "needs": needs, "has": has, "unit": unit, **rest}, Miss)

    assert nearest(Reason.CPU, miss(4000, 500, "milli")) == "  nearest miss a: needs 4 cores, has 0.5"
    assert nearest(Reason.MEMORY, miss(2**30, 2**29, "bytes")) == (
        "  nearest miss a: needs 1 GiB of memory, has 512 MiB"
    )
    assert nearest(Reason.GPU, miss(2, 1, "count")) == "  nearest miss a: needs 2 GPUs, has 1"
    assert nearest(Reason.LINK_RTT, miss(20_000, 35_000, "us", site="plant-a", age_us=500_000)) == (
        "  nearest miss a: needs a round trip to plant-a of at most 20 ms, has 35 ms (measured 500 ms ago)"
    )
    assert nearest(Reason.LINK_UNMEASURED, miss(12_000_000, None, "bps", site="plant-a")) == (
        "  nearest miss a: needs 12 Mbit/s from plant-a, which was never measured"
    )


def test_the_last_failure_is_told() -> None:
    assert lines(PENDING, detail="it exited with 1")[-1] == "  last failed attempt: it exited with 1"


def test_the_page_shows_what_is_printed() -> None:
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    assert "```text\n" + "\n".join([*lines(PENDING), "", *lines(PLACED)]) + "\n```" in page

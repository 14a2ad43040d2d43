"""The language of offer constraints: strict, and every field of it judged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.agents_book import AgentEntry
from federation.facts import AgentEnrolled
from federation.market.constraints import ConstraintError, admits, parse, parse_all
from policies.model import Gpu, Link, Resources
from tests.master_world import GIB

AGENT = AgentEntry(
    AgentEnrolled(
        at_us=0,
        agent_id="gw-1",
        boot=1,
        site="plant-b",
        region="north",
        tier="edge",
        hardware="rpi5-8g",
        speed_milli=800,
        labels=(("long", "a" * 250), ("zone", "a")),
        total=Resources(
            cpu_milli=4000,
            gpus=(Gpu(uuid="x", model="a100", memory_bytes=40 * GIB), Gpu(uuid="y")),
        ),
    )
)
LINKS = (
    Link(from_id="site:plant-b", to_id="site:plant-a", rtt_us=19_000),
    Link(from_id="agent:gw-1", to_id="site:cloud", rtt_us=5_000),
    Link(from_id="site:plant-b", to_id="site:cloud", rtt_us=90_000),
    Link(from_id="site:cloud", to_id="site:plant-b", bandwidth_bps=50_000_000),
)


@pytest.mark.parametrize(
    "text",
    [
        "agent.id == gw-1", "agent.site != plant-a", "agent.region in (south, north)", "agent.tier == edge",
        'agent.hardware =~ "rpi*"', "agent.speed_milli >= 800", "label{key=zone} == a", "label{key=zone}",
        "label{key=other} != b", "gpu.model == a100", "gpu.memory_bytes >= 24GiB", "gpu.memory_bytes<=40GiB",
        "gpu.count == 2", "link.rtt_us{to=site:plant-a} < 20000", "link.rtt_us{to=site:plant-a} <= 19ms",
        "link.rtt_us{to=site:cloud} < 10ms", "link.bandwidth_bps{from=site:cloud} >= 50Mbps",
        "link.rtt_us{to=site:plant-b} < 1", "link.rtt_us{to=site:plant-a} > 18.5ms", "no label{key=other}",
        "label{key=other} or agent.id == gw-1", "no label{key=zone} or label{key=zone} and gpu.count == 2",
        'agent.id != "or" and agent.id != "and"', 'agent.id matches "gw-[0-9]+"', "no gpu.model == t4",
        'gpu.model matches "[ah]100"', 'no agent.id matches "gw"', 'no label{key=zone} matches "b|c"',
        "no link.rtt_us{to=site:never}", "no gpu.count > 2", 'label{key=zone} != "say ""a"""',
    ],
)  # fmt: skip
def test_what_holds(text: str) -> None:
    assert admits((text,), AGENT, LINKS)


@pytest.mark.parametrize(
    "text",
    [
        "agent.id == gw-2", "label{key=zone} == b", "label{key=other}", "gpu.memory_bytes > 40GiB", "gpu.count > 2",
        "link.rtt_us{to=site:plant-a} < 19000", "link.rtt_us{to=site:never} < 1000000",
        "link.bandwidth_bps{to=site:plant-a} > 1", "agent.hardware =~ x86*", "gpu.isolation == whole",
        "no label{key=zone}", "no agent.site", "no gpu.model",
        "agent.id == gw-1 and gpu.count > 2 or agent.tier == cloud", 'label{key=other} matches ".*"',
        "no agent.id == gw-1", "no gpu.model == a100", "no gpu.count", "no link.rtt_us{to=site:cloud}",
        'agent.id matches "gw"',
    ],
)  # fmt: skip
def test_what_does_not(text: str) -> None:
    assert not admits((text,), AGENT, LINKS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "ends where"), ("rtt < 3", "no field 'rtt'"), ("link.rtt_us < 3", "needs one other end"),
        ("link.rtt_us{via=x} < 3", "needs one other end"), ("agent.id", "compares agent.id with nothing"),
        ("agent.id < x", "has no order"), ("gpu.count =~ 3", "is a number"), ("gpu.count == many", "is no number"),
        ("gpu.memory_bytes > 3ms", "not counted in ms"), ("gpu.count == 1 2", "follows a whole predicate"),
        ("agent.id == a && b", "has no place"), ("label == x", "needs its key"), ("agent.id{a=b} == c", "no selector"),
        ("agent.id in (a", "ends where"), ("link.rtt_us{to=a < 3", "stands where }"), ("x" * 20_000, "exceeds"),
        ("link.rtt_us{to=site:a} < 0.5", "not a whole number"), ("no no agent.id", "no field 'no'"),
        ("gpu.count matches 2", "is a number"), ('agent.id matches "(a"', "no pattern: missing"),
        ('agent.id matches "(?=a)"', "no pattern: invalid perl operator"), ('agent.id matches "(a)\\1"', "no pattern"),
        ('agent.id matches "((a{9}){9}){999}"', "no pattern"), ('agent.id matches "\\pL{999}"', "too large"),
        (f'agent.id matches "{"x" * 1_001}"', "1001 characters exceeds 1000"),
        ("agent.id matches", "ends where"), ("label{key=a} and", "ends where"), ("or label{key=a}", "ends where"),
        ("label{key=a} or label{key=b}", "several predicates"),
    ],
)  # fmt: skip
def test_what_is_no_predicate(text: str, says: str) -> None:
    with pytest.raises(ConstraintError, match=says):
        parse(text)


@pytest.mark.parametrize("pattern", ["(a|aa)+b", "(a*)*b", "(.*a){12}b", "(a|a)*(a|a)*b", "(a?){60}a{60}b"])
def test_patterns_that_hold_up_others_end(pattern: str) -> None:
    """Each of these takes a backtracking engine longer than anyone waits."""
    assert not admits((f'label{{key=long}} matches "{pattern}"',), AGENT, LINKS)


WORDS = [
    "link.rtt_us", "label", "no", " and ", " or ", "{", "}", "to", "=", "site:a", "<", ">=", "20ms", "in", "(", ")",
    ",", '"', "==", " ", " matches ", '"a*"', "agent.id",
]  # fmt: skip


@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS)).map("".join))
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    try:
        parse_all(text)
    except ConstraintError:
        return
    admits((text,), AGENT, LINKS)

"""The offer market by size: `python -m benchmarks.market --json PATH`.

`cycles`: one allocation cycle in which every agent's free resources are offered (the median of a few, after a first
that warms up), measured as the core's `handle` of the event that runs it: from books to offers ready to be sent. Mesos
1.8 published 0.4 s for 5,000 agents × 500 frameworks, 1.1 s for 10,000 × 1,000 and 3.8 s for 20,000 × 2,000.

`offers_per_s` and `accepts_per_s`, by the number of connected frameworks: over HTTP, with a real master, broker and
journal (`benchmarks/market_http.py`): offers made and declined, and offers accepted with one task each, which runs and
is acknowledged. `core`: the same of the core alone. `bytes_per_framework`: of the core, and (`rss_`) of the process.
"""

import argparse
import asyncio
import json
import statistics
import time
import tracemalloc
from pathlib import Path
from typing import Any

from benchmarks import market_http
from federation.commands import Command, Emit
from federation.config import MasterConfig
from federation.events import AgentSpoke, DeadlinePassed, FrameworkCalled, Started
from federation.market.protocol import Accept, Claim, Decline, FrameworkInfo, Launch, Offers, Subscribe, TaskSpec
from federation.master import Master
from federation.serving import rare_collections
from federation.wire import Birth, Offer
from policies.model import Resources

SIZES = ((5_000, 500), (10_000, 1_000), (20_000, 2_000))
FRAMEWORKS_A_ROLE = 10
EVERY_US = 1_000_000
GIB = 2**30
TOTAL = Resources(cpu_milli=16_000, memory_bytes=64 * GIB, disk_bytes=500 * GIB)


class Bench:
    """A master with agents and frameworks, and the offers that stand."""

    def __init__(self, n_agents: int, n_frameworks: int) -> None:
        self.now_us = 1_700_000_000_000_000
        config = MasterConfig(
            agents_max=n_agents, allocate_every_us=EVERY_US, offer_lease_us=3_600_000_000, lease_us=3_600_000_000,
            suspect_after_us=3_600_000_000, framework_tasks_max=1_000_000,
        )  # fmt: skip
        self.master = Master(config, "fifo")
        self.offers: dict[str, list[str]] = {}
        self.streams: dict[str, str] = {}
        self.n_calls = 0
        self.master.handle(Started(term=1), self.now_us)
        for n in range(n_agents):
            self.enrol(f"agent-{n:05}", f"site-{n % 100}")
        for n in range(n_frameworks):
            info = FrameworkInfo(name=f"framework-{n}", roles=(f"role-{n // FRAMEWORKS_A_ROLE}",))
            subscribe = Subscribe(framework=info)
            self.take(self.master.handle(self.event(subscribe, "", f"stream-{n}"), self.now_us))

    def enrol(self, agent_id: str, site: str) -> None:
        life: dict[str, Any] = {"agent_id": agent_id, "boot": 1, "conn": 1}
        birth = Birth(**life, version="1", site=site, tier="edge", total=TOTAL)
        offer = Offer(**life, seq=1, offer_id="1", free=TOTAL, expires_in_us=3_600_000_000)
        for message in (birth, offer):
            self.master.handle(AgentSpoke(message=message), self.now_us)

    def event(self, call: Any, framework_id: str, stream_id: str) -> FrameworkCalled:
        self.n_calls += 1
        return FrameworkCalled(
            request_id=str(self.n_calls), framework_id=framework_id, stream_id=stream_id, call=call
        )  # fmt: skip

    def take(self, commands: list[Command]) -> int:
        """Note the offers that were made; their number."""
        n_offers = 0
        for command in commands:
            if isinstance(command, Emit):
                self.streams[command.framework_id] = command.stream_id
                if isinstance(command.event, Offers):
                    made = [offer.offer_id for offer in command.event.offers]
                    self.offers.setdefault(command.framework_id, []).extend(made)
                    n_offers += len(made)
        return n_offers

    def cycle(self) -> tuple[float, int]:
        """Let the next cycle run: how long it took, and how many offers it made."""
        self.now_us += EVERY_US
        event = DeadlinePassed()
        began = time.perf_counter()
        commands = self.master.handle(event, self.now_us)
        took_s = time.perf_counter() - began
        return took_s, self.take(commands)

    def decline_all(self) -> None:
        for framework_id, offer_ids in self.offers.items():
            call = Decline(offer_ids=tuple(offer_ids), refuse_us=0)
            event = self.event(call, framework_id, self.streams[framework_id])
            self.master.handle(event, self.now_us)
        self.offers.clear()

    def accept_all(self) -> int:
        """One task on each offer; the number of offers."""
        count = 0
        claims = (Claim(cpu_milli=100, memory_bytes=GIB // 16),)
        for framework_id, offer_ids in self.offers.items():
            for offer_id in offer_ids:
                spec = TaskSpec(task_id=f"t-{offer_id}", claims=claims, command=("true",))
                call = Accept(offer_ids=(offer_id,), operations=(Launch(tasks=(spec,)),), refuse_us=0)
                event = self.event(call, framework_id, self.streams[framework_id])
                self.master.handle(event, self.now_us)
                count += 1
        self.offers.clear()
        return count


def measure_cycle(n_agents: int, n_frameworks: int, repeats: int) -> dict[str, Any]:
    bench = Bench(n_agents, n_frameworks)
    bench.decline_all()
    taken: list[float] = []
    offers = 0
    with rare_collections():  # as the live master runs
        for n in range(repeats + 1):
            took_s, offers = bench.cycle()
            bench.decline_all()
            if n:
                taken.append(took_s)
    assert offers == n_agents, f"{offers} offers of {n_agents} agents"
    return {
        "agents": n_agents,
        "frameworks": n_frameworks,
        "cycle_s": round(statistics.median(taken), 4),
        "cycle_s_max": round(max(taken), 4),
    }


def measure_rates(n_frameworks: int, n_agents: int = 2_000) -> tuple[float, float]:
    """(offers, accepts) a second of the core."""
    bench = Bench(n_agents, n_frameworks)
    bench.decline_all()
    bench.cycle()
    bench.decline_all()
    count, began = 0, time.perf_counter()
    for _ in range(5):
        count += bench.cycle()[1]
        bench.decline_all()
    offers_per_s = count / (time.perf_counter() - began)
    bench.cycle()
    began = time.perf_counter()
    count = bench.accept_all()
    return offers_per_s, count / (time.perf_counter() - began)


def bytes_of_framework(n_frameworks: int = 1_000) -> int:
    """Memory of the core a connected framework takes."""
    bench = Bench(1, 0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for n in range(n_frameworks):
        info = FrameworkInfo(name=f"framework-{n}", roles=(f"role-{n // FRAMEWORKS_A_ROLE}",))
        bench.master.handle(bench.event(Subscribe(framework=info), "", f"stream-{n}"), bench.now_us)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used // n_frameworks


def main() -> None:
    parser = argparse.ArgumentParser(description="The offer market by size.")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--core", action="store_true", help="leave HTTP out")
    options = parser.parse_args()
    figures: dict[str, Any] = {"cycles": [], "offers_per_s": {}, "accepts_per_s": {}, "core": {}}
    for n_agents, n_frameworks in SIZES:
        row = measure_cycle(n_agents, n_frameworks, options.repeats)
        figures["cycles"].append(row)
        print(f"{n_agents:>7,} agents × {n_frameworks:>5,} frameworks: a cycle takes {row['cycle_s'] * 1000:.0f} ms")
    for n_frameworks in (1, 100, 1_000):
        offers_per_s, accepts_per_s = measure_rates(n_frameworks)
        figures["core"][str(n_frameworks)] = {
            "offers_per_s": round(offers_per_s),
            "accepts_per_s": round(accepts_per_s),
        }
        print(f"{n_frameworks:>7,} frameworks: {offers_per_s:,.0f} offers/s, {accepts_per_s:,.0f} accepts/s (core)")
        if options.core:
            continue
        found = asyncio.run(market_http.measure(n_frameworks))
        figures["offers_per_s"][str(n_frameworks)] = round(found["offers_per_s"])
        figures["accepts_per_s"][str(n_frameworks)] = round(found["accepts_per_s"])
        figures["rss_bytes_per_framework"] = round(found["rss_bytes_per_framework"])
        rates = f"{found['offers_per_s']:,.0f} offers/s, {found['accepts_per_s']:,.0f} accepts/s over HTTP"
        print(f"{n_frameworks:>7,} frameworks: {rates}, {found['rss_bytes_per_framework']:,.0f} bytes each")
    figures["bytes_per_framework"] = bytes_of_framework()
    print(f"a connected framework takes {figures['bytes_per_framework']:,} bytes")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

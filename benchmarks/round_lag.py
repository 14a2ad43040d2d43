"""What a placement round costs the event loop beside it: the loop goes on while the policy's thread solves.

    python -m benchmarks.round_lag --json PATH [--agents 5000] [--classes 50 400] [--policy flow]

Rounds are those of `offerflow policy bench` (half of the classes read a shard, links between sites measured, a tenth of
the agents changed from round to round), solved by the master's own `Solver`. Beside them the loop does as links do:
it writes, reads and works 20 µs a turn. Told are its turns a second, alone and during rounds, and how late a timer of
10 ms is: what a message, a request or a lease waits for.
"""

import argparse
import asyncio
import gc
import json
import socket
import time
from pathlib import Path
from typing import Any

from federation.events import PlanReady
from federation.solver import Solver
from policies import registry
from policies.kit.benching import worlds

TIMER_S = 0.01
ALONE_S = 1.5
WORK = 2_000  # additions a turn, about 20 µs


async def measure(policy: str, n_agents: int, n_classes: int, n_rounds: int) -> dict[str, Any]:
    rounds = list(worlds(n_agents, n_classes, n_rounds + 1, seed=1))
    solver = Solver(lambda: registry.load(policy), limit_us=300_000_000)
    await solver.solve(0, rounds[0])
    gc.collect()
    gc.freeze()
    late_s: list[float] = []
    n_turns = 0
    here, there = socket.socketpair()

    async def timer() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TIMER_S)
            late_s.append(time.perf_counter() - began - TIMER_S)

    async def turns() -> None:
        nonlocal n_turns
        while True:
            here.send(b"x" * 200)
            there.recv(65_536)
            sum(range(WORK))
            n_turns += 1
            await asyncio.sleep(0)

    beside = [asyncio.create_task(timer()), asyncio.create_task(turns())]
    await asyncio.sleep(ALONE_S)
    alone_per_s = n_turns / ALONE_S
    n_turns = 0
    late_s.clear()
    began, solve_ms = time.perf_counter(), []
    for n, snapshot in enumerate(rounds[1:], 1):
        answer = await solver.solve(n, snapshot)
        assert isinstance(answer, PlanReady), answer
        solve_ms.append(answer.solve_us / 1000)
    during_per_s = n_turns / (time.perf_counter() - began)
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    solver.close()
    here.close()
    there.close()
    late_s.sort()
    return {
        "policy": policy,
        "agents": n_agents,
        "classes": n_classes,
        "round_ms_min": round(min(solve_ms)),
        "round_ms_max": round(max(solve_ms)),
        "turns_per_s_alone": round(alone_per_s),
        "turns_per_s_during": round(during_per_s),
        "late_ms_p50": round(late_s[len(late_s) // 2] * 1000, 1),
        "late_ms_p99": round(late_s[len(late_s) * 99 // 100] * 1000, 1),
        "late_ms_max": round(late_s[-1] * 1000, 1),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path)
    options.add_argument("--agents", type=int, default=5000)
    options.add_argument("--classes", type=int, nargs="+", default=[50, 400])
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--policy", default="flow")
    arguments = options.parse_args()
    results = []
    for n_classes in arguments.classes:
        result = asyncio.run(measure(arguments.policy, arguments.agents, n_classes, arguments.rounds))
        results.append(result)
        print("  ".join(f"{key} {value}" for key, value in result.items()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

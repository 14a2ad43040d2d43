"""Policies in threads of their own: whatever a policy does, the loop goes on and a round gets an answer.

A policy that raises or answers nonsense loses this round, and its fallback takes it. One that hangs loses its thread,
which Python cannot end: the next round gets a new thread and a fresh policy, and after `HUNG_MAX` of them rounds fail
at once.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from federation.config import LiveConfig
from federation.events import PlanFailed, PlanReady
from policies import registry
from policies.api import Policy
from policies.conformance import check_plan
from policies.model import Plan, Snapshot

HUNG_MAX: Final = 3  # Each keeps a thread, a policy and perhaps a core busy until the process ends.
_DETAIL_CHARS_MAX: Final = 500

_Job = tuple[Snapshot, asyncio.AbstractEventLoop, "asyncio.Future[tuple[Plan, int]]"]


class Contained:
    """A policy, and the one that takes the round when it fails: its plan is refused whole, the master goes on."""

    def __init__(self, policy: "Solver", fallback: "Solver | None" = None, fallback_name: str = "") -> None:
        self._policy, self._fallback, self._fallback_name = policy, fallback, fallback_name

    async def solve(self, round_id: int, snapshot: Snapshot) -> PlanReady | PlanFailed:
        """The plan, whoever made it (`policy` and `failure` say so), or why neither made one; never raises."""
        event = await self._policy.solve(round_id, snapshot)
        if isinstance(event, PlanReady) or self._fallback is None:
            return event
        other = await self._fallback.solve(round_id, snapshot)
        if isinstance(other, PlanReady):
            return msgspec.structs.replace(other, policy=self._fallback_name, failure=event.detail)
        detail = f"{event.detail}; and the fallback {self._fallback_name}: {other.detail}"
        return PlanFailed(round_id=round_id, detail=detail[:_DETAIL_CHARS_MAX])

    def close(self) -> None:
        self._policy.close()
        if self._fallback is not None:
            self._fallback.close()


def contained(config: LiveConfig, make_policy: Callable[[], Policy]) -> Contained:
    """The configured policy with its fallback, if it has one."""
    checks = config.check_plans == "all" or not registry.is_built_in(config.policy)
    policy = Solver(make_policy, config.solve_limit_us, checks=checks)
    name = config.fallback_policy
    if not name:
        return Contained(policy)
    fallback = Solver(lambda: registry.load(name), config.solve_limit_us, checks=not registry.is_built_in(name))
    return Contained(policy, fallback, name)


class Solver:
    """Asks one policy, one snapshot at a time and in order (policies may keep state between rounds)."""

    def __init__(self, make_policy: Callable[[], Policy], limit_us: int, *, checks: bool = False) -> None:
        """`checks`: a plan that breaks a clause of the conformance kit is no plan. Takes O(plan) time in the thread."""
        self._make_policy = make_policy
        self._limit_us = limit_us
        self._checks = checks
        self._jobs: queue.SimpleQueue[_Job | None] | None = None
        self.n_hung = 0

    async def solve(self, round_id: int, snapshot: Snapshot) -> PlanReady | PlanFailed:
        """The plan or why there is none; never raises, whatever the policy does."""
        if self.n_hung >= HUNG_MAX:
            return PlanFailed(round_id=round_id, detail=f"the policy hung {HUNG_MAX} times: restart the master")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[Plan, int]] = loop.create_future()
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            arguments = (self._make_policy, self._jobs, self._checks)
            threading.Thread(target=_work, args=arguments, name="policy", daemon=True).start()
        self._jobs.put((snapshot, loop, answer))
        try:
            async with asyncio.timeout(self._limit_us / 1e6):
                plan, solve_us = await answer
        except TimeoutError:
            self.n_hung += 1
            self.close()
            return PlanFailed(round_id=round_id, detail=f"no plan within {self._limit_us / 1e6:g} s")
        except Exception as error:
            return PlanFailed(round_id=round_id, detail=_describe(error))
        return PlanReady(round_id=round_id, plan=plan, solve_us=solve_us)

    def close(self) -> None:
        """Let the thread end once it is idle; the next `solve` starts another."""
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None


def _work(make_policy: Callable[[], Policy], jobs: "queue.SimpleQueue[_Job | None]", checks: bool) -> None:
    policy: Policy | None = None
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Plan)
    while (job := jobs.get()) is not None:
        snapshot, loop, answer = job
        result: tuple[Plan, int] | BaseException
        try:
            began_ns = time.monotonic_ns()
            policy = policy or make_policy()
            plan = policy.plan(snapshot)
            solve_us = (time.monotonic_ns() - began_ns) // 1000
            # Structs do not check their fields: through the decoder, what is not a plan does not reach the core.
            plan = decoder.decode(encoder.encode(plan))
            if checks:
                check_plan(snapshot, plan)
            result = plan, solve_us
        except BaseException as error:  # A policy may even exit: that ends its round, not the master.
            result = error
            policy = None  # Its state may be half changed.
        try:
            loop.call_soon_threadsafe(_settle, answer, result)
        except RuntimeError:
            return  # The loop has closed: nobody waits any more.


def _settle(answer: "asyncio.Future[tuple[Plan, int]]", result: tuple[Plan, int] | BaseException) -> None:
    if answer.done():
        return
    if isinstance(result, tuple):
        answer.set_result(result)
    else:
        answer.set_exception(PolicyError(_describe(result)))


class PolicyError(Exception):
    """What a policy raised, as text: a StopIteration or SystemExit itself cannot travel through a future."""


def _describe(error: BaseException) -> str:
    text = str(error) if isinstance(error, PolicyError) else f"{type(error).__name__}: {error}"
    return text[:_DETAIL_CHARS_MAX]

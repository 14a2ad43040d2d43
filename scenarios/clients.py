"""Clients of services whose replicas are weighted: every second each site asks, and who answers decides how it fares.

They follow the weights in force, as a router would that reads the master's events; without weights they ask the running
replicas in turn. A replica answers while its process runs, over the true network of that moment, as many requests a
second as it can; what is beyond that, past its target, sent to one that is gone or over no way at all is missed.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from federation.facts import ServiceBalanced
from policies.model import Record, Replicas, Weight
from scenarios.world import Clients as ClientsSpec

SECOND_US = 1_000_000
PPM = 1_000_000


class Asking(Record, frozen=True, kw_only=True):
    """One second of one service: requests asked, those missed, and the round trips of those that were answered."""

    at_us: int  # from the start of the run
    asked: int
    missed: int
    n_replicas: int
    answered: dict[int, int]  # round trip → requests


class Replica(NamedTuple):
    task_id: str
    site: str


class ServiceClients:
    """Those of one service. `rtt_us(a, b)` is the true round trip between two sites now, None where there is no way."""

    def __init__(
        self, spec: ClientsSpec, replicas: Replicas, rtt_us: Callable[[str, str], int | None], start_us: int
    ) -> None:
        self._replicas, self._rtt_us, self._start_us = replicas, rtt_us, start_us
        self._targets_us = {target.site: target.rtt_us for target in spec.targets}
        self.asked = {target.site: target.weight for target in spec.targets}
        self._weights: tuple[Weight, ...] = ()
        self.seconds: list[Asking] = []

    def hear(self, fact: ServiceBalanced) -> None:
        self._weights = fact.weights

    def ask(self, running: Mapping[str, str], now_us: int) -> None:
        """A second passes. `running` maps task id → site of the replicas whose processes run."""
        sent = [(site, task_id, n) for site in self.asked for task_id, n in self._split(site, running)]
        load: dict[str, int] = {}
        for _, task_id, n in sent:
            load[task_id] = load.get(task_id, 0) + n
        answered: dict[int, int] = {}
        in_time = 0
        for site, task_id, n in sent:
            rtt_us = self._rtt_us(site, running[task_id]) if task_id in running else None
            if rtt_us is None:
                continue
            most = self._replicas.answers_per_second or load[task_id]
            taken = n * min(most, load[task_id]) // load[task_id]
            answered[rtt_us] = answered.get(rtt_us, 0) + taken
            in_time += taken if rtt_us <= self._targets_us[site] else 0
        asked = sum(self.asked.values())
        self.seconds.append(
            Asking(
                at_us=now_us - self._start_us,
                asked=asked,
                missed=asked - in_time,
                n_replicas=len(running),
                answered=answered,
            )
        )

    def _split(self, site: str, running: Mapping[str, str]) -> list[tuple[str, int]]:
        """Whom a site's requests of a second go to."""
        parts = {each.task_id: each.share_ppm for each in self._weights if each.site == site}
        if not parts:
            parts = {task_id: PPM // len(running) for task_id in sorted(running)}
        if not parts:
            return []
        whole = sum(parts.values())
        split = {task_id: self.asked[site] * share // whole for task_id, share in parts.items()}
        split[max(split, key=lambda task_id: (parts[task_id], task_id))] += self.asked[site] - sum(split.values())
        return [(task_id, n) for task_id, n in split.items() if n]

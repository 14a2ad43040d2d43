"""Numbers of a run by name, as expectations and reports ask for them. Names and units: `scenarios/expect.py`."""

from collections.abc import Iterable

from federation.facts import TaskStateChanged
from federation.states import TaskState
from policies.model import LatencyTarget
from policies.resources import role_chain
from scenarios.clients import Asking
from scenarios.expect import DISTRIBUTIONS, Metric, Window
from scenarios.player import START_US
from scenarios.predictions import predictions
from scenarios.records import NEVER_US, JobRun, Records, Span, TaskRun

HOUR_US = 3_600_000_000
EVERYTHING = Window()


class Metrics:
    def __init__(self, records: Records) -> None:
        self._records = records
        self._outcome = records.outcome
        self._links = {(first, second): spec for first, second, spec in self._outcome.world.links}
        arrivals = self._outcome.world.arrivals
        self._arrivals = {each.job_id: arrivals[each.arrival] for each in self._outcome.submissions if each.job_id}
        ended_us = self._outcome.ended_us
        self._incidents = [
            (each.began_us, (each.over_us if each.over_us is not None else ended_us) + (each.recovery_us or 0))
            for each in self._outcome.incidents
            if each.struck
        ]

    def value(self, metric: Metric, window: Window = EVERYTHING) -> float | None:
        """In the metric's small unit; None where nothing was there to be measured."""
        if metric.function:
            return _apply(metric.function, self.by_role(window))
        if metric.measure in DISTRIBUTIONS:
            samples = sorted(self._samples(metric.measure, metric.scope, window))
            return float(len(samples)) if metric.stat == "count" else statistic(samples, metric.stat)
        return self._scalar(metric.measure, metric.scope, window)

    # --- distributions -----------------------------------------------------------------------------------------------

    def _samples(self, measure: str, scope: str, window: Window) -> Iterable[float]:
        if measure == "recovery.time":
            return [
                float(each.recovery_us)
                for each in self._outcome.incidents
                if each.recovery_us is not None and _is_within(each.began_us, window)
            ]
        if measure == "prediction_error":
            return [each.error for each in predictions(self._outcome.facts) if _is_within(each.at_us, window)]
        if measure == "request_rtt":
            seconds = self._asking(scope, window)
            return [float(rtt_us) for each in seconds for rtt_us, n in each.answered.items() for _ in range(n)]
        if measure == "completion":
            jobs = self._jobs(scope, window)
            return [float(job.ended_us - job.arrived_us) for job in jobs if job.ended_us is not None]
        found: list[float] = []
        for task in self._tasks(scope, window):
            value = self._of_task(measure, task)
            if value is not None:
                found.append(value)
        return found

    def _of_task(self, measure: str, task: TaskRun) -> float | None:
        finished = task.state is TaskState.FINISHED and task.ended_us is not None
        match measure:
            case "latency" if finished and task.ended_us is not None:
                return float(task.ended_us - task.arrived_us)
            case "slowdown" if finished and task.ended_us is not None:
                return (task.ended_us - task.arrived_us) / task.told_us
            case "wait" if task.placed_us is not None and task.pending_us is not None:
                return float(max(0, task.placed_us - task.pending_us))
            case "stage" if task.stage_us is not None:
                return float(task.stage_us)
            case "run" if task.run_us is not None and finished:
                return float(task.run_us)
            case "client_rtt" if task.agent_id:
                return self._client_rtt(task)
            case _:
                return None

    def _client_rtt(self, task: TaskRun) -> float | None:
        """Weighted over the clients it serves, on the true network."""
        pairs = [(rtt_us, each.weight) for rtt_us, each in self._clients(task) if rtt_us is not None]
        return sum(rtt * weight for rtt, weight in pairs) / sum(weight for _, weight in pairs) if pairs else None

    def _clients(self, task: TaskRun) -> list[tuple[int | None, LatencyTarget]]:
        """Each of its targets with the true round trip from where it ran; None: there is no way."""
        arrival = self._arrivals.get(task.job_id)
        group = task.task_id.rsplit("/", 2)[1]
        groups = arrival.job.tasks if arrival is not None else ()
        targets = next((each.latency for each in groups if each.name == group), ())
        agent = self._records.specs[task.agent_id]
        line_us = agent.uplink[0].rtt_us if agent.uplink is not None else 0
        links = [(self._links.get((agent.site, each.site)), each) for each in targets]
        return [
            (0 if each.site == agent.site else spec.rtt_us + line_us if spec else None, each) for spec, each in links
        ]

    def _client_miss(self, tasks: Iterable[TaskRun]) -> float | None:
        clients = [pair for task in tasks if task.agent_id for pair in self._clients(task)]
        missed = sum(each.weight for rtt_us, each in clients if rtt_us is None or rtt_us > each.rtt_us)
        return missed / sum(each.weight for _, each in clients) if clients else None

    def _asking(self, scope: str, window: Window) -> list[Asking]:
        """What clients got, second by second; `scope` is the service's name or its role."""
        roles = {each.origin: each.job.role for each in self._outcome.world.arrivals if each.clients is not None}
        return [
            each
            for origin, seconds in self._outcome.asking.items()
            if scope in ("", origin, *role_chain(roles[origin]))
            for each in seconds
            if _is_within(each.at_us, window)
        ]

    # --- which tasks count -------------------------------------------------------------------------------------------

    def _tasks(self, scope: str, window: Window) -> Iterable[TaskRun]:
        for task in self._records.tasks.values():
            if (not scope or scope in task.scopes) and self._counts(task.arrived_us, task.ended_us, window):
                yield task

    def _jobs(self, scope: str, window: Window) -> Iterable[JobRun]:
        for job in self._records.jobs.values():
            if (not scope or scope in job.scopes) and self._counts(job.arrived_us, job.ended_us, window):
                yield job

    def _counts(self, arrived_us: int, ended_us: int | None, window: Window) -> bool:
        if not _is_within(arrived_us, window):
            return False
        if window.faults == "any":
            return True
        last_us = self._outcome.ended_us if ended_us is None else ended_us
        met = any(began_us <= last_us and arrived_us <= over_us for began_us, over_us in self._incidents)
        return met == (window.faults == "during")

    # --- single numbers ----------------------------------------------------------------------------------------------

    def _scalar(self, measure: str, scope: str, window: Window) -> float | None:
        head, _, tail = measure.partition(".")
        match head:
            case "tasks":
                states = [task.state for task in self._tasks(scope, window)]
                return float(_count(states, tail))
            case "jobs" if tail == "refused":
                return float(len(self._outcome.refused))
            case "jobs":
                jobs = [job.state for job in self._jobs(scope, window)]
                return float(jobs.count("running" if tail == "open" else tail))
            case "attempts":
                tasks = self._tasks(scope, window)
                return float(sum(task.n_failed if tail == "failed" else task.n_attempts for task in tasks))
            case "utilisation":
                return self._utilisation(3 if tail == "gpu" else 0, window)
            case "recovery":
                missing = (
                    each for each in self._outcome.incidents if each.over_us is not None and each.recovery_us is None
                )
                return float(sum(_recovers(each.what) and _is_within(each.began_us, window) for each in missing))
            case "decisions":
                changed = self._outcome.n_decided_otherwise
                return None if changed is None else float(changed)
            case "laws":
                return float(len(self._outcome.broken_laws))
            case "rounds":
                return float(self._outcome.n_rounds)
            case "offers":
                counts = self._outcome.offers.items()
                return float(sum(getattr(each, tail) for name, each in counts if scope in ("", name)))
            case "moves":
                changes = (fact for fact in self._outcome.facts if isinstance(fact, TaskStateChanged))
                return float(sum(fact.reason == "moved" and fact.state == "pending"
                                 and _is_within(fact.at_us - START_US, window) for fact in changes))  # fmt: skip
            case "redirects":
                return float(self._outcome.n_redirected)
            case "egress":
                carried = self._outcome.bytes_by_link
                prices = self._outcome.world.egress
                return sum(carried.get(f"{a}→{b}", 0) * price for a, b, price in prices) / 1e15 if prices else None
            case "bytes_moved":
                return float(self._outcome.bytes_between_sites)
            case _:
                return self._of_tasks(head, scope, window)

    def _of_tasks(self, measure: str, scope: str, window: Window) -> float | None:
        tasks = list(self._tasks(scope, window))
        finished = [task for task in tasks if task.state is TaskState.FINISHED]
        match measure:
            case "request_miss":
                seconds = self._asking(scope, window)
                asked = sum(each.asked for each in seconds)
                return sum(each.missed for each in seconds) / asked if asked else None
            case "replicas":
                seconds = self._asking(scope, window)
                return sum(each.n_replicas for each in seconds) / len(seconds) if seconds else None
            case "client_miss":
                return self._client_miss(tasks)
            case "deadline_miss":
                timed = [task for task in tasks if task.deadline_us is not None]
                return sum(map(self._missed, timed)) / len(timed) if timed else None
            case "edge_share":
                edge = sum(self._records.specs[task.agent_id].tier == "edge" for task in finished)
                return edge / len(finished) if finished else None
            case "throughput":
                return len(finished) * 1e6 / self._outcome.ended_us if self._outcome.ended_us else None
            case "cost":
                chosen = {task.task_id for task in tasks}
                return sum(self._cost(span) for span in self._records.spans if span.task_id in chosen)
            case _:  # makespan
                jobs = list(self._jobs(scope, window))
                ends = [job.ended_us for job in jobs if job.ended_us is not None]
                complete = jobs and len(ends) == len(jobs)
                return float(max(ends) - min(job.arrived_us for job in jobs)) if complete else None

    def _missed(self, task: TaskRun) -> bool:
        assert task.deadline_us is not None
        ended_us = task.ended_us if task.state is TaskState.FINISHED else None
        if ended_us is None:  # Not done: missed if it was due within the run, or can no longer be done.
            return task.state is not TaskState.FINISHED and (
                task.ended_us is not None or task.arrived_us + task.deadline_us <= self._outcome.ended_us
            )
        return ended_us - task.arrived_us > task.deadline_us

    def _cost(self, span: Span) -> float:
        """Of cores and GPUs, from when it was placed; of an agent with GPUs at several prices those of the model that
        the task asks for, else their mean."""
        spec = self._records.specs[span.agent_id]
        hours = (span.ended_us - span.placed_us) / HOUR_US
        price = spec.price_microusd_per_cpu_hour * span.cpu_milli / 1000
        if span.gpu_milli and spec.gpu_prices:
            prices = dict(spec.gpu_prices)
            need = self._records.tasks[span.task_id].needs.gpu
            models = [need.model] if need is not None and need.model else [gpu.model for gpu in spec.total.gpus]
            price += sum(prices.get(model or "", 0) for model in models) / len(models) * span.gpu_milli / 1000
        return price * hours / 1e6

    def _utilisation(self, kind: int, window: Window) -> float | None:
        total = self._records.totals[kind]
        from_us, to_us = window.from_us, min(self._outcome.ended_us, NEVER_US if window.to_us is None else window.to_us)
        if not total or to_us <= from_us:
            return None
        used = sum((span.gpu_milli if kind == 3 else span.cpu_milli)
                   * max(0, min(span.ended_us, to_us) - max(span.placed_us, from_us))
                   for span in self._records.spans)  # fmt: skip
        return used / (total * (to_us - from_us))

    def by_role(self, window: Window = EVERYTHING) -> dict[str, float]:
        """Dominant share over weight, averaged over the time in which every role wanted more."""
        records = self._records
        if window != EVERYTHING:
            records = Records(self._outcome, window.from_us, NEVER_US if window.to_us is None else window.to_us)
        weights = {role.path: role.weight for role in self._outcome.world.roles}
        shares: dict[str, float] = {}
        for role, held_us in records.held_us.items():
            whole = max(1, records.contended_us)
            parts = (held / whole / total for held, total in zip(held_us, records.totals, strict=True) if total)
            dominant = max(parts, default=0.0)
            shares[role] = dominant / weights.get(role, 1)
        return shares


def _is_within(at_us: int, window: Window) -> bool:
    return window.from_us <= at_us and (window.to_us is None or at_us < window.to_us)


def _recovers(what: str) -> bool:
    return what.startswith(("kill", "power off", "pause", "cut", "disk"))


def _count(states: list[TaskState], tail: str) -> int:
    if tail == "total":
        return len(states)
    if tail == "open":
        return sum(state not in (TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED) for state in states)
    return sum(state == tail for state in states)


def _apply(function: str, values: dict[str, float]) -> float | None:
    """Jain's index (Jain, Chiu, Hawe, DEC-TR-301, 1984) is 1 where all are equal and 1/n where one has everything."""
    some = list(values.values())
    if not some:
        return None
    match function:
        case "jain":
            squares = sum(value * value for value in some)
            return sum(some) ** 2 / (len(some) * squares) if squares else None
        case "min":
            return min(some)
        case "max":
            return max(some)
        case _:
            return sum(some) / len(some)


def statistic(ordered: list[float], stat: str) -> float | None:
    """Of sorted samples. A percentile is the smallest value with at least that share at or below it."""
    if not ordered:
        return None
    match stat:
        case "mean":
            return sum(ordered) / len(ordered)
        case "min":
            return ordered[0]
        case "max":
            return ordered[-1]
        case _:
            return quantile(ordered, float(stat.removeprefix("p")) / 100)


def quantile(ordered: list[float], share: float) -> float | None:
    """The smallest value with at least that share at or below it; None of nothing."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]

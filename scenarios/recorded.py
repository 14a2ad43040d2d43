"""A scenario file out of recordings: what a live master went through, as it was and as a world for other policies.

It names the recordings, and a run under the policy of then repeats them (`scenarios/rerun.py`). The world beside them
is for every other run: who offered what is in the births, links are medians of what was measured, jobs are as they were
submitted, with the median of the run times that each group's tasks really took, and who came back as a new process was
killed.
"""

import itertools
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from federation import commands, events
from federation.api import SubmitJob
from federation.errors import ConfigError
from federation.facts import JobAccepted, TaskStateChanged
from federation.jobs import Job, TaskGroup
from federation.master import Master
from federation.recording import read
from federation.saved import decode_saved
from federation.units import (
    format_bandwidth,
    format_bytes,
    format_cpu,
    format_duration,
    format_percent,
    format_price,
)
from federation.wire import Birth, Death, LinkSample, NetReport
from policies.gpus import is_share
from policies.model import Needs, Resources, Where
from policies.resources import kinds
from scenarios.rerun import Numbering, digest_of

BANDWIDTH_BPS = 1_000_000_000  # of a link whose rate nobody measured
RTT_US = 1_000
TAIL_US = 60_000_000  # after the last event


class _Heard:
    """What a recording tells, gathered in one pass."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.births: dict[str, list[tuple[int, Birth]]] = {}
        self.deaths: dict[str, list[int]] = {}
        self.samples: list[LinkSample] = []
        self.jobs: list[tuple[int, Job]] = []
        self.run_us: dict[tuple[int, str], list[int]] = {}  # (number of the job, group) → of finished tasks, at speed 1
        self.begun_us: int | None = None
        self.ended_us = 0
        self.restarts: list[tuple[int, int]] = []  # of the master: when it was last heard of, and when again
        self.n_jobs_before = 0
        self._numbering = Numbering()
        self._numbers: dict[str, int] = {}  # job id → number
        for path in paths:
            self._go_through(path)

    def _go_through(self, path: Path) -> None:
        header, recorded = read(path)
        if header.state is None:
            master = Master(header.config, header.policy)
        else:
            master = Master.restore(header.config, decode_saved(header.state).durable, header.policy)
        if self.begun_us is None:
            self.policy, self.config, self.n_jobs_before = header.policy, header.config, len(master.core.tasks.jobs)
        is_first = True
        for each in recorded:
            if self.begun_us is None:
                self.begun_us = each.at_us
            elif is_first:
                if each.at_us < self.ended_us or header.policy != self.policy:
                    raise ConfigError(
                        f"{path} does not follow the recording before it: name them in order, of one policy"
                    )
                self.restarts.append((self.ended_us, each.at_us))
            is_first = False
            self.ended_us = each.at_us
            self._hear(each.event, each.at_us)
            for command in master.handle(each.event, each.at_us):
                if isinstance(command, commands.Persist):
                    self._learn(command.fact, master)

    def _hear(self, event: events.Event, at_us: int) -> None:
        if self._numbering.hear(event) and isinstance(event, events.Asked) and isinstance(event.request, SubmitJob):
            self.jobs.append((at_us, event.request.job))
        if not isinstance(event, events.AgentSpoke):
            return
        match event.message:
            case Birth() as birth:
                self.births.setdefault(birth.agent_id, []).append((at_us, birth))
            case Death(agent_id=agent_id):
                self.deaths.setdefault(agent_id, []).append(at_us)
            case NetReport(samples=samples):
                self.samples += samples
            case _:
                pass

    def _learn(self, fact: object, master: Master) -> None:
        match fact:
            case JobAccepted(job_id=job_id):
                self._numbers[job_id] = self._numbering.of(fact)
            case TaskStateChanged(state="finished", run_us=int(run_us), task_id=task_id):
                job_id, group, _ = task_id.rsplit("/", 2)
                agent = master.core.tasks.tasks[task_id].agent_id
                if job_id in self._numbers and agent in self.births:
                    speed_milli = self.births[agent][-1][1].speed_milli
                    runs = self.run_us.setdefault((self._numbers[job_id], group), [])
                    runs.append(max(1, run_us * speed_milli // 1000))
            case _:
                pass


def scenario_of(paths: Sequence[Path], folder: Path) -> tuple[str, tuple[str, ...]]:
    """The text of a file in `folder`, and what the recordings, one after the other, did not tell. Raises `ConfigError`
    for what is no recording, or does not follow the one before."""
    heard = _Heard(paths)
    notes: list[str] = []
    if heard.n_jobs_before:
        notes.append(
            f"{heard.n_jobs_before} jobs were there before the recording began and are left out: the scenario is a "
            "world like the recorded one, and `scenario replay` alone repeats its decisions"
        )
    sites: dict[str, str] = {agent: births[0][1].site for agent, births in heard.births.items()}
    begun_us = heard.begun_us or 0
    names = " and ".join(path.name for path in paths)
    document: dict[str, Any] = {
        "schema": "offerflow/scenario/v1",
        "name": "recorded",
        "purpose": f"what a live master with policy {heard.policy} went through, from {names}",
        "seed": 1,
        "duration": format_duration(heard.ended_us - begun_us + TAIL_US),
        "topology": _topology(heard, sites, notes),
    }
    data = {
        held.name: {"at": birth.site, "size": format_bytes(held.size_bytes)}
        for births in heard.births.values()
        for _, birth in births[:1]
        for held in birth.shards
        if held.name
    }
    if data:
        document["data"] = data
    jobs = []
    for number, (at_us, job) in enumerate(heard.jobs):
        entry: dict[str, Any] = {"at": format_duration(at_us - begun_us), "job": job_document(job)}
        actual = {
            group.name: format_duration(int(statistics.median(runs)))
            for group in job.tasks
            if (runs := heard.run_us.get((number, group.name)))
        }
        jobs.append(entry | ({"actual_run": actual} if actual else {}))
        if any(group.elastic for group in job.tasks):
            notes.append(f"job {job.name}: its elastic bounds are left out")
    document["workload"] = {"jobs": jobs, **_roles(heard)}
    faults = _faults(heard, begun_us)
    if faults:
        document["faults"] = faults
    document["matrix"] = {"policy": [heard.policy]}
    if not heard.n_jobs_before:
        document["expect"] = {"slo": ["decisions.changed == 0"]}
        document["recording"] = [{"file": os.path.relpath(path, folder), "digest": digest_of(path)} for path in paths]
    head = f"# Made from {names} by `offerflow scenario record`: under {heard.policy} the recorded run,\n"
    head += "# for other policies or seeds a world like it.\n"
    body = msgspec.json.format(msgspec.json.encode(document), indent=1).decode()  # JSON is YAML
    return f"{head}{body}\n", tuple(notes)


def _roles(heard: _Heard) -> dict[str, Any]:
    roles: dict[str, Any] = {}
    for role in heard.config.roles:
        quota = role.quota
        shown = {
            key: value
            for key, value in (
                ("cpu", quota and quota.cpu_milli and format_cpu(quota.cpu_milli)),
                ("memory", quota and quota.memory_bytes and format_bytes(quota.memory_bytes)),
                ("disk", quota and quota.disk_bytes and format_bytes(quota.disk_bytes)),
                ("gpus", quota and kinds(quota)[3] / 1000),
            )
            if value
        }
        roles[role.path] = {"weight": role.weight, **({"quota": shown} if shown else {})}
    return {"roles": roles} if roles else {}


def _topology(heard: _Heard, sites: dict[str, str], notes: list[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for agent_id, births in sorted(heard.births.items()):
        birth = births[0][1]
        site = shown.setdefault(birth.site, {"tier": birth.tier, "agents": {}})
        if birth.region:
            site["region"] = birth.region
        site["agents"][agent_id] = _agent(birth)
    echoes: dict[str, list[int]] = {}
    rtts: dict[tuple[str, str], list[int]] = {}
    rates: dict[tuple[str, str], list[int]] = {}
    for sample in heard.samples:
        if sample.method in ("mqtt_echo", "tcp_info") and sample.rtt_us is not None and sample.from_agent in sites:
            echoes.setdefault(sites[sample.from_agent], []).append(sample.rtt_us)
        ends = sites.get(sample.from_agent), sites.get(sample.to_agent)
        if ends[0] is None or ends[1] is None:
            continue
        way = (ends[0], ends[1])
        if sample.rtt_us is not None:
            rtts.setdefault(way, []).append(sample.rtt_us)
        if sample.bandwidth_bps and not sample.is_lower_bound:
            rates.setdefault(way, []).append(sample.bandwidth_bps * sample.shared_milli // 1000)
    names = sorted(shown)
    near = {name: int(statistics.median(echoes.get(name, [RTT_US]))) for name in names}
    master = min(names, key=lambda name: (near[name], name), default="")
    links = []
    for first in names:
        for second in names:
            if first == second and (first, second) not in rates:
                continue
            way, back = (first, second), (second, first)
            found = rtts.get(way) or rtts.get(back)
            rtt_us = int(statistics.median(found)) if found else max(RTT_US, near[first], near[second])
            if way not in rates:
                notes.append(f"nobody measured the bandwidth from {first} to {second}: 1Gbit is assumed")
            rate_bps = int(statistics.median(rates.get(way, [BANDWIDTH_BPS])))
            where = {"within": first} if first == second else {"from": first, "to": second}
            links.append({**where, "rtt": format_duration(max(1, rtt_us)), "bandwidth": format_bandwidth(rate_bps)})
    return {"master": master, "sites": shown, **({"links": links} if links else {})}


def _agent(birth: Birth) -> dict[str, Any]:
    total: Resources = birth.total
    shown: dict[str, Any] = {
        "cpu": format_cpu(total.cpu_milli),
        "memory": format_bytes(total.memory_bytes),
        "disk": format_bytes(total.disk_bytes),
    }
    if birth.speed_milli != 1000:
        shown["speed"] = f"{birth.speed_milli / 1000:g}"
    if birth.hardware:
        shown["hardware"] = birth.hardware
    if birth.price_microusd_per_cpu_hour:
        shown["price"] = format_price(birth.price_microusd_per_cpu_hour)
    if birth.labels:
        shown["labels"] = dict(birth.labels)
    gpus: dict[str, dict[str, Any]] = {}
    for gpu in total.gpus:
        entry = gpus.setdefault(gpu.model or "gpu", {"count": 0})
        entry["count"] += 1
        if gpu.memory_bytes:
            entry["memory"] = format_bytes(gpu.memory_bytes)
        if gpu.isolation == "shared":
            entry["shared"] = True
    return shown | ({"gpus": gpus} if gpus else {})


def _faults(heard: _Heard, begun_us: int) -> list[dict[str, Any]]:
    """Who came back as another process was killed; of agents their will says when, of a master its last event."""
    found: list[tuple[int, dict[str, Any]]] = []
    for gone_us, at_us in heard.restarts:
        fault = {"at": format_duration(gone_us - begun_us), "kill": "master"}
        found.append((gone_us, fault | {"restart": format_duration(max(1, at_us - gone_us))}))
    for agent_id, births in sorted(heard.births.items()):
        for (_, before), (at_us, birth) in itertools.pairwise(births):
            if birth.boot == before.boot:
                continue
            gone_us = max((each for each in heard.deaths.get(agent_id, ()) if each <= at_us), default=at_us)
            kill = {"at": format_duration(gone_us - begun_us), "kill": {"agents": agent_id}}
            found.append((gone_us, kill | {"restart": format_duration(max(1, at_us - gone_us))}))
    return [fault for _, fault in sorted(found, key=lambda pair: pair[0])]


# --- jobs as their files say them ------------------------------------------------------------------------------------


def job_document(job: Job) -> dict[str, Any]:
    """What a job file would say; code is left out, for a simulated task has none."""
    tasks = {group.name: _group_document(group) for group in job.tasks}
    return {"job": job.name, "role": job.role, "priority": job.priority, "tasks": tasks}


def _group_document(group: TaskGroup) -> dict[str, Any]:
    shown: dict[str, Any] = {"command": list(group.command), "run": format_duration(group.run_us)}
    if group.for_each is not None:
        shown["for_each"] = {"shard": group.for_each}
    elif group.replicas is not None:
        bounds = {"min": group.replicas.least, "max": group.replicas.most}
        answers = group.replicas.answers_per_second
        shown["service"] = {"replicas": bounds} | ({"answers": answers} if answers else {})
    elif group.count > 1:
        shown["count"] = group.count
    if group.reads:
        shown["reads"] = list(group.reads)
    if group.writes:
        shown["writes"] = {
            write.name: {"file": write.path, "max": format_bytes(write.bytes_max)} for write in group.writes
        }
    if group.after:
        shown["after"] = list(group.after)
    shown["needs"] = _needs_document(group.needs)
    if group.where != Where():
        shown["where"] = _where_document(group.where)
    if group.profile:
        shown["profile"] = group.profile
    shown["retry"] = {"attempts": group.attempts_max}
    for key, value_us in (("time_limit", group.time_limit_us), ("deadline", group.deadline_us)):
        if value_us is not None:
            shown[key] = format_duration(value_us)
    if group.latency:
        shown["latency"] = [
            {"to": each.site, "rtt": format_duration(each.rtt_us), "weight": each.weight} for each in group.latency
        ]
    if group.gang:
        shown["gang"] = True
    if group.communication is not None:
        said = group.communication
        shown["communication"] = {
            "pattern": said.pattern,
            "bytes": format_bytes(said.bytes_per_step),
            "synchronous": said.synchronous,
            "compressible": said.compressible,
            **({"iteration": format_duration(said.iteration_us)} if said.iteration_us else {}),
            **({"duty": format_percent(said.duty_ppm)} if said.duty_ppm else {}),
        }
    return shown


def _needs_document(needs: Needs) -> dict[str, Any]:
    shown: dict[str, Any] = {"cpu": format_cpu(needs.cpu_milli), "memory": format_bytes(needs.memory_bytes)}
    if needs.disk_bytes:
        shown["disk"] = format_bytes(needs.disk_bytes)
    if needs.gpu is not None:
        gpu: dict[str, Any] = {"count": needs.gpu.milli / 1000 if is_share(needs.gpu) else needs.gpu.count}
        if needs.gpu.model is not None:
            gpu["model"] = needs.gpu.model
        if needs.gpu.memory_bytes:
            gpu["memory"] = format_bytes(needs.gpu.memory_bytes)
        shown["gpu"] = gpu
    if needs.links:
        shown["links"] = [
            {
                "to": link.site,
                **({"rtt": format_duration(link.rtt_us_max)} if link.rtt_us_max is not None else {}),
                **({"bandwidth": format_bandwidth(link.bandwidth_bps_min)} if link.bandwidth_bps_min else {}),
            }
            for link in needs.links
        ]
    return shown


def _where_document(where: Where) -> dict[str, Any]:
    shown = {
        "tier": list(where.tiers),
        "site": list(where.sites),
        "agents": list(where.agents),
        "labels": dict(where.labels),
    }
    return {key: value for key, value in shown.items() if value}

"""Run the demo's job under one policy and read off what happened."""

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

from federation.api import JobView, TaskView, WhyView
from federation.cli.client import Client
from federation.errors import OfferflowError
from federation.jobfile import load_job
from policies.model import CostTerms, Link, Record
from scenarios.demo.stage import Stage

JOB_FILE = Path(__file__).with_name("job.yaml")
JOB_TIMEOUT_S = 300.0


class Placed(Record, frozen=True, kw_only=True, omit_defaults=False):
    """Where one shard was trained and why: the cost terms the policy saw, and its next-best choice."""

    shard: str
    home: str  # the site that held it
    site: str
    agent_id: str
    terms: CostTerms | None
    next_best: str
    next_best_us: int | None
    stage_us: int | None  # what fetching and the run then really took
    run_us: int | None


class Run(Record, frozen=True, kw_only=True, omit_defaults=False):
    policy: str
    completion_s: float
    uplink_bytes: int
    tasks_edge: int
    tasks_cloud: int
    accuracy: float
    broker: str
    links: tuple[Link, ...]
    placements: tuple[Placed, ...]


async def run_policy(
    folder: Path, policy: str, data: Path, on_step: Callable[[str], None], on_job: Callable[[JobView], None]
) -> Run:
    """One policy, from a fresh start of every process. Raises `OfferflowError` when the job does not finish."""
    on_step(f"{policy}: starting broker, master and four agents")
    async with Stage(folder, policy, data) as stage:
        on_step(f"{policy}: agents measure their links")
        await stage.wait_until_measured()
        links = await asyncio.to_thread(stage.client.network)
        on_step(f"{policy}: the job runs")
        job = await _run_job(stage.client, on_job)
        tasks = await asyncio.to_thread(lambda: list(stage.client.tasks(job_id=job.job_id)))
        whys = {
            task.task_id: await asyncio.to_thread(stage.client.why, task.task_id)
            for task in tasks
            if task.group == "train"
        }
        assert job.ended_us is not None
        return Run(
            policy=policy,
            completion_s=round((job.ended_us - job.submitted_us) / 1e6, 2),
            uplink_bytes=sum(task.fetched_bytes for task in tasks),
            tasks_edge=sum(task.tier == "edge" for task in tasks),
            tasks_cloud=sum(task.tier == "cloud" for task in tasks),
            accuracy=await asyncio.to_thread(_accuracy, stage.client, job.job_id),
            broker=stage.broker_kind,
            links=links,
            placements=tuple(_placed(task, whys[task.task_id], data) for task in tasks if task.task_id in whys),
        )


async def _run_job(client: Client, on_job: Callable[[JobView], None]) -> JobView:
    jobfile = load_job(JOB_FILE)
    for shard_id, path in jobfile.artifacts.items():
        await asyncio.to_thread(client.put_shard, shard_id, path)
    job = await asyncio.to_thread(client.submit, jobfile.job)
    async with asyncio.timeout(JOB_TIMEOUT_S):
        while job.state == "running":
            on_job(job)
            await asyncio.sleep(0.1)
            job = await asyncio.to_thread(client.job, job.job_id)
    on_job(job)
    if job.state != "finished":
        raise OfferflowError(f"the demo's job {job.state}: {job.detail}")
    return job


def _placed(task: TaskView, why: WhyView, data: Path) -> Placed:
    """Task `<job>/train/<n>` reads the n-th shard by name; the folder it lies in names its site."""
    shards = sorted(path.relative_to(data / site.name) for site in data.iterdir() for path in site.rglob("digits/*"))
    shard = str(shards[int(task.task_id.rsplit("/", 1)[1])])
    home = next(site.name for site in data.iterdir() if (site / shard).exists())
    best = why.alternatives[0] if why.alternatives else None
    return Placed(
        shard=shard,
        home=home,
        site=task.site,
        agent_id=task.agent_id,
        terms=why.terms,
        next_best=best.agent_id if best else "",
        next_best_us=best.terms.total_us() if best else None,
        stage_us=task.stage_us,
        run_us=task.run_us,
    )


def _accuracy(client: Client, job_id: str) -> float:
    """From the file that the evaluation wrote, fetched from the agent that holds it."""
    (shard,) = client.shards(f"{job_id}/evaluate/*/accuracy")
    url = client.agent(shard.replicas[0]).data_url
    with urllib.request.urlopen(f"{url}/shards/{shard.shard_id}", timeout=10) as answer:
        return float(json.load(answer)["accuracy"])

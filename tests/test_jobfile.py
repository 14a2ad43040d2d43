"""Job files: what is written becomes the job that is meant, and each mistake is one sentence with its place."""

import gzip
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from federation import artifacts, jobfile
from federation.errors import ConfigError
from federation.jobfile import load_job
from federation.jobs import Artifact, Job, TaskGroup, Write
from federation.jobschema import job_schema
from federation.strictyaml import load, loads, to_plain
from policies.model import Communication, GpuNeed, LatencyTarget, LinkNeed, Needs, Where

ROOT = Path(__file__).parents[1]
SKETCH = ROOT.parent / "shared" / "examples" / "job-sketch.yaml"
FULL = """\
job: everything
role: ml/vision
priority: 80
artifact: code
env: {A: 1, B: two}
tasks:
  prepare:
    command: [python, prepare.py, --shard, "{shard.path}", --name, "{shard.name}", --out, "{out}/clean.npz"]
    for_each: {shard: "raw/*"}
    reads: "{shard}"
    writes: {clean: 20MiB}
    needs: {cpu: 0.5, memory: 1GiB, disk: 100MiB, gpu: 2, links: [{to: plant-a, rtt: <20ms, bandwidth: 12Mbit}]}
    where: {tier: edge, site: [plant-b, plant-a], agents: [gw-1], labels: {camera: yes, arch: arm64}}
    env: {B: 2}
    run: 5s
    retry: {attempts: 1}
    time_limit: 1h30m
    deadline: 2h
    profile: prep
  train:
    after: [prepare]
    count: 4
    command: [sh, -c, "train --in {in} --rank {index} > {out}/log && echo ${HOME} { kept }"]
    reads: ["prepare/*/clean", "labels"]
    writes: {log: {file: log, max: 1MB}}
    needs: {gpu: {count: 1, model: a100, memory: 24GiB}}
    residency: {tier: [cloud, edge]}
    gang: true
    communication: {pattern: allreduce, bytes: 4MiB, compressible: true}
    latency: [{to: shop-1, rtt: 30ms, weight: 2}]
"""


def write(folder: Path, text: str) -> Path:
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / "train.py").write_text("print('hello')\n")
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_every_key_lands_where_it_belongs(tmp_path: Path) -> None:
    loaded = load_job(write(tmp_path, FULL))
    (digest,) = loaded.artifacts
    code = Artifact(shard_id=digest, size_bytes=loaded.artifacts[digest].stat().st_size, name="code.tar.gz")
    prepare = TaskGroup(
        name="prepare",
        command=(
            "python", "prepare.py", "--shard", "{shard.path}", "--name", "{shard.name}", "--out", "{out}/clean.npz",
        ),
        for_each="raw/*",
        reads=("{shard}",),
        writes=(Write(name="clean", path="clean.npz", bytes_max=20 * 2**20),),
        needs=Needs(
            cpu_milli=500,
            memory_bytes=2**30,
            disk_bytes=100 * 2**20,
            gpu=GpuNeed(count=2),
            links=(LinkNeed(site="plant-a", rtt_us_max=20_000, bandwidth_bps_min=12_000_000),),
        ),
        where=Where(
            tiers=("edge",),
            sites=("plant-a", "plant-b"),
            agents=("gw-1",),
            labels=(("arch", "arm64"), ("camera", "yes")),
        ),
        artifact=code,
        env={"A": "1", "B": "2"},
        run_us=5_000_000,
        attempts_max=1,
        time_limit_us=5_400_000_000,
        deadline_us=7_200_000_000,
        profile="prep",
    )  # fmt: skip
    train = TaskGroup(
        name="train",
        command=("sh", "-c", "train --in {in} --rank {index} > {out}/log && echo ${HOME} { kept }"),
        count=4,
        after=("prepare",),
        reads=("prepare/*/clean", "labels"),
        writes=(Write(name="log", path="log", bytes_max=1_000_000),),
        needs=Needs(
            cpu_milli=1000,
            memory_bytes=256 * 2**20,
            gpu=GpuNeed(count=1, model="a100", memory_bytes=24 * 2**30),
        ),
        where=Where(tiers=("cloud", "edge")),
        artifact=code,
        env={"A": "1", "B": "two"},
        gang=True,
        communication=Communication(pattern="allreduce", bytes_per_step=4 * 2**20, compressible=True),
        latency=(LatencyTarget(site="shop-1", rtt_us=30_000, weight=2),),
    )
    assert loaded.job == Job(name="everything", role="ml/vision", priority=80, tasks=(prepare, train))


def test_the_sketch_loads(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(SKETCH.read_text())
    (tmp_path / "tasks").mkdir()
    archive = tmp_path / "tasks" / "digits.tar.gz"
    archive.write_bytes(gzip.compress(b""))
    loaded = load_job(path)
    assert loaded.artifacts == {artifacts.file_sha256(archive): archive}
    assert [group.name for group in loaded.job.tasks] == ["train", "merge"]
    assert loaded.job.tasks[0].writes == (Write(name="model", path="model.npz", bytes_max=200 * 1024),)
    assert loaded.job.tasks[1].where == Where(tiers=("cloud",))


# --- mistakes --------------------------------------------------------------------------------------------------------

MINIMAL = "job: x\ntasks:\n  a:\n    command: [run]\n"


def mistakes() -> list[tuple[str, str, str]]:
    """(kind, message, text) of each block of the file, which says what they are."""
    blocks = (Path(__file__).parent / "job_mistakes.txt").read_text().split("=== ")[1:]
    return [(*block.partition("\n")[0].split(" ", 1), block.partition("\n")[2]) for block in blocks]  # type: ignore[misc]


@pytest.mark.parametrize(("message", "text"), [(message, text) for _, message, text in mistakes()])
def test_a_mistake_is_one_sentence_with_its_place(tmp_path: Path, message: str, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    assert str(caught.value) == f"{path}:{message.replace('{folder}', str(tmp_path))}"


def test_what_the_types_bound_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, f"job: x\ntasks: {{a: {{command: [run, {'x' * 20_000}]}}}}\n")
    with pytest.raises(ConfigError, match=r"job\.yaml:1:1: the job is out of bounds: .*length"):
        load_job(path)


def test_a_missing_file_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cannot read .*/none\.yaml: No such file or directory$"):
        load_job(tmp_path / "none.yaml")


# --- artifacts -------------------------------------------------------------------------------------------------------


def test_a_folder_packs_to_the_same_bytes_whenever_and_wherever(tmp_path: Path) -> None:
    digests = set()
    for name, time in (("one", 1), ("two", 1_000_000_000)):
        folder = tmp_path / name
        (folder / "lib").mkdir(parents=True)
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__" / "x.pyc").write_bytes(os.urandom(8))
        for file in ("train.py", "lib/b.py", "lib/a.py") if name == "one" else ("lib/a.py", "lib/b.py", "train.py"):
            (folder / file).write_text(f"# {file}\n")
            os.utime(folder / file, (time, time))
        (folder / "train.py").chmod(0o755)
        packed, digest = artifacts.pack(folder, tmp_path / "packed" / name)
        digests.add(digest)
        with tarfile.open(packed) as archive:
            members = [(member.name, member.mode, member.mtime, member.uname) for member in archive.getmembers()]
        assert members == [
            ("lib", 0o755, 0, ""),
            ("train.py", 0o755, 0, ""),
            ("lib/a.py", 0o644, 0, ""),
            ("lib/b.py", 0o644, 0, ""),
        ]
    assert len(digests) == 1


def test_a_single_file_becomes_an_archive_of_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print(1)\n")
    loaded = load_job(write(tmp_path, MINIMAL + "    artifact: train.py\n"))
    ((digest, packed),) = loaded.artifacts.items()
    assert artifacts.file_sha256(packed) == digest
    assert loaded.job.tasks[0].artifact == Artifact(
        shard_id=digest, size_bytes=packed.stat().st_size, name="train.py.tar.gz"
    )
    with tarfile.open(packed) as archive:
        assert archive.getnames() == ["train.py"]


def test_links_are_refused_and_packed_files_go_with_the_job(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "artifact: code\n")
    loaded = load_job(path)
    (packed,) = loaded.artifacts.values()
    del loaded
    assert not packed.exists()
    (tmp_path / "code" / "link").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match=r"job\.yaml:5:11: .*/code/link is a link; an artifact holds files only"):
        load_job(path)


# --- the schema ------------------------------------------------------------------------------------------------------


def valid(document: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(job_schema()).is_valid(document))


def test_the_schema_is_a_schema_and_accepts_the_samples() -> None:
    jsonschema.Draft202012Validator.check_schema(job_schema())
    json.dumps(job_schema())
    assert valid(to_plain(load(SKETCH)))
    assert valid(to_plain(loads(FULL, "full")))


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, _, text in mistakes() if "duplicate" not in _])
def test_the_schema_refuses_a_wrong_shape(kind: str, text: str) -> None:
    assert valid(to_plain(loads(text, "x"))) == (kind == "sense")


def test_the_schema_knows_exactly_the_readers_keys() -> None:
    schema = job_schema()
    group, needs, where = (schema["$defs"][name]["properties"] for name in ("group", "needs", "where"))
    assert tuple(schema["properties"]) == jobfile.JOB_KEYS
    assert sorted(group) == sorted(jobfile.GROUP_KEYS)
    assert tuple(needs) == jobfile.NEEDS_KEYS
    assert tuple(needs["gpu"]["anyOf"][1]["properties"]) == jobfile.GPU_KEYS
    assert tuple(needs["links"]["items"]["properties"]) == jobfile.LINK_KEYS
    assert tuple(where) == jobfile.WHERE_KEYS
    assert tuple(group["writes"]["additionalProperties"]["anyOf"][1]["properties"]) == jobfile.WRITE_KEYS
    assert tuple(group["latency"]["items"]["properties"]) == jobfile.LATENCY_KEYS
    assert tuple(group["communication"]["properties"]) == jobfile.COMMUNICATION_KEYS


# --- the page about it -----------------------------------------------------------------------------------------------


def test_the_examples_of_the_page_are_true(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "jobs.md").read_text()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "detect.py").write_text("")
    path = tmp_path / "job.yaml"
    blocks = [block.partition("```")[0] for block in page.split("```yaml\n")[1:]]
    errors = [block.partition("```")[0].strip() for block in page.split("```text\n")[1:]]
    told = []
    for block in blocks:
        path.write_text(block)
        try:
            load_job(path)
        except ConfigError as error:
            told.append(str(error).replace(str(path), "job.yaml"))
    assert len(blocks) == 6
    assert told == errors
    for key in (*jobfile.JOB_KEYS, *jobfile.GROUP_KEYS, *jobfile.NEEDS_KEYS):
        assert f"`{key}" in page or f"{key}:" in page

"""Every command against the real core, journal, policy and HTTP: what it prints and how it exits."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from federation.api import AgentView, CancelJob, JobView, ShardView, StatusView, TaskView
from federation.cli.exits import Exit
from policies.model import Record
from tests.cli_world import Result, Served, offerflow, serving
from tests.http_world import FakeAgent

JOB = """\
job: digits
tasks:
  train:
    for_each: {shard: "digits/*"}
    command: [python, train.py, "{shard.path}", "{out}/model.npz"]
    artifact: train.py
    reads: "{shard}"
    writes: {model: 1MiB}
  far:
    command: [python, far.py]
    needs: {links: [{to: moon, rtt: <20ms}]}
"""
ONE = "job: one\ntasks: {only: {command: [run]}}\n"


class Shell:
    """A person at a prompt whose OFFERFLOW_URL is the served world's."""

    def __init__(self, served: Served, folder: Path) -> None:
        self.served = served
        self.folder = folder
        (folder / "train.py").write_text("print('training')\n")

    def __call__(self, *arguments: str, code: Exit = Exit.OK) -> Result:
        result = offerflow(*arguments, env={"OFFERFLOW_URL": self.served.url})
        assert result.code == code, result
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json").out)

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def agent(self, agent_id: str, site: str) -> FakeAgent:
        agent = FakeAgent(self.served.world, agent_id, site)
        self.served.run(agent.join())
        return agent

    def finish(self, agent: FakeAgent) -> None:
        """Everything the agent was told to run ends well."""
        for launch in agent.launches():
            self.served.run(agent.report(launch, state="running"))
            self.served.run(agent.report(launch, state="finished", exit_code=0, log_tail="all is well\n"))


@pytest.fixture
def sh(tmp_path: Path) -> Iterator[Shell]:
    folder = tmp_path / "person"
    folder.mkdir()
    with serving(tmp_path) as served:
        yield Shell(served, folder)


def rows(result: Result) -> list[list[str]]:
    """A table's lines as cells; columns are two blanks apart."""
    return [re.split(r" {2,}", line.strip()) for line in result.out.splitlines()]


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_a_job_from_its_file_to_its_end(sh: Shell) -> None:
    agent = sh.agent("gw-1", "plant-a")
    for name in ("s0", "s1"):
        sh("shard", "add", sh.file(name, name), "--name", "digits/")
    file = sh.file("job.yaml", JOB)

    plan = sh("job", "plan", file)
    assert rows(plan)[:2] == [
        ["group", "tasks", "agent", "transfer s", "wait s", "run s", "total s", "next best"],
        ["train", "2", "gw-1"],
    ]
    assert plan.out.endswith(
        "far: 1 would wait: 1 link unmeasured\n"
        "  nearest miss gw-1: needs a round trip to moon of at most 20 ms, which was never measured\n"
        "2 of 3 tasks would be placed (2 at plant-a), 1 would wait\n"
        "by fifo; nothing was changed\n"
    )
    assert rows(sh("job", "list")) == [["job", "state", "role", "priority", "tasks", "submitted", "took"]]

    assert sh("job", "submit", file).out == "digits\n"
    assert sh.json("job", "submit", file)["job_id"] == "digits-2"
    assert [job["job_id"] for job in sh.json("job", "list")] == ["digits", "digits-2"]
    assert sh("job", "show", "digits").out.splitlines()[:2] == ["job        digits", "state      running"]
    assert [launch.artifact is not None for launch in agent.launches()] == [True] * 4

    why = sh("job", "why", "digits").out
    assert why.startswith("task digits/far/0  PENDING 0 s  blocked by: link unmeasured\n")
    assert "task digits/train/0  on gw-1  by fifo, round" in why
    assert {view["task_id"] for view in sh.json("job", "why", "digits")} == {"digits/far/0", "digits/train/0"}

    sh.finish(agent)
    assert sh("job", "logs", "digits").out == "train/0: all is well\ntrain/1: all is well\n"
    assert sh("job", "logs", "digits", "--tail", "5B").out == "train/0: well\ntrain/1: well\n"
    assert sh("job", "cancel", "digits").out == "digits  cancelled  2 finished, 1 cancelled\n"
    assert rows(sh("job", "list"))[1][:5] == ["digits", "cancelled", "default", "50", "2 finished, 1 cancelled"]


def test_a_failed_task_shows_why(sh: Shell) -> None:
    agent = sh.agent("gw-1", "plant-a")
    sh("job", "submit", sh.file("one.yaml", ONE.replace("[run]", "[run], retry: {attempts: 1}")))
    (launch,) = agent.launches()
    sh.served.run(
        agent.report(
            launch, state="failed", reason="exit", exit_code=3, detail="it exited with 3", log_tail="\x1b[31mno"
        )
    )
    shown = sh("job", "show", "one").out
    assert "state      failed" in shown
    assert "one/only/0" in shown
    assert "it exited with 3" in shown
    task = sh("task", "show", "one/only/0").out
    assert "exit code  3" in task
    assert "\x1b" not in task, "what a task prints does not drive the terminal"
    assert "it exited with 3" in sh("task", "why", "one/only/0").out


def test_waiting_for_a_job(sh: Shell) -> None:
    file = sh.file("one.yaml", ONE)
    results: list[Result] = []
    waiting = threading.Thread(target=lambda: results.append(sh("job", "submit", file, "--wait")))
    waiting.start()
    agent = sh.agent("gw-1", "plant-a")
    launched = threading.Event()
    while not launched.wait(0.02):
        if agent.launches():
            launched.set()
    sh.finish(agent)
    waiting.join(30)
    (result,) = results
    assert result.out == "one  finished  1 finished\n"
    assert result.err == "one is submitted; waiting for its 1 task\n"


def test_waiting_for_a_job_that_fails(sh: Shell) -> None:
    file = sh.file("one.yaml", ONE)
    results: list[Result] = []
    waiting = threading.Thread(
        target=lambda: results.append(sh("job", "submit", file, "--wait", "--json", code=Exit.JOB_FAILED))
    )
    waiting.start()
    sh.served.run(until_submitted(sh))
    sh.served.run(sh.served.world.ask(CancelJob(job_id="one")))
    waiting.join(30)
    (result,) = results
    assert json.loads(result.out)["state"] == "cancelled"
    assert "job one cancelled" in result.err
    assert "offerflow job show one" in result.err


def test_a_cancelled_job_is_cancelling_until_its_last_task_has_ended(sh: Shell) -> None:
    agent = sh.agent("gw-1", "plant-a")
    sh("job", "submit", sh.file("one.yaml", ONE))
    (launch,) = agent.launches()
    sh.served.run(agent.report(launch, state="running"))
    assert sh("job", "cancel", "one").out == "one  cancelling  1 killing\n"
    assert sh.json("job", "show", "one")["state"] == "cancelling"
    assert rows(sh("job", "list"))[1][:2] == ["one", "cancelling"]
    results: list[Result] = []
    waiting = threading.Thread(target=lambda: results.append(sh("job", "cancel", "one", "--wait")))
    waiting.start()
    sh.served.run(agent.report(launch, state="killed", reason="killed"))
    waiting.join(30)
    assert results[0].out == "one  cancelled  1 cancelled\n"


async def until_submitted(sh: Shell) -> None:
    async for _, fact in sh.served.world.subscribe(0):
        if type(fact).__name__ == "JobAccepted":
            return


def test_artifacts_are_uploaded_once(sh: Shell) -> None:
    sh.agent("gw-1", "plant-a")
    file = sh.file("job.yaml", JOB)
    sh("shard", "add", sh.file("s0", "s0"), "--name", "digits/s0")
    sh("job", "submit", file)
    n_before = len(sh("events").out.splitlines())
    sh("job", "submit", file)
    added = [line for line in sh("events").out.splitlines()[n_before:] if "shard_added" in line]
    assert added == []


# --- tasks, agents, shards -------------------------------------------------------------------------------------------


def test_tasks_are_listed_narrowed_and_killed(sh: Shell) -> None:
    sh.agent("gw-1", "plant-a")
    sh("job", "submit", sh.file("many.yaml", "job: many\ntasks: {run: {command: [run], count: 3}}\n"))
    assert rows(sh("task", "list", "--job", "many"))[1:] == [
        [f"many/run/{index}", "assigned", "0 s", "gw-1", "plant-a"] for index in range(3)
    ]
    assert len(sh.json("task", "list", "--agent", "gw-1", "--limit", "2")) == 2
    assert "more than 2; narrow it" in sh("task", "list", "--limit", "2").err
    assert sh.json("task", "list", "--state", "failed") == []
    assert sh("task", "kill", "many/run/0").out == "many/run/0  killing\n"
    refused = sh("task", "list", "--state", "runing", code=Exit.USAGE)
    assert 'no task state (did you mean "running"?)' in refused.err


def test_agents_are_listed_shown_and_set(sh: Shell) -> None:
    sh.agent("gw-1", "plant-a")
    assert rows(sh("agent", "list"))[1] == [
        "gw-1", "plant-a", "edge", "online", "0 s", "active", "8 of 8", "16 GiB of 16 GiB", "0", "0",
    ]  # fmt: skip
    assert "site      plant-a (edge)" in sh("agent", "show", "gw-1").out
    assert sh("agent", "drain", "gw-1").out == "gw-1  draining  0 tasks\n"
    assert sh("agent", "cordon", "gw-1").out == "gw-1  cordoned  0 tasks\n"
    assert sh("agent", "uncordon", "gw-1").out == "gw-1  active  0 tasks\n"


def test_shards_are_added_found_and_fetched(sh: Shell) -> None:
    (sh.folder / "data").mkdir()
    files = [sh.file(f"data/{name}", f"content of {name}") for name in ("a", "b")]
    added = sh("shard", "add", *files, "--name", "digits/", "--site", "plant-a", "--replicas", "2")
    (a_id, a_name), (_, b_name) = rows(added)
    assert (a_name, b_name) == ("digits/a", "digits/b")
    assert rows(sh("shard", "list", "digits/*"))[1] == [
        a_id[:12], "digits/a", "12 B", "2", "the master", "plant-a",
    ]  # fmt: skip
    for ref in ("digits/a", a_id, a_id[:10]):
        assert sh.json("shard", "show", ref)["shard_id"] == a_id
    target = sh.folder / "got"
    assert sh("shard", "get", "digits/a", "--to", str(target)).err == f"digits/a is in {target}\n"
    assert target.read_text() == "content of a"
    assert f"{target} exists" in sh("shard", "get", "digits/a", "--to", str(target), code=Exit.USAGE).err
    assert "no shard is called" in sh("shard", "show", "nope", code=Exit.NOT_FOUND).err
    assert "cannot all be" in sh("shard", "add", *files, "--name", "x", code=Exit.USAGE).err
    assert "cannot read" in sh("shard", "add", str(sh.folder / "none"), code=Exit.USAGE).err


# --- the master ------------------------------------------------------------------------------------------------------


def test_status_network_roles_and_schema(sh: Shell) -> None:
    assert sh("status").out.startswith("master  serving, version ")
    assert "no link between two sites" in sh("net", "matrix").err
    assert sh.json("net", "list") == []
    sh.agent("gw-net", "plant-net")
    assert [sh.json("net", "show")[0][key] or "?" for key in ("site", "out_bps")] == ["plant-net", "?"]
    assert sh("net", "path", "plant-net", "nowhere", code=Exit.NOT_FOUND).out == ""
    assert rows(sh("role", "set", "ml/vision", "--weight", "2", "--cpu", "4", "--memory", "8GiB"))[1] == [
        "ml/vision", "2", "0.0%", "0", "0", "nothing", "4 cores, 8 GiB memory",
    ]  # fmt: skip
    assert "ml/vision" in [role["path"] for role in sh.json("role", "list")]
    assert json.loads(sh("schema", "job").out)["title"] == "offerflow job file"


def test_events_are_printed_from_any_point(sh: Shell) -> None:
    sh.agent("gw-1", "plant-a")
    first, second = sh("events").out.splitlines()
    assert re.fullmatch(r" +1  \d\d:\d\d:\d\d\.\d{3}  term_begun      term=1", first)
    assert re.match(r" +2  \S+  agent_enrolled  gw-1  boot=1 site=plant-a tier=edge ", second)
    (document,) = [json.loads(line) for line in sh("events", "--after", "1", "-o", "json").out.splitlines()]
    assert document["event"] == "agent_enrolled"
    assert document["data"]["agent_id"] == "gw-1"


LISTINGS: list[tuple[tuple[str, ...], type[Record]]] = [
    (("status",), StatusView),
    (("job", "list"), JobView),
    (("task", "list"), TaskView),
    (("agent", "list"), AgentView),
    (("shard", "list"), ShardView),
]


@pytest.mark.parametrize(("command", "type_"), LISTINGS, ids=[" ".join(command) for command, _ in LISTINGS])
def test_json_is_what_the_api_answers(sh: Shell, command: tuple[str, ...], type_: type[Record]) -> None:
    sh.agent("gw-1", "plant-a")
    sh("shard", "add", sh.file("s0", "s0"))
    sh("job", "submit", sh.file("one.yaml", ONE))
    answer = sh.json(*command)
    for document in answer if isinstance(answer, list) else [answer]:
        assert set(document) == set(type_.__struct_fields__)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("job", "show", "x"), Exit.NOT_FOUND, "no job is called 'x'; `offerflow job list` lists them"),
        (("job", "logs", "x"), Exit.NOT_FOUND, "no job is called 'x'"),
        (("job", "why", "x"), Exit.NOT_FOUND, "no job is called 'x'"),
        (("job", "cancel", "x"), Exit.NOT_FOUND, "x"),
        (("task", "show", "a/b/0"), Exit.NOT_FOUND, "no task is called 'a/b/0'"),
        (("task", "why", "nonsense"), Exit.USAGE, "'nonsense' is not a task id"),
        (("task", "logs", "a/b/0", "--tail", "5"), Exit.USAGE, "'5' has no unit"),
        (("agent", "show", "x"), Exit.NOT_FOUND, "no agent is called 'x'"),
        (("agent", "drain", "x"), Exit.NOT_FOUND, "x"),
        (("job", "submit", "none.yaml"), Exit.USAGE, "cannot read none.yaml"),
        (("status", "--master", "nonsense"), Exit.USAGE, "is not a master's address"),
        (("status", "--token-file", "/none"), Exit.USAGE, "cannot read the token file /none"),
        (("role", "set", "x", "--memory", "5"), Exit.USAGE, "'5' has no unit"),
        (("role", "set", "X!"), Exit.REFUSED, "the master refused"),
    ],
)
def test_mistakes_end_with_a_sentence_and_a_code(
    sh: Shell, arguments: tuple[str, ...], code: Exit, sentence: str
) -> None:
    result = sh(*arguments, code=code)
    assert sentence in result.err
    assert result.out == ""
    assert result.err.count("\n") == 1


def test_a_job_the_master_refuses(sh: Shell) -> None:
    result = sh("job", "submit", sh.file("job.yaml", JOB), code=Exit.REFUSED)
    assert "the master refused: train: no shard" in result.err


def test_no_master_is_said_with_the_mend(tmp_path: Path) -> None:
    result = offerflow("status", "--master", "http://127.0.0.1:9")
    assert result.code == Exit.UNREACHABLE
    assert "start one with `offerflow up`" in result.err


def test_the_token_opens_the_door(tmp_path: Path) -> None:
    token = "a-token-of-enough-length"
    with serving(tmp_path, token=token) as served:
        env = {"OFFERFLOW_URL": served.url}
        assert offerflow("status", env=env).code == Exit.UNAUTHORIZED
        assert offerflow("status", env={**env, "OFFERFLOW_TOKEN": token}).code == Exit.OK
        file = tmp_path / "token"
        file.write_text(f"{token}\n")
        assert offerflow("status", "--token-file", str(file), env=env).code == Exit.OK
        assert offerflow("status", env={**env, "OFFERFLOW_TOKEN": "two\nlines"}).code == Exit.USAGE


# --- on a terminal ---------------------------------------------------------------------------------------------------

SCRIPT = "from federation.cli.main import main; main()"


def on_terminal(sh: Shell, *arguments: str, **env: str) -> str:
    """What a person sees: stdout and stderr of a process on a pseudo-terminal."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "OFFERFLOW_URL": sh.served.url, "TERM": "xterm", **env}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdin=follower, stdout=follower, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while piece := os.read(leader, 65536):
                seen += piece
        os.close(leader)
    assert process.returncode == 0, seen
    return seen.decode()


def test_a_terminal_gets_colours_unless_told_otherwise(sh: Shell) -> None:
    sh.agent("gw-1", "plant-a")
    assert "\x1b[32monline\x1b[0m" in on_terminal(sh, "agent", "list")
    assert "\x1b" not in on_terminal(sh, "agent", "list", NO_COLOR="1")


def test_an_upload_shows_its_progress_on_a_terminal(sh: Shell) -> None:
    seen = on_terminal(sh, "shard", "add", sh.file("s0", "x" * 2**20), "--name", "digits/s0")
    assert "1.0/1.0 MiB" in seen
    assert "digits/s0" in seen


def test_ctrl_c_leaves_the_job_running_and_says_so(sh: Shell) -> None:
    command = [sys.executable, "-c", SCRIPT, "job", "submit", sh.file("one.yaml", ONE), "--wait"]
    env = {**os.environ, "OFFERFLOW_URL": sh.served.url}
    # Who runs the suite in the background of a shell has SIGINT ignored, and hands that down.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "one is submitted; waiting for its 1 task\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == Exit.INTERRUPTED
    assert "the job runs on without you; `offerflow job show one` tells how it fares" in err
    assert sh.json("job", "show", "one")["state"] == "running"

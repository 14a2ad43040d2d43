"""The client against servers that refuse, break off, redirect or talk nonsense: one sentence and one code each."""

import contextlib
import hashlib
import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from federation.api import JobView, ShardView
from federation.cli.client import Client, StreamEvent
from federation.cli.exits import CommandError, Exit
from tests.cli_world import offerflow

Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next of `answers`; keeps what was asked."""

    answers: list[Answer]
    asked: list[tuple[str, str, dict[str, str]]]
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        self.asked.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.close_connection = True
        self.answers.pop(0)(self)

    do_GET = do_POST = do_PUT = do_HEAD = _answer  # noqa: N815


@contextlib.contextmanager
def server(*answers: Answer) -> Iterator[tuple[str, list[tuple[str, str, dict[str, str]]]]]:
    class Scripted(Handler):
        pass

    Scripted.answers, Scripted.asked = list(answers), []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}", Scripted.asked
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def says(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def problem(status: int, code: str, detail: str) -> Answer:
    document = {"type": f"/problems/{code}", "title": "T", "status": status, "detail": detail, "instance": "/"}
    return says(status, json.dumps(document).encode(), {"Content-Type": "application/problem+json"})


def streams(*frames: str) -> Answer:
    """An event stream that ends after the frames, as when the master dies."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write("".join(frames).encode())

    return answer


@pytest.mark.parametrize(
    ("answer", "code", "sentence"),
    [
        (
            problem(404, "not_found", "no job is called 'x'; GET /api/v1/jobs lists them"),
            Exit.NOT_FOUND,
            "no job is called 'x'; `offerflow job list` lists them",
        ),
        (
            problem(401, "unauthorized", "the token is not known"),
            Exit.UNAUTHORIZED,
            "the master does not let you in: the token is not known; set OFFERFLOW_TOKEN or give --token-file",
        ),
        (
            problem(403, "foreign_host", "Host 'm' is not this master"),
            Exit.UNAUTHORIZED,
            "the master does not let you in: Host 'm' is not this master",
        ),
        (
            problem(422, "no_shards", "train: no shard's name matches 'digits/*'"),
            Exit.REFUSED,
            "the master refused: train: no shard's name matches 'digits/*'",
        ),
        (
            problem(503, "stepped_down", "the journal failed"),
            Exit.UNREACHABLE,
            "the master cannot serve now: the journal failed",
        ),
        (problem(500, "internal", "this is a bug"), Exit.ERROR, "the master failed: this is a bug"),
        (says(200, b"<html>"), Exit.ERROR, None),
        (says(200, b'{"job_id": 3}'), Exit.ERROR, None),
        (says(502, b"<html>bad gateway"), Exit.UNREACHABLE, None),
    ],
)
def test_what_is_refused_is_one_sentence_and_one_code(answer: Answer, code: Exit, sentence: str | None) -> None:
    with server(answer) as (url, _), pytest.raises(CommandError) as caught:
        Client(url).job("x")
    assert caught.value.exit_code is code
    assert "\n" not in str(caught.value)
    if sentence is not None:
        assert str(caught.value) == sentence


def test_nobody_there_is_said_with_the_mend() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(CommandError) as caught:
        Client(f"http://127.0.0.1:{port}").status()
    assert caught.value.exit_code is Exit.UNREACHABLE
    assert str(caught.value) == (
        f"no master answers at http://127.0.0.1:{port} (Connection refused); "
        "start one with `offerflow up`, or name it with --master"
    )


@pytest.mark.parametrize("url", ["127.0.0.1:8642", "ftp://x", "http://", ""])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(CommandError, match="is not a master's address") as caught:
        Client(url)
    assert caught.value.exit_code is Exit.USAGE


@pytest.mark.parametrize("task_id", ["x", "a/b", "a/b/c/d", "a//0"])
def test_a_task_id_must_be_one(task_id: str) -> None:
    with pytest.raises(CommandError, match="is not a task id") as caught:
        Client("http://127.0.0.1:1").task(task_id)
    assert caught.value.exit_code is Exit.USAGE


def test_a_redirect_is_not_followed_so_the_token_stays() -> None:
    with server(says(200, b"{}")) as (elsewhere, asked_elsewhere):
        with server(says(302, headers={"Location": elsewhere})) as (url, asked), pytest.raises(CommandError):
            Client(url, "s3cret").job("x")
        assert asked[0][2]["authorization"] == "Bearer s3cret"
        assert asked_elsewhere == []


def test_a_broken_answer_is_unreachable() -> None:
    def breaks(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"{")

    with server(breaks) as (url, _), pytest.raises(CommandError, match="99 bytes before the answer's end") as caught:
        Client(url).job("x")
    assert caught.value.exit_code is Exit.UNREACHABLE


# --- events ----------------------------------------------------------------------------------------------------------


def frame(seq: int, kind: str = "job_ended") -> str:
    return f'id: {seq}\nevent: {kind}\ndata: {{"job_id": "j{seq}"}}\n\n'


def test_a_broken_stream_is_resumed_where_it_broke() -> None:
    heard: list[str] = []
    pauses: list[float] = []
    with server(
        streams("retry: 2000\n\n", frame(5), frame(6), "id: 7\nevent: half\nda"),
        problem(503, "not_ready", "recovering"),
        says(502),
        streams(": heartbeat\n\n", frame(7)),
    ) as (url, asked):
        events = Client(url).events(4, on_reconnect=heard.append, sleep=pauses.append)
        assert [next(events) for _ in range(3)] == [
            StreamEvent(seq, "job_ended", {"job_id": f"j{seq}"}) for seq in (5, 6, 7)
        ]
        events.close()
    assert [headers.get("last-event-id") for _, _, headers in asked] == ["4", "6", "6", "6"]
    assert heard == ["the master closed the stream"]
    assert pauses == [0.5, 1.0, 2.0]


def test_a_gap_is_told_and_moves_nothing() -> None:
    with server(streams('event: gap\ndata: {"after": 4, "next": 90}\n\n', frame(90))) as (url, _):
        events = Client(url).events(4)
        assert next(events) == StreamEvent(4, "gap", {"after": 4, "next": 90})
        assert next(events).seq == 90
        events.close()


def test_a_stream_that_never_began_is_an_error_at_once() -> None:
    with server(problem(401, "unauthorized", "no token")) as (url, _), pytest.raises(CommandError) as caught:
        next(Client(url).events())
    assert caught.value.exit_code is Exit.UNAUTHORIZED


def test_without_following_the_stream_ends_when_nothing_comes() -> None:
    held = threading.Event()

    def holds(handler: Handler) -> None:
        streams(frame(1))(handler)
        handler.wfile.flush()
        held.wait(30)

    with server(holds) as (url, _):
        assert [event.seq for event in Client(url).events(0, idle_s=0.2)] == [1]
        held.set()


# --- shards ----------------------------------------------------------------------------------------------------------


def shard(content: bytes) -> ShardView:
    return ShardView(
        shard_id=hashlib.sha256(content).hexdigest(),
        name="d/x",
        size_bytes=len(content),
        replicas=(),
        sites=(),
        replicas_wanted=0,
        in_store=True,
    )


def test_bytes_that_do_not_match_their_hash_are_not_kept(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with server(says(200, b"evil")) as (url, _), pytest.raises(CommandError, match="do not match the shard's hash"):
        Client(url).get_shard(shard(b"good"), target)
    assert list(tmp_path.iterdir()) == []
    with server(says(200, b"good")) as (url, _):
        Client(url).get_shard(shard(b"good"), target)
    assert target.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [target]


def test_has_shard_asks_by_head(tmp_path: Path) -> None:
    with server(says(404), says(200), says(503)) as (url, asked):
        client = Client(url)
        assert [client.has_shard("ab"), client.has_shard("ab")] == [False, True]
        with pytest.raises(CommandError):
            client.has_shard("ab")
    assert {method for method, _, _ in asked} == {"HEAD"}


def test_an_upload_streams_the_file_and_reports_its_progress(tmp_path: Path) -> None:
    content = b"x" * 700_000
    path = tmp_path / "x"
    path.write_bytes(content)
    view = shard(content)
    received: list[bytes] = []

    def takes(handler: Handler) -> None:
        received.append(handler.rfile.read(int(handler.headers["Content-Length"])))
        says(201, msgspec.json.encode(view))(handler)

    moved: list[int] = []
    with server(takes) as (url, asked):
        answered = Client(url).put_shard(view.shard_id, path, name="d/x", sites=("a", "b"), progress=moved.append)
    assert answered == view
    assert received == [content]
    assert sum(moved) == len(content)
    assert len(moved) <= 5
    assert asked[0][1] == f"/shards/{view.shard_id}?name=d%2Fx&site=a&site=b&replicas_wanted=0"


# --- a master that comes and goes ------------------------------------------------------------------------------------


def job_view(state: str, **tasks: int) -> bytes:
    return msgspec.json.encode(
        JobView(
            job_id="one", name="one", role="default", priority=50, state="running", submitted_us=0,
            ended_us=None if state == "running" else 1, n_tasks=1, tasks=tasks, detail="",
        )
    ).replace(b'"state":"running"', f'"state":"{state}"'.encode())  # fmt: skip


def test_submitting_and_waiting_outlast_a_restart_and_submit_once(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = []

    def takes(then: Answer | None) -> Answer:
        """Keeps the body; answers, or dies before it could."""

        def answer(handler: Handler) -> None:
            bodies.append(json.loads(handler.rfile.read(int(handler.headers["Content-Length"]))))
            if then is not None:
                then(handler)

        return answer

    file = tmp_path / "one.yaml"
    file.write_text("job: one\ntasks: {only: {command: [run]}}\n")
    with server(
        takes(None),
        takes(says(201, job_view("running", pending=1))),
        problem(503, "stepped_down", "the disk failed"),
        says(200, job_view("running", running=1)),
        says(200, job_view("finished", finished=1)),
    ) as (url, asked):
        result = offerflow("job", "submit", str(file), "--wait", "--master", url)
    assert (result.code, result.out) == (Exit.OK, "one  finished  1 finished\n")
    assert [method for method, _, _ in asked] == ["POST", "POST", "GET", "GET", "GET"]
    assert bodies[0] == bodies[1]
    assert len(bodies[0]["submission_id"]) == 32


# --- the light install -----------------------------------------------------------------------------------------------


def test_the_client_and_the_commands_load_nothing_heavy() -> None:
    code = (
        "import sys, importlib\n"
        "for name in ('client', 'job', 'task', 'fleet', 'shard', 'status', 'events', 'net', 'role', 'schema'):\n"
        "    importlib.import_module(f'federation.cli.{name}')\n"
        "print([name for name in sys.argv[1:] if name in sys.modules])"
    )
    heavy = ("aiohttp", "amqtt", "networkx", "numba", "numpy", "prometheus_client", "ruamel", "scipy", "sklearn")
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""The master's HTTP API as a synchronous client on the standard library: it works in the light install too.

Every method raises `CommandError` with one sentence and an exit code; nothing else. Redirects are not followed, so the
token never travels to another host. A private certificate authority is named by the environment's SSL_CERT_FILE.
"""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from federation.api import (
    AgentView,
    FrameworkView,
    JobView,
    NetworkView,
    OfferView,
    PathView,
    PlanJob,
    PlanView,
    RoleView,
    ServiceView,
    ShardView,
    SiteNode,
    StatusView,
    SubmitJob,
    TaskPage,
    TaskView,
    TopologyView,
    WhyView,
)
from federation.cli.exits import CommandError, Exit
from federation.http.bodies import (
    AgentList,
    AgentMode,
    FrameworkList,
    JobList,
    OfferList,
    ProblemDetails,
    RoleList,
    RoleSettings,
    ServiceDemand,
    ServiceList,
    ShardList,
)
from federation.jobs import Job
from policies.model import Amount, Link

DEFAULT_URL = "http://127.0.0.1:8642"
PREFIX = "/api/v1"
TIMEOUT_S = 60.0  # The master answers or refuses within 30 s.
ANSWER_BYTES_MAX = 256 * 2**20
READ_BYTES = 256 * 1024
PAGE = 1000  # entries asked for at a time: the most that the master gives
RECONNECT_S = (0.5, 1.0, 2.0, 5.0)  # and 5 s from then on

T = TypeVar("T")
Progress = Callable[[int], None]  # told the bytes of each piece moved


# How the master's sentences point to a listing; at the command line it is a command.
_LISTING = re.compile(r"GET /api/v1/(job|task|agent|shard|role|framework|service)s\S*")


class StreamEvent(NamedTuple):
    """One durable fact. `seq` is where to resume after; `kind` is the fact's tag; a `gap` has no number of its own."""

    seq: int
    kind: str
    data: dict[str, Any]


class Client:
    def __init__(self, url: str = DEFAULT_URL, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(Exit.USAGE, f"{url!r} is not a master's address; write one such as {DEFAULT_URL}")
        self.url = url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if parts.hostname in ("127.0.0.1", "::1", "localhost"):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    # --- the master ---

    def status(self) -> StatusView:
        return self._get("/status", StatusView)

    def network(self) -> tuple[Link, ...]:
        return self._all("/network", NetworkView, "links")

    def sites(self) -> tuple[SiteNode, ...]:
        return self._get("/network/sites", TopologyView).sites

    def path(self, from_site: str, to_site: str) -> PathView:
        return self._get(f"/network/paths/{_segment(from_site)}/{_segment(to_site)}", PathView)

    def offers(self) -> tuple[OfferView, ...]:
        return self._all("/offers", OfferList, "offers")

    def roles(self) -> tuple[RoleView, ...]:
        return self._all("/roles", RoleList, "roles")

    def set_role(self, path: str, weight: int, quota: Amount | None) -> RoleView:
        return self._send("PUT", f"/roles/{quote(path)}", RoleSettings(weight=weight, quota=quota), RoleView)

    def frameworks(self) -> tuple[FrameworkView, ...]:
        return self._all("/frameworks", FrameworkList, "frameworks")

    def framework(self, framework_id: str) -> FrameworkView:
        return self._get(f"/frameworks/{quote(framework_id)}", FrameworkView)

    # --- jobs ---

    def submit(self, job: Job, submission_id: str = "") -> JobView:
        """With a `submission_id`, asking again after a broken connection submits nothing twice."""
        return self._send("POST", "/jobs", SubmitJob(job=job, submission_id=submission_id), JobView)

    def plan(self, job: Job) -> PlanView:
        return self._send("POST", "/jobs/plan", PlanJob(job=job), PlanView)

    def jobs(self) -> tuple[JobView, ...]:
        return self._all("/jobs", JobList, "jobs")

    def job(self, job_id: str) -> JobView:
        return self._get(f"/jobs/{_segment(job_id)}", JobView)

    def cancel_job(self, job_id: str) -> JobView:
        return self._send("POST", f"/jobs/{_segment(job_id)}/cancel", None, JobView)

    def services(self) -> tuple[ServiceView, ...]:
        return self._all("/services", ServiceList, "services")

    def set_demand(self, service_id: str, requests_per_second: dict[str, int]) -> ServiceView:
        job_id, _, group = service_id.partition("/")
        path = f"/services/{_segment(job_id)}/{_segment(group)}/demand"
        return self._send("PUT", path, ServiceDemand(requests_per_second=requests_per_second), ServiceView)

    # --- tasks ---

    def task_page(
        self,
        *,
        job_id: str | None = None,
        state: str | None = None,
        agent_id: str | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> TaskPage:
        wanted = {"job": job_id, "state": state, "agent": agent_id, "after": after, "limit": limit}
        query = urlencode({key: value for key, value in wanted.items() if value is not None})
        return self._get(f"/tasks?{query}", TaskPage)

    def tasks(
        self, *, job_id: str | None = None, state: str | None = None, agent_id: str | None = None
    ) -> Iterator[TaskView]:
        """All of them, page by page."""
        after = None
        while True:
            page = self.task_page(job_id=job_id, state=state, agent_id=agent_id, after=after)
            yield from page.tasks
            after = page.next_after
            if after is None:
                return

    def task(self, task_id: str) -> TaskView:
        return self._get(_task_path(task_id), TaskView)

    def why(self, task_id: str) -> WhyView:
        return self._get(f"{_task_path(task_id)}/why", WhyView)

    def kill_task(self, task_id: str) -> TaskView:
        return self._send("POST", f"{_task_path(task_id)}/kill", None, TaskView)

    def logs(self, task_id: str, tail_bytes: int | None = None) -> str:
        query = "" if tail_bytes is None else f"?tail_bytes={tail_bytes}"
        with self._open("GET", f"{PREFIX}{_task_path(task_id)}/logs{query}") as answer:
            return _read(answer).decode("utf-8", "replace")

    # --- agents ---

    def agents(self) -> tuple[AgentView, ...]:
        return self._all("/agents", AgentList, "agents")

    def agent(self, agent_id: str) -> AgentView:
        return self._get(f"/agents/{_segment(agent_id)}", AgentView)

    def set_agent_mode(self, agent_id: str, mode: str) -> AgentView:
        body = msgspec.convert({"mode": mode}, AgentMode)
        return self._send("POST", f"/agents/{_segment(agent_id)}/mode", body, AgentView)

    # --- shards ---

    def shards(self, glob: str = "*") -> tuple[ShardView, ...]:
        return self._all("/shards", ShardList, "shards", glob=glob)

    def shard(self, shard_id: str) -> ShardView:
        return self._get(f"/shards/{_segment(shard_id)}", ShardView)

    def has_shard(self, shard_id: str) -> bool:
        """Whether the master's own store holds the bytes."""
        try:
            with self._open("HEAD", f"/shards/{shard_id}"):
                return True
        except CommandError as error:
            if error.exit_code is Exit.NOT_FOUND:
                return False
            raise

    def put_shard(
        self,
        shard_id: str,
        path: Path,
        *,
        name: str = "",
        sites: tuple[str, ...] = (),
        replicas_wanted: int = 0,
        progress: Progress | None = None,
    ) -> ShardView:
        """Upload the file's bytes, whose SHA-256 `shard_id` is, and register them."""
        query = urlencode({"name": name, "site": sites, "replicas_wanted": replicas_wanted}, doseq=True)
        try:
            with path.open("rb") as stream:
                headers = {
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(path.stat().st_size),
                }
                body = _Counted(stream, progress)
                with self._open("PUT", f"/shards/{shard_id}?{query}", body=body, headers=headers) as answer:
                    return _decode(_read(answer), ShardView)
        except OSError as error:
            raise CommandError(Exit.ERROR, f"cannot read {path}: {error.strerror or error}") from None

    def get_shard(self, shard: ShardView, target: Path) -> None:
        """Write the shard's bytes to `target`, from the master's store or the first agent that gives them; checked
        against the hash. Agents are never shown the master's token; theirs is in OFFERFLOW_DATA_TOKEN."""
        urls = [url for agent_id in shard.replicas if (url := self.agent(agent_id).data_url)]
        agents_token = os.environ.get("OFFERFLOW_DATA_TOKEN", "")
        sources = [self] if shard.in_store else []
        sources += [Client(url, agents_token, self._timeout_s) for url in urls]
        reasons = []
        for source in sources:
            try:
                return source._download(shard.shard_id, target)
            except CommandError as error:
                reasons.append(str(error))
        raise CommandError(
            Exit.NOT_FOUND, f"nobody gives {shard.name or shard.shard_id}: {'; '.join(reasons) or 'no one holds it'}"
        )

    def _download(self, shard_id: str, target: Path) -> None:
        """Written aside and renamed, so that `target` is whole or not there."""
        draft = target.with_name(f"{target.name}.part")
        digest = hashlib.sha256()
        try:
            with self._open("GET", f"/shards/{shard_id}") as answer, draft.open("wb") as stream:
                while piece := _piece(answer):
                    digest.update(piece)
                    stream.write(piece)
            if digest.hexdigest() != shard_id:
                raise CommandError(Exit.ERROR, f"{self.url} gave bytes that do not match the shard's hash")
            draft.replace(target)
        except OSError as error:
            raise CommandError(Exit.ERROR, f"cannot write {target}: {error.strerror or error}") from None
        finally:
            draft.unlink(missing_ok=True)

    # --- events ---

    def events(
        self,
        after: int | None = None,
        *,
        idle_s: float | None = None,
        on_reconnect: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Generator[StreamEvent, None, None]:
        """Facts from after number `after` (None: from now on), for ever: a broken stream is resumed where it broke.

        With `idle_s` it ends once nothing has come for so long. `on_reconnect` hears of each break.
        """
        n_failures, connected = 0, False
        while True:
            try:
                with self._open_events(after, idle_s) as answer:
                    connected, n_failures = True, 0
                    for event in _parse_events(answer, after or 0):
                        after = event.seq
                        yield event
                reason = "the master closed the stream"
            except TimeoutError:
                if idle_s is not None:
                    return
                reason = "the stream went silent"
            except CommandError as error:
                if not connected or error.exit_code is not Exit.UNREACHABLE:
                    raise
                reason = str(error)
            except (OSError, http.client.HTTPException) as error:
                reason = f"the stream broke ({error})"
            if on_reconnect is not None and n_failures == 0:
                on_reconnect(reason)
            sleep(RECONNECT_S[min(n_failures, len(RECONNECT_S) - 1)])
            n_failures += 1

    def _open_events(self, after: int | None, idle_s: float | None) -> http.client.HTTPResponse:
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        # Four missed heartbeats (15 s each) mean a dead connection.
        return self._open("GET", f"{PREFIX}/events", headers=headers, timeout_s=idle_s or 60.0)

    # --- plumbing ---

    def _get(self, path: str, type_: type[T]) -> T:
        with self._open("GET", PREFIX + path) as answer:
            return _decode(_read(answer), type_)

    def _all(self, path: str, page_type: type[Any], name: str, **query: str) -> tuple[Any, ...]:
        """Every page of a list, one after the other."""
        found: list[Any] = []
        after: dict[str, str] = {}
        while True:
            page = self._get(f"{path}?{urlencode({**query, **after, 'limit': PAGE})}", page_type)
            found += getattr(page, name)
            if page.next_after is None:
                return tuple(found)
            after = {"after": page.next_after}

    def _send(self, method: str, path: str, value: msgspec.Struct | None, type_: type[T]) -> T:
        body = b"" if value is None else msgspec.json.encode(value)
        headers = {"Content-Type": "application/json"} if body else {}
        with self._open(method, PREFIX + path, body=body, headers=headers) as answer:
            return _decode(_read(answer), type_)

    def _open(
        self,
        method: str,
        path: str,
        *,
        body: "bytes | _Counted | None" = None,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> http.client.HTTPResponse:
        """The answer, once its head is there. Raises `CommandError` for refusals and failures."""
        request = urllib.request.Request(self.url + path, data=body, method=method)
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        if self._token:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=timeout_s or self._timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error, self.url) from None
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            raise self._unreachable(error, uploading=isinstance(body, _Counted) and body.n_bytes > 0) from None
        return answer

    def _unreachable(self, error: Exception, *, uploading: bool) -> CommandError:
        reason = getattr(error, "reason", error)
        why = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        if uploading:  # A server that refuses an upload half-way closes before http.client reads its answer.
            sentence = f"the upload to {self.url} broke off ({why}); the master's log says if it was refused"
            return CommandError(Exit.UNREACHABLE, sentence)
        return CommandError(
            Exit.UNREACHABLE,
            f"no master answers at {self.url} ({why}); start one with `offerflow up`, or name it with --master",
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None  # The 3xx becomes an HTTPError.


class _Counted:
    """A file whose reading is reported, piece by piece."""

    def __init__(self, stream: IO[bytes], progress: Progress | None) -> None:
        self.n_bytes = 0
        self._stream = stream
        self._progress = progress

    def read(self, n_bytes: int = -1) -> bytes:
        # http.client asks for 8 KiB at a time; larger pieces halve the time of an upload on loopback.
        piece = self._stream.read(max(n_bytes, READ_BYTES))
        self.n_bytes += len(piece)
        if self._progress is not None:
            self._progress(len(piece))
        return piece


def _task_path(task_id: str) -> str:
    parts = task_id.split("/")
    if len(parts) != 3 or not all(parts):
        raise CommandError(
            Exit.USAGE, f"{task_id!r} is not a task id; it reads job/group/index, as `task list` shows it"
        )
    return "/tasks/" + "/".join(_segment(part) for part in parts)


def _segment(text: str) -> str:
    return quote(text, safe="")


def _piece(answer: http.client.HTTPResponse) -> bytes:
    try:
        piece = answer.read(READ_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(Exit.UNREACHABLE, f"the connection broke while the answer was read ({error})") from None
    if not piece and answer.length:  # http.client tells a short body only when it is read in one go.
        raise CommandError(Exit.UNREACHABLE, f"the connection broke {answer.length} bytes before the answer's end")
    return piece


def _read(answer: http.client.HTTPResponse) -> bytes:
    content = bytearray()
    while piece := _piece(answer):
        content += piece
        if len(content) > ANSWER_BYTES_MAX:
            raise CommandError(Exit.ERROR, f"the answer exceeds {ANSWER_BYTES_MAX // 2**20} MiB; narrow the request")
    return bytes(content)


def _decode(content: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, ValueError) as error:
        sentence = f"the answer is not one of an offerflow master of this version ({error}); check the address"
        raise CommandError(Exit.ERROR, sentence) from None


def _refusal(error: urllib.error.HTTPError, url: str) -> CommandError:
    """The sentence of a problem document, with the exit code of its status."""
    try:
        content = error.read(64 * 1024)
    except (OSError, http.client.HTTPException):
        content = b""
    try:
        problem = msgspec.json.decode(content, type=ProblemDetails)
        sentence = problem.detail or problem.title
    except (msgspec.DecodeError, ValueError):  # No offerflow answered, or HEAD, which has no body.
        sentence = f"{url} answered {error.code} {error.reason}".rstrip()
    if error.code == 401:
        hint = "set OFFERFLOW_TOKEN or give --token-file"
        return CommandError(Exit.UNAUTHORIZED, f"the master does not let you in: {sentence}; {hint}")
    if error.code == 403:
        return CommandError(Exit.UNAUTHORIZED, f"the master does not let you in: {sentence}")
    if error.code == 404:
        return CommandError(Exit.NOT_FOUND, _LISTING.sub(r"`offerflow \1 list`", sentence))
    if error.code in (502, 503, 504):
        return CommandError(Exit.UNREACHABLE, f"the master cannot serve now: {sentence}")
    if 400 <= error.code < 500:
        return CommandError(Exit.REFUSED, f"the master refused: {sentence}")
    return CommandError(Exit.ERROR, f"the master failed: {sentence}")


def _parse_events(answer: http.client.HTTPResponse, seq: int) -> Iterator[StreamEvent]:
    """Server-Sent Events as the HTML standard frames them. Ends with the stream; a half event is dropped."""
    kind = "message"
    data: list[str] = []
    while line := answer.readline():
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if text == "":
            if data:
                yield StreamEvent(seq, kind, _decode("\n".join(data).encode(), dict[str, Any]))
            kind, data = "message", []
        elif field == "id" and value.isdigit():
            seq = int(value)
        elif field == "event":
            kind = value
        elif field == "data":
            data.append(value)

"""The data plane over real sockets: a server and fetchers, and peers that break every promise."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agents.data.client import Client, ClientLimits
from agents.data.fetcher import Fetcher
from agents.data.http import parse_content_range, parse_range
from agents.data.rate import Uplink
from agents.data.server import DataServer, ServerLimits
from agents.events import Event, FetchEnded, FetchesProgressed
from agents.store import ShardStore
from federation.errors import ConfigError, PeerError
from federation.wire import Fetch, HeldShard, Source

pytestmark = pytest.mark.live
TOKEN = "not-a-secret"
QUICK = ClientLimits(connect_timeout_s=2, answer_timeout_s=2, stall_timeout_s=0.5)


class Site:
    """One agent's store, server and fetcher."""

    def __init__(
        self, folder: Path, name: str, *, token: str = "", uplink_bps: int | None = None, progress_s: float = 60,
        quick: ClientLimits = QUICK, **limits: float,
    ):  # fmt: skip
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.name = name
        self.uplink = Uplink(name, uplink_bps)
        self.store = ShardStore(folder / name, self.events.put)
        self.server = DataServer(
            host="127.0.0.1", port=0, verified=self.store.verified, read_log=self.read_log, uplink=self.uplink,
            token=token, limits=ServerLimits(**limits),  # type: ignore[arg-type]
        )  # fmt: skip
        client = Client(uplink=self.uplink, token=token, limits=quick)
        self.fetcher = Fetcher(
            self.store, client, self.events.put, agent_id=f"agent-{name}", fetches_max=4, retry_delays_s=(0.05,),
            progress_s=progress_s,
        )  # fmt: skip
        self.url = ""
        self.folder = folder

    def read_log(self, task_id: str, attempt: int) -> bytes | None:
        return b"epoch 1\n" if (task_id, attempt) == ("job/train/0", 2) else None

    async def start(self) -> "Site":
        await self.store.open()
        self.url = await self.server.start()
        return self

    def hold(self, data: bytes, name: str = "data") -> HeldShard:
        path = self.folder / "given"
        path.write_bytes(data)
        try:
            return self.store.add_file(path, name)
        finally:
            path.unlink()

    def source(self) -> Source:
        return Source(url=self.url, agent_id=f"agent-{self.name}", site=self.name)

    async def fetch(self, shard: HeldShard, *sources: Source) -> FetchEnded:
        fetch = Fetch(shard_id=shard.shard_id, size_bytes=shard.size_bytes, name=shard.name, sources=sources)
        await self.fetcher.fetch(7, fetch)
        ended = self.events.get_nowait()
        assert isinstance(ended, FetchEnded) and ended.fetch_id == 7
        return ended


MakeSite = Callable[..., Awaitable[Site]]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[MakeSite]:
    made: list[Site] = []

    async def make(name: str, **options: object) -> Site:
        made.append(await Site(tmp_path, name, **options).start())  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        await one.server.stop()


async def ask(url: str, request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Send raw bytes; status line, headers and body until the peer closes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    lines = head.decode().split("\r\n")
    return lines[0], dict(line.lower().split(": ", 1) for line in lines[1:]), body


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]).encode()


def held(data: bytes, name: str = "data") -> HeldShard:
    return HeldShard(shard_id=hashlib.sha256(data).hexdigest(), size_bytes=len(data), name=name)


@asynccontextmanager
async def peer(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """A peer that answers each connection as told, after the request's head."""
    waiting: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        waiting.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def saying(*pieces: bytes, then_wait: bool = False) -> Callable[..., Awaitable[None]]:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
        await writer.drain()
        if then_wait:
            await asyncio.Event().wait()

    return answer


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


# --- the server ------------------------------------------------------------------------------------------------------


async def test_a_shard_whole_in_part_and_its_head(site: MakeSite) -> None:
    one = await site("a")
    shard = one.hold(b"0123456789")
    path = f"/shards/{shard.shard_id}"
    status, headers, body = await ask(one.url, request(path))
    assert (status.split()[1], body, headers["content-length"]) == ("200", b"0123456789", "10")
    status, headers, body = await ask(one.url, request(path, "Range: bytes=4-"))
    assert (status.split()[1], body, headers["content-range"]) == ("206", b"456789", "bytes 4-9/10")
    assert (await ask(one.url, request(path, "Range: bytes=2-3")))[2] == b"23"
    assert (await ask(one.url, request(path, "Range: bytes=8-99")))[2] == b"89"
    status, headers, _ = await ask(one.url, request(path, "Range: bytes=10-"))
    assert (status.split()[1], headers["content-range"]) == ("416", "bytes */10")
    status, headers, body = await ask(one.url, request(path, method="HEAD"))
    assert (status.split()[1], body, headers["content-length"]) == ("200", b"", "10")
    assert (await ask(one.url, request(path, "Range: bytes=0-1,4-5")))[2] == b"0123456789"


async def test_echo_probe_and_logs(site: MakeSite) -> None:
    one = await site("a")
    assert (await ask(one.url, request("/echo")))[0].split()[1] == "204"
    first, second = [(await ask(one.url, request("/probe?bytes=100000")))[2] for _ in range(2)]
    assert len(first) == len(second) == 100_000 and first != second
    assert (await ask(one.url, request("/logs/job/train/0/2")))[2] == b"epoch 1\n"
    assert (await ask(one.url, request("/logs/job%2Ftrain%2F0/2")))[2] == b"epoch 1\n"


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/shards/" + "0" * 64, "GET", "404"),
        ("/shards/../../etc/passwd", "GET", "404"),
        ("/shards/" + "G" * 64, "GET", "404"),
        ("/", "GET", "404"),
        ("/logs/job/train/0/3", "GET", "404"),
        ("/logs/job/train/0/x", "GET", "404"),
        ("/logs/2", "GET", "404"),
        ("/probe", "GET", "400"),
        ("/probe?bytes=-1", "GET", "400"),
        ("/probe?bytes=99999999999", "GET", "400"),
        ("/probe?bytes=1e3", "GET", "400"),
        ("/echo", "DELETE", "405"),
        ("/shards/x", "HEAD", "404"),
    ],
)
async def test_what_is_refused(site: MakeSite, path: str, method: str, status: str) -> None:
    one = await site("a")
    answer, _, _ = await ask(one.url, request(path, method=method))
    assert answer.split()[1] == status
    assert (await ask(one.url, request("/echo")))[0].split()[1] == "204", "still serving"


async def test_every_path_asks_for_the_token(site: MakeSite) -> None:
    one = await site("a", token=TOKEN)
    shard = one.hold(b"secret")
    for path in ("/echo", "/probe?bytes=1", f"/shards/{shard.shard_id}", "/logs/job/train/0/2", "/nowhere"):
        for wrong in ((), ("Authorization: Bearer nope",), (f"Authorization: {TOKEN}",), ("Authorization: Bearer é",)):
            status, headers, _ = await ask(one.url, request(path, *wrong))
            assert (status.split()[1], headers["www-authenticate"]) == ("401", "bearer"), path
    _, _, body = await ask(one.url, request(f"/shards/{shard.shard_id}", f"Authorization: Bearer {TOKEN}"))
    assert body == b"secret"


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_garbage_is_answered_counted_and_closed(site: MakeSite, garbage: bytes) -> None:
    one = await site("a")
    status, _, _ = await ask(one.url, garbage)
    assert status.startswith("HTTP/1.1 4")
    assert one.server.counters["garbage"] == 1
    assert (await ask(one.url, request("/echo")))[0].split()[1] == "204"


async def test_a_body_is_read_away_or_refused(site: MakeSite) -> None:
    one = await site("a", body_bytes_max=100)
    assert (await ask(one.url, request("/echo", "Content-Length: 5") + b"12345"))[0].split()[1] == "204"
    assert (await ask(one.url, request("/echo", "Content-Length: 101") + bytes(101)))[0].split()[1] == "413"


async def test_slow_and_many_connections_are_bounded(site: MakeSite) -> None:
    one = await site("a", connections_max=2, head_timeout_s=0.3)
    host, port = one.url.removeprefix("http://").split(":")
    idle = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
    assert (await ask(one.url, request("/echo")))[0].split()[1] == "503"
    async with asyncio.timeout(5):
        assert await idle[0][0].read() == b"", "a connection that says nothing is closed"
        assert await idle[1][0].read() == b""
    assert (await ask(one.url, request("/echo")))[0].split()[1] == "204"
    for _, writer in idle:
        writer.close()


async def test_a_reader_that_stops_reading_is_dropped(site: MakeSite) -> None:
    one = await site("a", stall_timeout_s=0.3)
    host, port = one.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(request("/probe?bytes=60000000"))
    async with asyncio.timeout(10):
        while "dropped" not in one.server.counters:  # noqa: ASYNC110 — nothing of the server's could wake us
            await asyncio.sleep(0.05)
    writer.close()
    assert (await ask(one.url, request("/echo")))[0].split()[1] == "204"


async def test_an_open_address_needs_a_token(tmp_path: Path) -> None:
    async def verified(_: str) -> None:
        return None

    def server(host: str, token: str = "") -> DataServer:
        return DataServer(
            host=host, port=0, verified=verified, read_log=lambda *_: None, uplink=Uplink("a", None), token=token
        )

    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(ConfigError, match="set token_file"):
            server(host)
    for host in ("127.0.0.1", "::1", "localhost"):
        server(host)
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ConfigError, match="set data_url"):
            server(host, "token")
    with pytest.raises(ConfigError, match=r"cannot listen on 203\.0\.113\.1"):
        await server("203.0.113.1", "token").start()


def test_ranges() -> None:
    assert parse_range("bytes=0-", 10) == (0, 10)
    assert parse_range("bytes=5-1", 10) is None
    assert parse_range("bytes=-5", 10) is None, "suffixes get the whole, which is legal"
    assert parse_range("items=0-1", 10) is None
    assert parse_range("bytes=" + "9" * 5000 + "-", 10) is None
    with pytest.raises(PeerError):
        parse_range("bytes=10-", 10)
    assert parse_content_range("bytes 4-9/10") == (4, 10, 10)
    assert parse_content_range("bytes 4-9/*") is None


# --- fetching --------------------------------------------------------------------------------------------------------


async def test_a_shard_travels_and_is_measured(site: MakeSite) -> None:
    one, two = await site("a", token=TOKEN), await site("b", token=TOKEN)
    shard = one.hold(os.urandom(3_000_000), "digits/0")
    ended = await two.fetch(shard, one.source())
    assert (ended.ok, ended.shard, ended.fetched_bytes) == (True, shard, 3_000_000)
    path = two.store.path(shard.shard_id)
    assert path is not None and hashlib.sha256(path.read_bytes()).hexdigest() == shard.shard_id
    (sample,) = ended.samples
    assert (sample.from_agent, sample.to_agent, sample.method) == ("agent-a", "agent-b", "transfer")
    assert sample.bytes == 3_000_000 and sample.bandwidth_bps is not None
    assert 0 < sample.bandwidth_bps <= sample.bytes * 8_000_000 // sample.duration_us, "the first bytes do not count"
    again = await two.fetch(shard)
    assert (again.ok, again.fetched_bytes, again.samples) == (True, 0, ())


async def test_small_transfers_tell_nothing_of_the_link(site: MakeSite) -> None:
    one, two = await site("a"), await site("b")
    ended = await two.fetch(one.hold(os.urandom(200_000)), one.source())
    assert ended.ok and ended.samples == ()
    master = Source(url=one.url)
    ended = await two.fetch(one.hold(os.urandom(400_000)), master)
    assert ended.ok and ended.samples == (), "the master's store is no agent"


async def test_an_empty_shard_is_a_shard(site: MakeSite) -> None:
    one, two = await site("a"), await site("b")
    assert (await two.fetch(one.hold(b""), one.source())).ok


async def test_a_source_that_dies_midway_is_resumed_from_another(site: MakeSite) -> None:
    one, two = await site("a"), await site("b")
    data = os.urandom(2_000_000)
    shard = one.hold(data)
    half = saying(head("200 OK", "Content-Length: 2000000"), data[:1_200_000])
    async with peer(half) as url:
        ended = await two.fetch(shard, Source(url=url, agent_id="agent-x", site="x"), one.source())
    assert ended.ok and ended.fetched_bytes == 2_000_000, "no byte came twice"
    assert [sample.from_agent for sample in ended.samples] == ["agent-x", "agent-a"]


async def test_a_redirected_fetch_goes_on_from_the_new_source(site: MakeSite) -> None:
    """The old one has fallen silent: nothing but the order ends its part."""
    one, two = await site("a"), await site("b", progress_s=0.05, quick=ClientLimits())
    data = os.urandom(2_000_000)
    shard = one.hold(data)
    half = saying(head("200 OK", "Content-Length: 2000000"), data[:1_200_000], then_wait=True)
    async with peer(half) as url, asyncio.timeout(20):
        old = Source(url=url, agent_id="agent-x", site="x")
        fetch = Fetch(shard_id=shard.shard_id, size_bytes=shard.size_bytes, sources=(old,))
        running = asyncio.create_task(two.fetcher.fetch(7, fetch))
        event = await two.events.get()
        while not (isinstance(event, FetchesProgressed) and event.fetches[0].done_bytes > 500_000):
            event = await two.events.get()
        assert event.fetches[0].from_agent == "agent-x"
        two.fetcher.redirect(7, Fetch(shard_id=shard.shard_id, size_bytes=shard.size_bytes, sources=(one.source(),)))
        await running
        while not isinstance(event, FetchEnded):
            event = await two.events.get()
    assert event.ok and event.fetched_bytes == 2_000_000, "no byte came twice"
    two.fetcher.redirect(7, fetch)  # It has ended: nothing happens.


async def test_a_restarted_agent_resumes(site: MakeSite, tmp_path: Path) -> None:
    one, two = await site("a"), await site("b")
    data = os.urandom(1_000_000)
    shard = one.hold(data)
    partial = two.store.open_partial(shard.shard_id, shard.size_bytes)
    partial.write(data[:700_000])
    partial.close()
    ended = await two.fetch(shard, one.source())
    assert ended.ok and ended.fetched_bytes == 300_000
    whole = one.hold(data + b"!")
    partial = two.store.open_partial(whole.shard_id, whole.size_bytes)
    partial.write(data + b"!")
    partial.close()
    ended = await two.fetch(whole)
    assert ended.ok and ended.fetched_bytes == 0, "all was here but the rename"


async def test_a_silent_source_is_left(site: MakeSite) -> None:
    one, two = await site("a"), await site("b")
    data = os.urandom(300_000)
    silent = saying(head("200 OK", "Content-Length: 300000"), data[:1000], then_wait=True)
    async with peer(silent) as url:
        ended = await two.fetch(one.hold(data), Source(url=url), one.source())
    assert ended.ok


async def test_wrong_bytes_are_refused_and_another_source_asked(site: MakeSite) -> None:
    one, two = await site("a"), await site("b")
    data = os.urandom(100_000)
    lie = saying(head("200 OK", "Content-Length: 100000"), bytes(100_000))
    async with peer(lie) as url:
        liar = Source(url=url, agent_id="liar", site="x")
        alone = await two.fetch(held(data), liar)
        assert (alone.ok, alone.reason) == (False, "hash") and "SHA-256" in alone.detail
        assert two.store.held() == ()
        ended = await two.fetch(one.hold(data), liar, one.source())
    assert ended.ok


async def test_wrong_bytes_in_a_mixture_leave_the_honest_source_standing(site: MakeSite) -> None:
    """The first sends a wrong half and dies, the honest one brings the rest: whose fault it was is found out."""
    one, two = await site("a"), await site("b")
    data = os.urandom(500_000)
    wrong_half = saying(head("200 OK", "Content-Length: 500000"), bytes(300_000))
    async with peer(wrong_half) as url:
        ended = await two.fetch(one.hold(data), Source(url=url), one.source())
    assert ended.ok


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (saying(head("200 OK", "Content-Length: 999999999999"), bytes(50)), "999999999999 bytes, not 1000"),
        (saying(head("200 OK", "Content-Length: 500"), bytes(500)), "500 bytes, not 1000"),
        (saying(head("200 OK", "Transfer-Encoding: chunked"), b"7d0\r\n" + bytes(2000)), "more than the promised"),
        (saying(head("200 OK"), bytes(400)), "sent 400 of 1000"),
        (saying(head("206 Partial", "Content-Length: 10", "Content-Range: nonsense"), bytes(10)), "Content-Range"),
        (saying(head("206 Partial", "Content-Length: 9", "Content-Range: bytes 1-9/1000"), bytes(9)), "began at 1"),
        (saying(head("302 Found", "Location: http://evil/", "Content-Length: 0")), "answered 302"),
        (saying(head("404 Not Found", "Content-Length: 0")), "answered 404"),
        (saying(b"SSH-2.0-OpenSSH_9.2\r\n"), ""),
        (saying(b""), "closed the connection midway"),
        (saying(head("200 OK", "X: " + "y" * 100_000)), ""),
        (saying(then_wait=True), "nothing for too long"),
    ],
)
async def test_lying_peers_cost_one_clear_failure(
    site: MakeSite, answer: Callable[..., Awaitable[None]], words: str
) -> None:
    two = await site("b")
    async with peer(answer) as url:
        ended = await two.fetch(held(os.urandom(1000)), Source(url=url))
    assert (ended.ok, ended.reason) == (False, "fetch") and words in ended.detail
    assert ended.fetched_bytes <= 2000 and two.store.held() == ()


@pytest.mark.parametrize("url", ["ftp://x/", "http://", "not a url", "http://127.0.0.1:99999/", "http://127.0.0.1:1/"])
async def test_addresses_that_lead_nowhere(site: MakeSite, url: str) -> None:
    two = await site("b")
    ended = await two.fetch(held(b"x"), Source(url=url))
    assert (ended.ok, ended.reason) == (False, "fetch") and ended.detail


async def test_no_source_at_all(site: MakeSite) -> None:
    ended = await (await site("b")).fetch(held(b"x"))
    assert (ended.reason, ended.detail) == ("fetch", "no source is known")


async def test_two_fetches_of_one_shard_share_the_transfer(site: MakeSite) -> None:
    one, two = await site("a"), await site("b")
    shard = one.hold(os.urandom(1_000_000))
    fetch = Fetch(shard_id=shard.shard_id, size_bytes=shard.size_bytes, sources=(one.source(),))
    await asyncio.gather(*(two.fetcher.fetch(number, fetch) for number in range(5)))
    ended = [two.events.get_nowait() for _ in range(5)]
    assert all(isinstance(event, FetchEnded) and event.ok for event in ended)
    assert sum(event.fetched_bytes for event in ended if isinstance(event, FetchEnded)) == 1_000_000


async def test_a_full_store_fails_the_fetch_alone(site: MakeSite, tmp_path: Path) -> None:
    one, two = await site("a"), await site("b")
    two.store = ShardStore(tmp_path / "small", two.events.put, bytes_max=1000)
    await two.store.open()
    two.fetcher = Fetcher(
        two.store, Client(uplink=two.uplink), two.events.put, agent_id="agent-b", fetches_max=1, retry_delays_s=()
    )
    ended = await two.fetch(one.hold(os.urandom(2000)), one.source())
    assert (ended.ok, ended.reason) == (False, "disk_full")
    assert (await two.fetch(one.hold(os.urandom(900)), one.source())).ok

"""The master's store of shards: a file that has its name is whole; nothing else leaves a trace."""

import asyncio
import hashlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.blobs import BlobStore
from federation.errors import PeerError

BODY = b"".join(b"%07d" % i for i in range(100_000))
NAME = hashlib.sha256(BODY).hexdigest()


async def chunks(body: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for begin in range(0, len(body), size):
        yield body[begin : begin + size]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


async def test_bytes_come_back_as_they_went_in(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    assert not store.has(NAME) and store.path(NAME) is None
    assert await store.put(chunks(BODY), NAME) == len(BODY)
    path = store.path(NAME)
    assert path is not None and path.read_bytes() == BODY and store.has(NAME)
    assert await store.read(NAME, 7, 7) == b"0000001"
    assert await store.read(NAME, len(BODY) - 3, 100) == BODY[-3:]
    assert await store.read(NAME, len(BODY) + 1, 100) == b""
    assert BlobStore(tmp_path).has(NAME)
    empty = hashlib.sha256(b"").hexdigest()
    assert await store.put(chunks(b""), empty) == 0


async def test_bytes_that_hash_otherwise_are_refused(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(PeerError, match="do not hash") as refusal:
        await store.put(chunks(BODY[:-1] + b"!"), NAME)
    assert refusal.value.code == "hash" and files_in(tmp_path) == []
    await store.put(chunks(BODY), NAME)
    with pytest.raises(PeerError, match="do not hash"):  # Even where the shard is known already.
        await store.put(chunks(b"other"), NAME)
    assert store.has(NAME)


async def test_too_many_bytes_are_refused_before_they_are_written(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(PeerError) as refusal:
        await store.put(chunks(BODY), NAME, bytes_max=100_000)
    assert refusal.value.code == "oversized" and files_in(tmp_path) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", NAME.upper(), NAME[:-1], NAME + "0", "incoming", "é" * 64])
async def test_names_that_are_no_hash_reach_no_file(tmp_path: Path, name: str) -> None:
    store = BlobStore(tmp_path)
    assert store.path(name) is None
    with pytest.raises(PeerError):
        await store.put(chunks(BODY), name)
    with pytest.raises(PeerError):
        await store.read(name, 0, 1)


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield BODY[:1000]
        raise ConnectionResetError

    store = BlobStore(tmp_path)
    with pytest.raises(ConnectionResetError):
        await store.put(breaks(), NAME)
    assert files_in(tmp_path) == []


async def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            await store.put(chunks(BODY), NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_in(tmp_path) == []
    assert await store.put(chunks(BODY), NAME) == len(BODY)


async def test_many_may_upload_the_same(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    sizes = await asyncio.gather(*(store.put(chunks(BODY), NAME) for _ in range(5)))
    assert sizes == [len(BODY)] * 5 and files_in(tmp_path) == [NAME]


def test_leftovers_of_a_crash_are_swept(tmp_path: Path) -> None:
    BlobStore(tmp_path)
    (tmp_path / "incoming" / "half").write_bytes(b"x")
    BlobStore(tmp_path)
    assert files_in(tmp_path) == []

"""The shard store on a real disk: what comes in whole, what is damaged, what does not fit."""
# ruff: noqa: ASYNC230, ASYNC240 — nothing else runs in these loops

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.events import Event, ShardFound, ShardRemoved
from agents.store import OutputRefusedError, ShardDamagedError, ShardStore, StoreFullError
from federation.wire import HeldShard, Output


async def opened(folder: Path, **options: int) -> tuple[ShardStore, "asyncio.Queue[Event]"]:
    events: asyncio.Queue[Event] = asyncio.Queue()
    store = ShardStore(folder / "shards", events.put, **options)
    await store.open()
    return store, events


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def given(folder: Path, data: bytes, name: str = "given") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


async def test_bytes_come_in_pieces_and_are_held_under_their_hash(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    partial = store.open_partial(sha(b"hello world"), 11)
    partial.write(b"hello ")
    assert store.path(sha(b"hello world")) is None, "not before it is whole"
    partial.write(b"world")
    shard = partial.finish("greeting")
    assert shard == HeldShard(shard_id=sha(b"hello world"), size_bytes=11, name="greeting")
    path = store.path(shard.shard_id)
    assert path is not None and path.read_bytes() == b"hello world" and path.stat().st_mode & 0o777 == 0o444
    reopened, _ = await opened(tmp_path)
    assert reopened.held() == (shard,)


async def test_a_broken_fetch_goes_on_where_it_stopped(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    partial = store.open_partial(sha(b"hello world"), 11)
    partial.write(b"hello")
    partial.close()
    store, _ = await opened(tmp_path)
    partial = store.open_partial(sha(b"hello world"), 11)
    assert partial.offset == 5
    partial.write(b" world")
    assert partial.finish("").size_bytes == 11


async def test_wrong_bytes_never_get_in(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    partial = store.open_partial(sha(b"hello world"), 11)
    partial.write(b"hello w0rld")
    with pytest.raises(ShardDamagedError, match="11 of 11 bytes with SHA-256"):
        partial.finish("greeting")
    assert partial.offset == 0, "emptied for the next source"
    with pytest.raises(ShardDamagedError, match="more than the promised 11"):
        partial.write(b"hello world!")
    with pytest.raises(ShardDamagedError):
        partial.finish("greeting")
    assert store.held() == ()


async def test_a_partial_longer_than_its_shard_begins_anew(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    given(store.partial_folder, b"far too long", sha(b"short"))
    assert store.open_partial(sha(b"short"), 5).offset == 0


async def test_a_damaged_file_is_found_at_the_start(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    kept = store.add_file(given(tmp_path, b"kept"), "kept")
    rotten = store.add_file(given(tmp_path, b"rotten", "other"), "rotten")
    path = store.path(rotten.shard_id)
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(b"r0tten")
    store, _ = await opened(tmp_path)
    assert store.held() == (kept,)
    assert not path.exists()


async def test_a_file_without_its_record_is_hashed_again(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    shard = store.add_file(given(tmp_path, b"data"), "name")
    path = store.path(shard.shard_id)
    assert path is not None
    path.with_suffix(".json").write_bytes(b"{broken")
    given(path.parent, b"", f"{sha(b'gone')}.json")
    store, _ = await opened(tmp_path)
    assert store.held() == (HeldShard(shard_id=shard.shard_id, size_bytes=4),), "its name was in the record"
    assert not (path.parent / f"{sha(b'gone')}.json").exists()


async def test_damage_while_running_is_reported_once_and_dropped(tmp_path: Path) -> None:
    store, events = await opened(tmp_path)
    shard = store.add_file(given(tmp_path, b"data"), "name")
    path = await store.verified(shard.shard_id)
    assert path is not None
    os.utime(path, ns=(1, 1))
    assert await store.verified(shard.shard_id) == path, "touched, but the same bytes"
    path.chmod(0o644)
    path.write_bytes(b"DATA")
    os.utime(path, ns=(2, 2))
    assert await store.verified(shard.shard_id) is None
    assert events.get_nowait() == ShardRemoved(shard_id=shard.shard_id, reason="damaged")
    assert await store.verified(shard.shard_id) is None and events.empty()


async def test_removal_is_always_answered_and_readers_keep_their_file(tmp_path: Path) -> None:
    store, events = await opened(tmp_path)
    shard = store.add_file(given(tmp_path, b"data"), "name")
    path = store.path(shard.shard_id)
    assert path is not None
    with open(path, "rb") as reader:
        await store.remove(shard.shard_id)
        assert reader.read() == b"data"
    await store.remove("f" * 64)
    assert [events.get_nowait(), events.get_nowait()] == [
        ShardRemoved(shard_id=shard.shard_id),
        ShardRemoved(shard_id="f" * 64),
    ]
    assert store.held() == ()


async def test_the_quota_counts_what_is_still_coming(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path, bytes_max=100)
    store.add_file(given(tmp_path, bytes(40)), "forty")
    coming = store.open_partial(sha(b"a" * 40), 40)
    with pytest.raises(StoreFullError, match="exceed the store's 100 bytes"):
        store.open_partial(sha(b"b" * 30), 30)
    coming.discard()
    store.open_partial(sha(b"b" * 30), 30)


async def test_the_disks_reserve_is_not_touched(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path, reserved_bytes=2**60)
    with pytest.raises(StoreFullError, match="of them reserved"):
        store.open_partial(sha(b"x"), 1)


FILL = """
import asyncio, hashlib, resource, signal, sys
from pathlib import Path
from agents.store import ShardStore, StoreFullError

async def main(folder):
    async def post(event): pass
    store = ShardStore(folder, post)
    await store.open()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    data = bytes(100_000)
    partial = store.open_partial(hashlib.sha256(data).hexdigest(), len(data))
    try:
        partial.write(data)
    except StoreFullError as error:
        print(error)
    partial.discard()
    small = store.open_partial(hashlib.sha256(b"small").hexdigest(), 5)
    small.write(b"small")
    print(small.finish("small").name, len(store.held()), len(list(store.partial_folder.iterdir())))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_full_disk_is_named_and_survived(tmp_path: Path) -> None:
    """In a process of its own, whose files may not pass 64 KiB: the kernel refuses the write, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.stdout.splitlines() == ["the disk is full: File too large", "small 1 0"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_disk_that_fills_up_loses_nothing_held(tiny_disk: Path, tmp_path: Path) -> None:
    store, _ = await opened(tiny_disk)
    kept = store.add_file(given(tmp_path, bytes(300_000)), "kept")
    partial = store.open_partial(sha(bytes(500_000)), 500_000)
    given(tiny_disk, bytes(500_000), "somebody else's")
    with pytest.raises(StoreFullError, match="disk is full: No space left"):
        partial.write(bytes(500_000))
    partial.discard()
    with pytest.raises(StoreFullError):
        store.add_file(given(tmp_path, bytes(600_000)), "too large")
    store, _ = await opened(tiny_disk)
    assert store.held() == (kept,)
    assert list(store.partial_folder.iterdir()) == []


async def test_outputs_become_shards_and_stay_for_a_second_reading(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    given(tmp_path / "out", b"weights", "model/w.npz")
    outputs = (Output(name="model", path="model/w.npz", bytes_max=7),)
    shards = store.harvest(tmp_path / "out", "job/train/3", outputs)
    assert shards == (HeldShard(shard_id=sha(b"weights"), size_bytes=7, name="job/train/3/model"),)
    assert store.harvest(tmp_path / "out", "job/train/3", outputs) == shards, "a restarted agent harvests again"
    with pytest.raises(OutputRefusedError, match="declared at most 6"):
        store.harvest(tmp_path / "out", "t", (Output(name="model", path="model/w.npz", bytes_max=6),))


async def test_a_watched_folder_becomes_shards(tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    given(folder, b"first", "digits/0")
    given(folder, b"not yet", "digits/1.tmp")
    given(folder, b"hidden", ".cache/x")
    store, events = await opened(tmp_path)
    watching = asyncio.create_task(store.watch(folder, 20_000))
    async with asyncio.timeout(10):
        assert await events.get() == ShardFound(shard=HeldShard(shard_id=sha(b"first"), size_bytes=5, name="digits/0"))
        (folder / "digits/1.tmp").rename(folder / "digits/1")
        assert await events.get() == ShardFound(
            shard=HeldShard(shard_id=sha(b"not yet"), size_bytes=7, name="digits/1")
        )
    watching.cancel()
    held = store.path(sha(b"first"))
    assert held is not None and os.path.samefile(held, folder / "digits/0"), "no second copy"
    assert (folder / "digits/0").stat().st_mode & 0o200, "the owner's file keeps its mode"

    store, events = await opened(tmp_path)
    watching = asyncio.create_task(store.watch(folder, 20_000))
    given(folder, b"third", "third")
    async with asyncio.timeout(10):
        found = await events.get()
    assert isinstance(found, ShardFound) and found.shard.name == "third", "what it knows is not told again"
    watching.cancel()


async def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    store, _ = await opened(tmp_path)
    growing = tmp_path / "growing"
    growing.write_bytes(bytes(50_000_000))
    with open(growing, "ab") as writer:
        reading = asyncio.create_task(asyncio.to_thread(store.add_file, growing, "growing"))
        while not reading.done():
            writer.write(b"more")
            writer.flush()
            await asyncio.sleep(0)
    with pytest.raises(ShardDamagedError, match="changed while it was read"):
        await reading
    assert store.held() == () and list(store.partial_folder.iterdir()) == []

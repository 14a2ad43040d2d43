"""The journal: what is acknowledged survives, what is damaged is named, what failed stays failed."""

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.errors import StorageError
from federation.journal import Journal
from policies.model import Record
from tests.journal_world import Fact, Put, Removed


def open_journal(path: Path, history: int = 0) -> Journal[Fact]:
    return Journal.open(path, Fact, history=history)


async def filled(path: Path, n_facts: int) -> None:
    journal = open_journal(path)
    await journal.commit([Put(key=f"k{i}", value=i) for i in range(1, n_facts + 1)])
    await journal.close()


def edit(path: Path, statement: str, *values: object) -> None:
    """What a bad disk or a careless hand does to the file."""
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


@contextmanager
def files_limited_to(n_bytes: int) -> Iterator[None]:
    """A disk that fills up: the kernel refuses to let any file of this process grow beyond `n_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_new_journal_is_empty(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    assert journal.recover() == (None, [], 0)
    assert await journal.commit([]) == 0
    await journal.close()
    await journal.close()


async def test_what_was_committed_comes_back_in_order(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    assert await journal.commit([Put(key="a", value=1), Put(key="b", value=2)]) == 2
    assert await journal.commit([Removed(key="a")]) == 3
    assert journal.last_seq == 3
    await journal.close()
    again = open_journal(tmp_path / "j")
    assert again.recover() == (None, [Put(key="a", value=1), Put(key="b", value=2), Removed(key="a")], 3)
    await again.close()


async def test_numbers_go_on_after_a_restart_without_recover(tmp_path: Path) -> None:
    await filled(tmp_path / "j", 5)
    journal = open_journal(tmp_path / "j")
    assert await journal.commit([Removed(key="k1")]) == 6
    await journal.close()


async def test_commits_that_wait_together_each_get_their_own_number(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    seqs = await asyncio.gather(*(journal.commit([Put(key="x"), Put(key="y", value=i)]) for i in range(200)))
    assert seqs == [2 * i + 2 for i in range(200)]
    assert [fact for _, fact in await journal.read(398, 9)] == [Put(key="x"), Put(key="y", value=199)]
    await journal.close()


async def test_a_cancelled_caller_does_not_cancel_the_write(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    task = asyncio.create_task(journal.commit([Put(key="a")]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await journal.commit([Put(key="b")]) == 2
    await journal.close()


async def test_a_snapshot_replaces_what_came_before(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    await journal.commit([Put(key=f"k{i}") for i in range(10)])
    await journal.snapshot(8, b"first eight")
    await journal.commit([Removed(key="k0")])
    assert await journal.read(0, 100) == [(9, Put(key="k8")), (10, Put(key="k9")), (11, Removed(key="k0"))]
    await journal.close()
    again = open_journal(tmp_path / "j")
    assert again.recover() == (b"first eight", [Put(key="k8"), Put(key="k9"), Removed(key="k0")], 11)
    await again.snapshot(11, b"all")
    await again.close()
    third = open_journal(tmp_path / "j")
    assert third.recover() == (b"all", [], 11)
    assert await third.commit([Put(key="z")]) == 12
    await third.close()


async def test_history_keeps_facts_for_readers_behind_the_snapshot(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j", history=3)
    await journal.commit([Put(key="k", value=i) for i in range(1, 11)])
    await journal.snapshot(10, b"ten")
    assert [seq for seq, _ in await journal.read(0, 100)] == [8, 9, 10]
    assert [seq for seq, _ in await journal.read(8, 1)] == [9]
    await journal.close()
    again = open_journal(tmp_path / "j", history=3)
    assert again.recover() == (b"ten", [], 10)
    await again.close()


async def test_a_snapshot_of_the_future_is_refused(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    with pytest.raises(ValueError, match="beyond the last fact"):
        await journal.snapshot(1, b"")
    await journal.close()


@pytest.mark.parametrize(
    ("statement", "values", "named"),
    [
        ("UPDATE facts SET body = x'81a174a3707574' WHERE seq = 3", (), "record 3: its checksum"),
        ("UPDATE facts SET crc = crc + 1 WHERE seq = 5", (), "record 5: its checksum"),
        ("DELETE FROM facts WHERE seq = 4", (), "record 4: it is missing"),
        ("DELETE FROM facts WHERE seq < 3", (), "record 1: it is missing"),
        ("UPDATE facts SET seq = 99 WHERE seq = 5", (), "record 5: it is missing"),
        ("UPDATE facts SET body = (SELECT body FROM facts WHERE seq = 1) WHERE seq = 2", (), "record 2: its checksum"),
        ("UPDATE facts SET body = 'text' WHERE seq = 2", (), "record 2: its checksum"),
    ],
)
async def test_damage_is_named(tmp_path: Path, statement: str, values: tuple[object, ...], named: str) -> None:
    await filled(tmp_path / "j", 5)
    edit(tmp_path / "j", statement, *values)
    journal = open_journal(tmp_path / "j")
    with pytest.raises(StorageError, match=named):
        journal.recover()
    await journal.close()


async def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    await journal.commit([Put(key="a")])
    await journal.snapshot(1, b"state")
    await journal.close()
    edit(tmp_path / "j", "UPDATE snapshot SET body = x'00'")
    again = open_journal(tmp_path / "j")
    with pytest.raises(StorageError, match="the snapshot at record 1"):
        again.recover()
    await again.close()


async def test_a_fact_of_a_newer_version_is_named(tmp_path: Path) -> None:
    class Invented(Record, frozen=True, kw_only=True, tag="invented"):
        thing: int

    newer: Journal[Invented] = Journal.open(tmp_path / "j", Invented)
    await newer.commit([Invented(thing=1)])
    await newer.close()
    journal = open_journal(tmp_path / "j")
    with pytest.raises(StorageError, match="record 1: this version cannot read it"):
        journal.recover()
    await journal.close()


def test_overwritten_pages_are_found(tmp_path: Path) -> None:
    asyncio.run(filled(tmp_path / "j", 2000))
    with (tmp_path / "j").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096)
    with pytest.raises(StorageError, match="damaged"):
        open_journal(tmp_path / "j")


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be looked at" * 9, b"SQLite format 3\0short"]
)
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(StorageError, match="damaged or no journal"):
        open_journal(tmp_path / "j")


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    edit(tmp_path / "j", "CREATE TABLE theirs (x)")
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(StorageError, match="not a journal of offerflow"):
        open_journal(tmp_path / "j")
    assert (tmp_path / "j").read_bytes() == before


async def test_another_format_is_refused(tmp_path: Path) -> None:
    await filled(tmp_path / "j", 1)
    edit(tmp_path / "j", "PRAGMA user_version = 7")
    with pytest.raises(StorageError, match="has format 7; this version reads 1"):
        open_journal(tmp_path / "j")


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="unable to open"):
        open_journal(tmp_path / "none" / "j")


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    await journal.commit([Put(key="a")])
    code = (
        "import sys\nfrom federation.errors import StorageError\nfrom federation.journal import Journal\n"
        "try:\n    Journal.open(sys.argv[1], dict)\nexcept StorageError as error:\n    print(error)"
    )
    other = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, str(tmp_path / "j")], capture_output=True, text=True, check=True
    )
    assert "in use by another process" in other.stdout
    assert await journal.commit([Put(key="b")]) == 2  # The intruder changed nothing.
    await journal.close()


async def test_a_full_disk_kills_the_journal_for_good(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    await journal.commit([Put(key="kept")])
    room = files_limited_to((tmp_path / "j-wal").stat().st_size + 4096)
    with room, pytest.raises(StorageError, match="free or replace the disk") as first:
        await journal.commit([Put(key="x" * 100_000)])
    # There is room again, and still nothing is tried: a write that failed once cannot be trusted to have happened.
    for attempt in (journal.commit([Put(key="b")]), journal.read(0, 1), journal.snapshot(1, b"")):
        with pytest.raises(StorageError) as later:
            await attempt
        assert later.value is first.value
    assert journal.failure is first.value
    await journal.close()
    copy = tmp_path / "copy"
    copy.write_bytes((tmp_path / "j").read_bytes())
    (tmp_path / "copy-wal").write_bytes((tmp_path / "j-wal").read_bytes())
    again = open_journal(copy)
    assert again.recover().facts == [Put(key="kept")]
    await again.close()


async def test_every_commit_of_a_failed_group_fails(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    await journal.commit([Put(key="kept")])
    with files_limited_to((tmp_path / "j-wal").stat().st_size + 4096):
        ends = await asyncio.gather(
            *(journal.commit([Put(key="x" * 50_000)]) for _ in range(20)), return_exceptions=True
        )
    assert all(isinstance(end, StorageError) for end in ends)
    await journal.close()


async def test_use_after_close_is_an_error(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    await journal.close()
    with pytest.raises(StorageError, match="is closed"):
        await journal.commit([Put(key="a")])


WRITER = """
import asyncio, sys
from federation.journal import Journal
from tests.journal_world import Fact, Put
async def main():
    journal = Journal.open(sys.argv[1], Fact)
    n = journal.recover().last_seq
    while True:
        n = await journal.commit([Put(key="k", value=n + 1), Put(key="k", value=n + 2)])
        print(n, flush=True)
        if n % 40 == 0:
            await journal.snapshot(n, str(n).encode())
asyncio.run(main())
"""


@pytest.mark.live
def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Ten times: a process commits pairs and says so; it is killed in mid-write; every pair it announced is there."""
    acknowledged = 0
    for kill in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "j")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert writer.stdout is not None
        for _ in range(5 + 7 * kill):  # A different place in the snapshot cycle each time.
            acknowledged = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.wait()
        acknowledged = int(rest[-1]) if rest else acknowledged
        journal = open_journal(tmp_path / "j")
        state, facts, last_seq = journal.recover()
        asyncio.run(journal.close())
        assert last_seq >= acknowledged
        assert last_seq % 2 == 0, "half a commit survived"
        start = int(state) if state else 0
        assert [fact.value for fact in facts if isinstance(fact, Put)] == list(range(start + 1, last_seq + 1))

"""The journal: facts made durable in SQLite before anything that depends on them is done.

One connection in one thread of its own does everything: write, read, snapshot, checkpoint. It holds the file's
exclusive lock, so a second process on the same file is refused, and no other connection can ever checkpoint (older
SQLite 3 releases corrupt the file when two do). `synchronous=FULL` in WAL mode means that a commit returns after its
fsync. Commits that wait together share one transaction, hence one fsync (group commit).

Every record carries a CRC-32 over its sequence number and body. A record that is missing, misplaced or damaged is a
`StorageError` that names it; nothing is skipped in silence.

After the first failure to write, the journal is dead: the kernel may have thrown the dirty pages away, so a second
fsync that succeeds proves nothing (Rebello et al., "Can Applications Recover from fsync Failures?", ATC '20). Every
later call raises the same `StorageError`, and the connection is left as it is; whoever owns it steps down.

Agents use this module too: the standard library and msgspec only.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar

import msgspec

from federation.errors import StorageError

F = TypeVar("F")
T = TypeVar("T")

_APPLICATION_ID: Final = 0x6F66666C  # "offl", so that another program's database is never taken for a journal
_FORMAT: Final = 1
# Commits that share one fsync. Bounds the transaction, not the queue: whoever awaits a commit sends no second one.
_GROUP_COMMITS_MAX: Final = 1024

_SCHEMA = """
CREATE TABLE facts (seq INTEGER PRIMARY KEY, body BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE snapshot (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, body BLOB NOT NULL,
                       crc INTEGER NOT NULL);
"""


class Recovered(NamedTuple, Generic[F]):
    """What the journal holds: the last snapshot's state, the facts after it, and the highest sequence number."""

    state: bytes | None
    facts: list[F]
    last_seq: int


class _Request(NamedTuple):
    """One call for the writer's thread: either bodies to commit, or a function to run between transactions."""

    bodies: Sequence[bytes] | None
    act: Callable[[sqlite3.Connection], Any] | None
    done: Future[Any]


class Journal(Generic[F]):
    """Facts of type `F` (a union of tagged structs), numbered from 1 without gaps. Use from one event loop."""

    def __init__(self, path: Path, fact_type: Any, history: int) -> None:
        """Use `Journal.open`."""
        self.path = path
        self._history = history
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[F] = msgspec.msgpack.Decoder(fact_type)
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"journal-{path.name}", daemon=True)
        self._failure: StorageError | None = None
        self._last_seq = 0
        self._closed = False

    @classmethod
    def open(cls, path: Path | str, fact_type: Any, *, history: int = 0) -> Self:
        """Open or create the journal at `path`; blocks. Of the facts before a snapshot the newest `history` are kept
        for readers. Raises `StorageError` if the file is damaged, foreign, or in use by another process."""
        journal = cls(Path(path), fact_type, history)
        journal._thread.start()
        try:
            journal._submit(journal._prepare).result()
        except StorageError:
            journal._requests.put(None)
            raise
        return journal

    def recover(self) -> Recovered[F]:
        """Read everything back; blocks. Raises `StorageError` naming the first record that is damaged or missing."""
        recovered: Recovered[F] = self._submit(self._recover).result()
        return recovered

    @property
    def last_seq(self) -> int:
        """The number of the newest durable fact; 0 when there is none."""
        return self._last_seq

    @property
    def failure(self) -> StorageError | None:
        """Why the journal died, or None."""
        return self._failure

    async def commit(self, facts: Sequence[F]) -> int:
        """Append `facts` in order; returns the last sequence number after the fsync. All of them or none.

        Cancelling the caller does not cancel the write. Raises `StorageError`, then and ever after.
        """
        if not facts:
            return self._last_seq
        bodies = [self._encoder.encode(fact) for fact in facts]
        seq: int = await asyncio.wrap_future(self._submit(None, bodies))
        return seq

    async def snapshot(self, seq: int, state: bytes) -> None:
        """Replace the snapshot by `state`, which holds every fact up to `seq`, and drop what nobody needs any more."""
        if not 0 <= seq <= self._last_seq:
            raise ValueError(f"a snapshot at {seq} is beyond the last fact, {self._last_seq}")

        def act(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT OR REPLACE INTO snapshot (one, seq, body, crc) VALUES (1, ?, ?, ?)",
                (seq, state, _crc(seq, state)),
            )
            connection.execute("DELETE FROM facts WHERE seq <= ?", (seq - self._history,))
            connection.execute("COMMIT")

        await asyncio.wrap_future(self._submit(act))

    async def read(self, after_seq: int, limit: int) -> list[tuple[int, F]]:
        """Up to `limit` durable facts after `after_seq`, in order. Those a snapshot dropped are gone: the first number
        is then above `after_seq + 1`."""

        def act(connection: sqlite3.Connection) -> list[tuple[int, F]]:
            rows = connection.execute(
                "SELECT seq, body, crc FROM facts WHERE seq > ? ORDER BY seq LIMIT ?", (after_seq, limit)
            )
            return [(seq, self._decode(seq, body, crc)) for seq, body, crc in rows]

        facts: list[tuple[int, F]] = await asyncio.wrap_future(self._submit(act))
        return facts

    async def close(self) -> None:
        """Finish what is queued, checkpoint and close. After a failure nothing is written any more."""
        if self._closed:
            return
        self._closed = True
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- the writer's thread -----------------------------------------------------------------------------------------

    def _submit(
        self, act: Callable[[sqlite3.Connection], Any] | None, bodies: Sequence[bytes] | None = None
    ) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_running_or_notify_cancel()  # From here the work cannot be cancelled, only no longer be waited for.
        if self._failure is not None:
            done.set_exception(self._failure)
        elif self._closed:
            done.set_exception(StorageError(f"the journal {self.path} is closed"))
        else:
            self._requests.put(_Request(bodies, act, done))
        return done

    def _serve(self) -> None:
        connection: sqlite3.Connection | None = None
        following: _Request | None = None
        while True:
            request = following or self._requests.get()
            following = None
            if request is None:
                break
            if self._failure is not None:
                request.done.set_exception(self._failure)
                continue
            try:
                if connection is None:
                    connection = _connect(self.path)
                if request.act is not None:
                    request.done.set_result(request.act(connection))
                else:
                    following = self._commit_group(connection, request)
                    if following is None:
                        continue
            except StorageError as error:  # Damage that was found by reading; the file itself can still be written.
                request.done.set_exception(error)
            except Exception as error:  # Whatever it was, no caller may wait for ever.
                self._die(connection, error, request)
        if connection is not None and self._failure is None:
            with contextlib.suppress(sqlite3.Error):  # Everything acknowledged is in the WAL already.
                connection.close()

    def _commit_group(self, connection: sqlite3.Connection, first: _Request) -> _Request | None:
        """Commit `first` with every commit queued right behind it, in one transaction. Returns the request that ended
        the group, if it was of another kind."""
        group, other = [first], None
        while len(group) < _GROUP_COMMITS_MAX and other is None:
            try:
                waiting = self._requests.get_nowait()
            except queue.Empty:
                break
            if waiting is None:
                self._requests.put(None)  # Close after this group; nothing can be queued behind it.
                break
            if waiting.bodies is None:
                other = waiting
            else:
                group.append(waiting)
        seq, ends, rows = self._last_seq, [], []
        for request in group:
            for body in request.bodies or ():
                seq += 1
                rows.append((seq, body, _crc(seq, body)))
            ends.append(seq)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO facts (seq, body, crc) VALUES (?, ?, ?)", rows)
            connection.execute("COMMIT")
        except Exception as error:
            self._die(connection, error, *group)
            return other
        self._last_seq = seq
        for request, end in zip(group, ends, strict=True):
            request.done.set_result(end)
        return other

    def _die(self, connection: sqlite3.Connection | None, error: Exception, *waiting: _Request) -> None:
        self._failure = StorageError(
            f"the journal {self.path} failed ({error}): free or replace the disk, or restore the file, then start again"
        )
        if connection is not None:
            _abandoned.append(connection)
        for request in waiting:
            request.done.set_exception(self._failure)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Check that the file is a whole journal of our format, or make it one. Raises `StorageError`."""
        try:
            _check_or_create(connection, self.path)
            (last_seq,) = connection.execute(
                "SELECT max(ifnull((SELECT max(seq) FROM facts), 0), ifnull((SELECT seq FROM snapshot), 0))"
            ).fetchone()
            connection.execute("BEGIN IMMEDIATE")  # Take the exclusive lock now, not at the first commit.
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StorageError(
                    f"the journal {self.path} is in use by another process: stop that one first"
                ) from None
            raise
        except sqlite3.DatabaseError as error:
            raise StorageError(f"{self.path} is damaged or no journal ({error}); restore it from a backup") from None
        self._last_seq = last_seq

    def _recover(self, connection: sqlite3.Connection) -> Recovered[F]:
        row = connection.execute("SELECT seq, body, crc FROM snapshot").fetchone()
        state, seq = None, 0
        if row is not None:
            seq, state, crc = row
            if _crc(seq, state) != crc:
                raise self._damage(f"the snapshot at record {seq}", "its checksum does not match")
        facts: list[F] = []
        for found, body, crc in connection.execute(
            "SELECT seq, body, crc FROM facts WHERE seq > ? ORDER BY seq", (seq,)
        ):
            if found != seq + 1:
                raise self._damage(f"record {seq + 1}", "it is missing")
            facts.append(self._decode(found, body, crc))
            seq = found
        self._last_seq = seq
        return Recovered(state, facts, seq)

    def _decode(self, seq: int, body: bytes, crc: int) -> F:
        if not isinstance(body, bytes) or _crc(seq, body) != crc:
            raise self._damage(f"record {seq}", "its checksum does not match")
        try:
            return self._decoder.decode(body)
        except msgspec.DecodeError as error:
            raise self._damage(f"record {seq}", f"this version cannot read it ({error})") from None

    def _damage(self, what: str, why: str) -> StorageError:
        return StorageError(f"the journal {self.path} is damaged at {what}: {why}; restore the file from a backup")


# Connections of journals that died: closing one would checkpoint, which is another fsync on a disk that just failed.
_abandoned: list[sqlite3.Connection] = []


def _crc(seq: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(seq.to_bytes(8, "big")))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    # Exclusive before WAL: the index of the log then lives in our memory, and no other connection can join.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    return connection


def _check_or_create(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (n_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    is_new = n_tables == 0 and application_id == 0
    if not is_new and application_id != _APPLICATION_ID:
        raise StorageError(f"{path} is not a journal of offerflow: name another file")
    if not is_new and version != _FORMAT:
        raise StorageError(f"the journal {path} has format {version}; this version reads {_FORMAT}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if is_new:
        connection.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_FORMAT}; COMMIT;"
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StorageError(f"the journal {path} is damaged ({verdict}); restore it from a backup")

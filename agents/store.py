"""The shards an agent holds: immutable files named by their SHA-256, written aside and renamed into place.

    {folder}/held/ab/ab12…         the bytes, read-only
    {folder}/held/ab/ab12….json    name, size and modification time when they were last verified
    {folder}/partial/ab12…         what a broken fetch left; the next one goes on from there

A file whose size and modification time are as recorded counts as verified; any other is hashed again. Blocking work
(hashing, fsync) runs in a thread. Methods without `async` are for such threads, or cheap.
"""

import asyncio
import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from agents.events import ShardFound, ShardRemoved
from agents.logs import get_logger
from agents.ports import Post
from federation.errors import OfferflowError
from federation.wire import HeldShard, Output
from policies.model import Record

_log = get_logger("agents.store")

BLOCK_BYTES = 1 << 20  # One read of the hasher: large enough that Python's own cost per call vanishes.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StoreFullError(OfferflowError):
    """No room on the disk, or none left of what the store may take."""


class ShardDamagedError(OfferflowError):
    """The bytes do not have the promised hash or length."""


class OutputRefusedError(OfferflowError):
    """What a task left under its output folder is not what it declared."""


class _Seen(Record, frozen=True, kw_only=True):
    """The sidecar: how the file looked when its hash was last known to be right."""

    name: str
    size_bytes: int
    mtime_ns: int


class Partial:
    """A shard on its way in. `offset` bytes are already here (and hashed). Not for two writers of one shard."""

    def __init__(self, store: "ShardStore", shard_id: str, size_bytes: int) -> None:
        self.shard_id = shard_id
        self.size_bytes = size_bytes
        self._store = store
        self._path = store.partial_folder / shard_id
        self._hash = hashlib.sha256()
        with full_disk_named():
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 — closed by `finish`, `discard` or `close`
        self.offset = self._file.tell()
        if self.offset > size_bytes:
            self.restart()
        elif self.offset:
            _hash_into(self._hash, self._path)

    def write(self, block: bytes) -> None:
        """Append. Raises `StoreFullError`; `ShardDamagedError` if it is more than was promised."""
        if self.offset + len(block) > self.size_bytes:
            raise ShardDamagedError(f"more than the promised {self.size_bytes} bytes")
        view = memoryview(block)
        with full_disk_named():
            while view:
                view = view[self._file.write(view) :]
        self._hash.update(block)
        self.offset += len(block)

    def restart(self) -> None:
        """Forget what is here: it turned out wrong."""
        self._file.truncate(0)
        self._file.seek(0)
        self._hash = hashlib.sha256()
        self.offset = 0

    def finish(self, name: str) -> HeldShard:
        """Check, make durable, rename into place. Raises `ShardDamagedError` (emptied then) or `StoreFullError`."""
        if self.offset != self.size_bytes or self._hash.hexdigest() != self.shard_id:
            found, length = self._hash.hexdigest(), self.offset
            self.restart()
            raise ShardDamagedError(
                f"{length} of {self.size_bytes} bytes with SHA-256 {found[:12]}…, not {self.shard_id[:12]}…"
            )
        with full_disk_named():
            os.fsync(self._file.fileno())
        self.close()
        return self._store.place(self._path, self.shard_id, name)

    def discard(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what is here for a later fetch."""
        self._file.close()
        self._store.close_partial(self)


class ShardStore:
    """One folder, one agent. `bytes_max` bounds what it holds; `reserved_bytes` of the disk are never used."""

    def __init__(self, folder: Path, post: Post, *, bytes_max: int | None = None, reserved_bytes: int = 0) -> None:
        self.folder = folder
        self.partial_folder = folder / "partial"
        self._held_folder = folder / "held"
        self._post = post
        self._bytes_max = bytes_max
        self._reserved_bytes = reserved_bytes
        self._held: dict[str, HeldShard] = {}
        self._id_by_name: dict[str, str] = {}
        self._partials: dict[str, Partial] = {}
        self._serial = itertools.count()
        self._placing = threading.Lock()  # Tasks that end together are harvested in threads of their own.

    # --- what is here ------------------------------------------------------------------------------------------------

    async def open(self) -> tuple[HeldShard, ...]:
        """Find what is on disk; damaged files are deleted and left out. Sorted by id."""
        await asyncio.to_thread(self._scan)
        return self.held()

    def held(self) -> tuple[HeldShard, ...]:
        return tuple(self._held[key] for key in sorted(self._held))

    def held_bytes(self) -> int:
        return sum(shard.size_bytes for shard in self._held.values())

    def get(self, shard_id: str) -> HeldShard | None:
        return self._held.get(shard_id)

    def path(self, shard_id: str) -> Path | None:
        return self._path_of(shard_id) if shard_id in self._held else None

    async def verified(self, shard_id: str) -> Path | None:
        """Its path once its bytes are known to be right: at once if the file is as recorded, else after hashing it.
        A damaged one is deleted, `ShardRemoved("damaged")` posted, and None returned."""
        shard = self._held.get(shard_id)
        if shard is None:
            return None
        path = self._path_of(shard_id)
        if self._as_recorded(path, shard) or await asyncio.to_thread(self._rehash, path, shard):
            return path
        self._drop(shard_id)
        _log.warning("shard_damaged", shard_id=shard_id, name=shard.name)
        await self._post(ShardRemoved(shard_id=shard_id, reason="damaged"))
        return None

    async def remove(self, shard_id: str) -> None:
        """Delete it and post `ShardRemoved`, also when it was not there."""
        await asyncio.to_thread(self._drop, shard_id)
        await self._post(ShardRemoved(shard_id=shard_id))

    # --- what comes in -----------------------------------------------------------------------------------------------

    def open_partial(self, shard_id: str, size_bytes: int) -> Partial:
        """Begin or go on with a fetch. Raises `StoreFullError`. Hashes what is already here: call it in a thread."""
        assert shard_id not in self._partials, "one writer a shard"
        self.partial_folder.mkdir(parents=True, exist_ok=True)
        here = self.partial_folder / shard_id
        have_bytes = here.stat().st_size if here.exists() else 0
        self._require_room(size_bytes - min(have_bytes, size_bytes))
        partial = Partial(self, shard_id, size_bytes)
        self._partials[shard_id] = partial
        return partial

    def close_partial(self, partial: Partial) -> None:
        self._partials.pop(partial.shard_id, None)

    def add_file(self, path: Path, name: str, *, sealed: bool = True) -> HeldShard:
        """Take a file in: a hard link where the file system allows, else a copy. `sealed` makes it read-only.

        Raises `StoreFullError`, `ShardDamagedError` when it changed meanwhile, `OSError` when it cannot be read."""
        before = path.stat()
        shard_id = hash_file(path)
        if shard_id in self._held:
            return self._remember(shard_id, before.st_size, name)
        self.partial_folder.mkdir(parents=True, exist_ok=True)
        aside = self.partial_folder / f"{shard_id}.{next(self._serial)}.add"  # Two may bring the same bytes at once.
        try:
            os.link(path, aside)
        except OSError:  # Another file system, or one without hard links.
            self._require_room(before.st_size)
            try:
                with full_disk_named():
                    shutil.copy2(path, aside)
            except StoreFullError:
                aside.unlink(missing_ok=True)
                raise
        after = aside.stat()
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            aside.unlink()
            raise ShardDamagedError(f"{path.name} changed while it was read")
        with open(aside, "rb") as file, full_disk_named():
            os.fsync(file.fileno())
        return self.place(aside, shard_id, name, sealed=sealed)

    def place(self, aside: Path, shard_id: str, name: str, *, sealed: bool = True) -> HeldShard:
        """Rename a verified, synced file into place."""
        if sealed:
            aside.chmod(0o444)
        found = aside.stat()
        path = self._path_of(shard_id)
        with self._placing, full_disk_named():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write_seen(path, _Seen(name=name, size_bytes=found.st_size, mtime_ns=found.st_mtime_ns))
            os.replace(aside, path)
            sync_folder(path.parent)
        return self._remember(shard_id, found.st_size, name)

    def harvest(self, folder: Path, task_id: str, outputs: tuple[Output, ...]) -> tuple[HeldShard, ...]:
        """Each declared file under `folder` becomes a shard named `{task_id}/{output.name}`. The files stay, too.

        Raises `OutputRefusedError` (missing, too large, not a plain file inside `folder`) or `StoreFullError`."""
        root = folder.resolve()
        found: list[tuple[Path, str]] = []
        for output in outputs:
            path = folder / output.path
            if not path.resolve().is_relative_to(root):
                raise OutputRefusedError(f"output {output.name}: {output.path} leads out of the output folder")
            if not path.is_file():
                raise OutputRefusedError(f"output {output.name}: the task wrote no file {output.path}")
            size_bytes = path.stat().st_size
            if size_bytes > output.bytes_max:
                raise OutputRefusedError(
                    f"output {output.name}: {size_bytes} bytes, declared at most {output.bytes_max}"
                )
            found.append((path.resolve(), f"{task_id}/{output.name}"))
        return tuple(self.add_file(path, name) for path, name in found)

    async def watch(self, folder: Path, every_us: int) -> None:
        """Until cancelled: each file under `folder` becomes a held shard named by its relative path.

        A file is taken once it looks the same in two looks; hidden ones and `*.tmp`, `*.part` never are."""
        last: dict[Path, tuple[int, int]] = {}
        taken: dict[Path, tuple[int, int]] = {}
        while True:
            now = await asyncio.to_thread(_listing, folder)
            for path, looks in now.items():
                if looks == last.get(path) and looks != taken.get(path):
                    taken[path] = looks
                    await self._take_in(path, path.relative_to(folder).as_posix())
            last = now
            await asyncio.sleep(every_us / 1e6)

    # --- helpers -----------------------------------------------------------------------------------------------------

    async def _take_in(self, path: Path, name: str) -> None:
        known = self._id_by_name.get(name)
        try:
            if known is not None and await asyncio.to_thread(_same_file, path, self._path_of(known)):
                return  # The same file as at the last start.
            shard = await asyncio.to_thread(self.add_file, path, name, sealed=False)
        except (OfferflowError, OSError) as error:
            _log.warning("shard_not_taken", path=str(path), detail=str(error))
            return
        await self._post(ShardFound(shard=shard))

    def _path_of(self, shard_id: str) -> Path:
        return self._held_folder / shard_id[:2] / shard_id

    def _remember(self, shard_id: str, size_bytes: int, name: str) -> HeldShard:
        shard = HeldShard(shard_id=shard_id, size_bytes=size_bytes, name=name)
        self._held[shard_id] = shard
        if name:
            self._id_by_name[name] = shard_id
        return shard

    def _drop(self, shard_id: str) -> None:
        shard = self._held.pop(shard_id, None)
        if shard is not None and self._id_by_name.get(shard.name) == shard_id:
            del self._id_by_name[shard.name]
        path = self._path_of(shard_id)
        path.unlink(missing_ok=True)
        _seen_path(path).unlink(missing_ok=True)

    def _require_room(self, more_bytes: int) -> None:
        promised = sum(partial.size_bytes - partial.offset for partial in list(self._partials.values()))
        if self._bytes_max is not None and self.held_bytes() + promised + more_bytes > self._bytes_max:
            raise StoreFullError(f"{more_bytes} bytes more would exceed the store's {self._bytes_max} bytes")
        free = shutil.disk_usage(self.folder).free
        if free - self._reserved_bytes - promised < more_bytes:
            raise StoreFullError(
                f"{more_bytes} bytes do not fit: {free} are free and {self._reserved_bytes} of them reserved"
            )

    def _scan(self) -> None:
        self.partial_folder.mkdir(parents=True, exist_ok=True)
        self._held_folder.mkdir(parents=True, exist_ok=True)
        for path in self.partial_folder.glob("*.add"):
            path.unlink()
        for path in sorted(self._held_folder.glob("??/*")):
            if path.suffix == ".json":
                if not path.with_suffix("").exists():
                    path.unlink(missing_ok=True)
            elif path.suffix:
                path.unlink(missing_ok=True)
            else:
                self._find(path)

    def _find(self, path: Path) -> None:
        try:
            seen = msgspec.json.decode(_seen_path(path).read_bytes(), type=_Seen)
        except (OSError, msgspec.DecodeError):
            seen = _Seen(name="", size_bytes=-1, mtime_ns=-1)
        found = path.stat()
        shard = HeldShard(shard_id=path.name, size_bytes=found.st_size, name=seen.name)
        intact = (found.st_size, found.st_mtime_ns) == (seen.size_bytes, seen.mtime_ns)
        if intact or self._rehash(path, shard):
            self._remember(path.name, found.st_size, seen.name)
        else:
            _log.warning("shard_damaged", shard_id=path.name, name=seen.name)
            self._drop(path.name)

    def _as_recorded(self, path: Path, shard: HeldShard) -> bool:
        try:
            seen = msgspec.json.decode(_seen_path(path).read_bytes(), type=_Seen)
            found = path.stat()
        except (OSError, msgspec.DecodeError):
            return False
        return (found.st_size, found.st_mtime_ns) == (seen.size_bytes, seen.mtime_ns)

    def _rehash(self, path: Path, shard: HeldShard) -> bool:
        try:
            found = path.stat()
            if hash_file(path) != shard.shard_id:
                return False
            self._write_seen(path, _Seen(name=shard.name, size_bytes=found.st_size, mtime_ns=found.st_mtime_ns))
        except OSError:
            return False
        return True

    def _write_seen(self, path: Path, seen: _Seen) -> None:
        aside = path.with_suffix(".tmp")
        aside.write_bytes(msgspec.json.encode(seen))
        os.replace(aside, _seen_path(path))


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    _hash_into(digest, path)
    return digest.hexdigest()


@contextlib.contextmanager
def full_disk_named() -> Iterator[None]:
    """Turn "no space", "quota" and "file too large" into `StoreFullError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFullError(f"the disk is full: {error.strerror}") from error
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hash_into(digest: "hashlib._Hash", path: Path) -> None:
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)


def _seen_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _listing(folder: Path) -> dict[Path, tuple[int, int]]:
    found: dict[Path, tuple[int, int]] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.suffix in (".tmp", ".part"):
            continue
        with contextlib.suppress(OSError):  # Gone since the listing.
            if path.is_file() and not path.is_symlink():
                stat = path.stat()
                found[path] = (stat.st_size, stat.st_mtime_ns)
    return found


def _same_file(path: Path, held: Path) -> bool:
    here, there = path.stat(), held.stat()
    same_inode = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    return same_inode or (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)

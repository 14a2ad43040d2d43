"""The master's own shards: artifacts and uploads, one file each, named by the SHA-256 of its bytes.

A file that has its final name is complete, verified and synced. Everything else lives in `incoming/`, which is emptied
at the start.
"""

import asyncio
import contextlib
import hashlib
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from federation.errors import PeerError

_SHA256_HEX = frozenset("0123456789abcdef")
BYTES_MAX: Final = 16 * 2**30


class BlobStore:
    def __init__(self, folder: Path) -> None:
        """Create or open the store; blocks. Raises OSError if the folder cannot be had."""
        self.folder = folder
        self._incoming = folder / "incoming"
        self._serial = itertools.count(1)
        self._incoming.mkdir(parents=True, exist_ok=True)
        for leftover in self._incoming.iterdir():
            leftover.unlink()

    def path(self, shard_id: str) -> Path | None:
        """The complete, verified file, or None."""
        path = self._final(shard_id)
        return path if path is not None and path.is_file() else None

    def has(self, shard_id: str) -> bool:
        return self.path(shard_id) is not None

    async def put(self, chunks: AsyncIterator[bytes], shard_id: str, bytes_max: int = BYTES_MAX) -> int:
        """Take the bytes; returns their number once they are on disk. What is not complete leaves nothing behind.

        Raises `PeerError` ("hash": they hash otherwise; "oversized"; "malformed": no SHA-256) and OSError (disk full).
        """
        final = self._final(shard_id)
        if final is None:
            raise PeerError("malformed", f"{shard_id[:80]!r} is not a SHA-256 in lower-case hex")
        is_new = not final.is_file()  # A known shard is only checked: the upload may be cut short by nobody.
        digest = hashlib.sha256()
        n_bytes = 0
        incoming = self._incoming / f"{shard_id}.{next(self._serial)}"
        try:
            with incoming.open("xb", buffering=0) as file:
                async for chunk in chunks:
                    n_bytes += len(chunk)
                    if n_bytes > bytes_max:
                        raise PeerError("oversized", f"more than the {bytes_max} bytes that a shard may have")
                    await asyncio.to_thread(_take, file.fileno() if is_new else None, digest, chunk)
                if digest.hexdigest() != shard_id:
                    raise PeerError("hash", f"the {n_bytes} bytes received do not hash to {shard_id}: send them again")
                if is_new:
                    await asyncio.to_thread(os.fsync, file.fileno())
            if is_new:
                await asyncio.to_thread(_publish, incoming, final)
        finally:
            with contextlib.suppress(FileNotFoundError):
                incoming.unlink()
        return n_bytes

    async def read(self, shard_id: str, offset: int, n_bytes: int) -> bytes:
        """Up to `n_bytes` from `offset`. Raises `PeerError("not_found")`."""
        path = self.path(shard_id)
        if path is None:
            raise PeerError("not_found", f"the store has no shard {shard_id[:80]}")
        return await asyncio.to_thread(_read, path, offset, n_bytes)

    def _final(self, shard_id: str) -> Path | None:
        if len(shard_id) != 64 or not _SHA256_HEX.issuperset(shard_id):
            return None
        return self.folder / shard_id[:2] / shard_id  # 256 folders: a million files stay listable.


def _take(fd: int | None, digest: "hashlib._Hash", chunk: bytes) -> None:
    digest.update(chunk)
    view = memoryview(chunk)
    while fd is not None and view:
        view = view[os.write(fd, view) :]


def _publish(incoming: Path, final: Path) -> None:
    final.parent.mkdir(exist_ok=True)
    incoming.replace(final)
    for folder in (final.parent, final.parent.parent):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)  # The name must survive a power cut as the bytes do.
        finally:
            os.close(fd)


def _read(path: Path, offset: int, n_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(n_bytes)

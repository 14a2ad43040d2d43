"""Task code as one archive named by its hash: the same files give the same bytes, whoever packs them and when."""

import gzip
import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from federation.errors import ConfigError

ARTIFACT_BYTES_MAX = 2 * 2**30  # Data belongs in shards; code beyond this is a mistake.
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")
SKIPPED = frozenset({"__pycache__", ".git", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".DS_Store"})


def pack(source: Path, folder: Path) -> tuple[Path, str]:
    """The archive of `source` and its SHA-256 (hex).

    An archive is taken as it is; another file becomes the only member of a new one; a folder's content is packed with
    sorted names, no owners and no times, `SKIPPED` left out. New archives are written into `folder` under their hash.
    Raises `ConfigError` for links, special files, and what is too large or unreadable.
    """
    try:
        if source.is_file() and source.name.endswith(ARCHIVE_SUFFIXES):
            _check_size(source.stat().st_size, source)
            return source, file_sha256(source)
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / "draft.tar.gz"
        _write(source, draft)
        digest = file_sha256(draft)
        return draft.rename(folder / f"{digest}.tar.gz"), digest
    except OSError as error:
        raise ConfigError(f"cannot pack {source}: {error.strerror or error}") from None


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write(source: Path, target: Path) -> None:
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        n_bytes = 0
        for path, name in _members(source):
            if path.is_symlink():
                raise ConfigError(f"{path} is a link; an artifact holds files only, so copy what it points to")
            if not (path.is_dir() or path.is_file()):
                raise ConfigError(f"{path} is neither a file nor a folder; an artifact holds files only")
            status = path.stat()
            member = tarfile.TarInfo(name)
            executable = bool(status.st_mode & 0o100)
            if path.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(member)
                continue
            n_bytes += status.st_size
            _check_size(n_bytes, source)
            member.size, member.mode = status.st_size, 0o755 if executable else 0o644
            with path.open("rb") as stream:
                archive.addfile(member, stream)


def _members(source: Path) -> Iterator[tuple[Path, str]]:
    """What goes in, under which name; sorted by name within each folder."""
    if not source.is_dir():
        yield source, source.name
        return
    for folder, subfolders, files in os.walk(source):
        subfolders[:] = sorted(name for name in subfolders if name not in SKIPPED)
        for name in sorted([*subfolders, *(file for file in files if file not in SKIPPED)]):
            path = Path(folder, name)
            yield path, path.relative_to(source).as_posix()


def _check_size(n_bytes: int, source: Path) -> None:
    if n_bytes > ARTIFACT_BYTES_MAX:
        raise ConfigError(
            f"{source} exceeds {ARTIFACT_BYTES_MAX // 2**30} GiB; put data in shards (`offerflow shard add`)"
        )

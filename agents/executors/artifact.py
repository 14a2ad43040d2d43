"""Unpacking task code: a tar archive, from a stranger as far as this module knows.

Only files, folders and links that stay inside the folder come out, with plain permissions; sizes and counts are bounded
while unpacking, so a small archive cannot fill the disk. (`tarfile`'s own data filter is not in Python 3.11.2, which
Debian 12 ships, and bounds no sizes.)
"""

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from agents.store import full_disk_named
from federation.errors import PeerError

MEMBERS_MAX = 10_000  # Task code, not a data set; each costs a file.


def unpack(archive: Path, folder: Path, bytes_max: int) -> None:
    """Unpack `archive` (tar, however compressed) into the existing, empty `folder`.

    Raises `PeerError("artifact")` for what is no archive, leads outside or is too large, and `StoreFullError`."""
    root = folder.resolve()
    links: list[tuple[PurePosixPath, str]] = []
    left_bytes = bytes_max
    try:
        with tarfile.open(archive, "r:*") as tar, full_disk_named():
            for count, member in enumerate(tar):
                if count >= MEMBERS_MAX:
                    raise PeerError("artifact", f"the archive has more than {MEMBERS_MAX} members")
                name = _inside(member.name)
                if member.isdir():
                    (root / name).mkdir(parents=True, exist_ok=True)
                elif member.isreg():
                    left_bytes -= member.size
                    if left_bytes < 0:
                        raise PeerError("artifact", f"the archive unpacks to more than {bytes_max} bytes")
                    _write_file(tar, member, root / name)
                elif member.issym():
                    links.append((name, member.linkname))
                elif member.islnk():
                    links.append((name, os.path.relpath(_inside(member.linkname), name.parent)))
                else:
                    raise PeerError("artifact", f"{member.name[:200]!r} is no file, folder or link")
            _make_links(root, links)
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        raise PeerError("artifact", f"the archive cannot be read: {error}") from None
    except OSError as error:
        raise PeerError("artifact", f"the archive cannot be unpacked: {error}") from None


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise PeerError("artifact", f"{name[:200]!r} leads out of the task's folder")
    return path


def _write_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # a regular file
    path.unlink(missing_ok=True)  # A later member replaces an earlier one.
    with source, open(path, "xb") as target:
        shutil.copyfileobj(source, target, 256 * 1024)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)


def _make_links(root: Path, links: list[tuple[PurePosixPath, str]]) -> None:
    """Links come last, so that nothing is written through one, and are then followed: one that leads out is fatal."""
    for name, target in links:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    for name, target in links:
        try:
            end = (root / name).resolve()
        except (OSError, RuntimeError):  # a loop
            end = Path("/")
        if not end.is_relative_to(root) or not (root / name).parent.resolve().is_relative_to(root):
            (root / name).unlink(missing_ok=True)
            raise PeerError("artifact", f"link {str(name)[:200]!r} → {target[:200]!r} leads out of the task's folder")

"""An artifact is unpacked inside its folder, bounded, as it was packed."""

import subprocess
import tarfile
from pathlib import Path

import pytest

from agents.executors.artifact import unpack
from federation.errors import PeerError
from tests.executor_world import member, tar_of


def test_an_archive_cannot_leave_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    bad = {
        "parent": [(member("../evil"), b"x")],
        "absolute": [(member("/tmp/evil"), b"x")],
        "link out": [(member("out", tarfile.SYMTYPE, "../.."), b"")],
        "absolute link": [(member("out", tarfile.SYMTYPE, "/etc"), b"")],
        "write through a link": [(member("a", tarfile.SYMTYPE, ".."), b""), (member("a/evil"), b"x")],
        "link through a link": [
            (member("a/b/c", tarfile.SYMTYPE, "../.."), b""),
            (member("e", tarfile.SYMTYPE, "a/b/c/../x"), b""),
        ],
        "hard link out": [(member("evil", tarfile.LNKTYPE, "../../etc/passwd"), b"")],
        "device": [(member("null", tarfile.CHRTYPE), b"")],
        "pipe": [(member("pipe", tarfile.FIFOTYPE), b"")],
        "loop": [(member("l", tarfile.SYMTYPE, "l"), b"")],
    }
    for name, members in bad.items():
        folder.mkdir()
        archive = tmp_path / "a.tgz"
        archive.write_bytes(tar_of(*members))
        with pytest.raises(PeerError) as raised:
            unpack(archive, folder, 1000)
        assert raised.value.code == "artifact", name
        assert not (tmp_path / "evil").exists() and not Path("/tmp/evil").exists()
        subprocess.run(["rm", "-rf", folder], check=True)


def test_an_archive_keeps_modes_and_inner_links(tmp_path: Path) -> None:
    archive = tmp_path / "a.tgz"
    archive.write_bytes(
        tar_of(
            (member("bin/run", mode=0o4755), b"#!/bin/sh\n"),
            (member("data"), b"12"),
            (member("bin/data", tarfile.SYMTYPE, "../data"), b""),
            (member("same", tarfile.LNKTYPE, "data"), b""),
        )
    )
    folder = tmp_path / "work"
    folder.mkdir()
    unpack(archive, folder, 1000)
    assert (folder / "bin/data").read_bytes() == (folder / "same").read_bytes() == b"12"
    assert (folder / "bin/run").stat().st_mode & 0o7777 == 0o755, "no set-uid bit"


def test_an_archive_is_bounded(tmp_path: Path) -> None:
    archive, folder = tmp_path / "a.tgz", tmp_path / "work"
    archive.write_bytes(tar_of((member("zeros"), bytes(5_000_000))))
    folder.mkdir()
    assert archive.stat().st_size < 10_000
    with pytest.raises(PeerError, match="more than 1000000 bytes"):
        unpack(archive, folder, 1_000_000)
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(PeerError, match="archive cannot be"):
        unpack(archive, folder, 10_000_000)

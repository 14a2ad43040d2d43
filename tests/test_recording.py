"""Recordings: read back as written, cut off without harm, refused when foreign, ended when too large."""

import resource
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest

from federation.config import MasterConfig
from federation.errors import ConfigError
from federation.events import BrokerFound, BrokerLost, Started
from federation.recording import FORMAT, Header, Recorder, read

HEADER = Header(format=FORMAT, version="1", policy="fifo", config=MasterConfig(agents_max=9), state=b"\x80")


def recorded(path: Path, n_events: int, bytes_max: int = 2**30) -> Recorder:
    recorder = Recorder(path, HEADER, bytes_max)
    for index in range(n_events):
        recorder.add(BrokerLost(detail=f"{index:06d}"), index)
    recorder.close()
    return recorder


def test_what_was_recorded_is_read_back(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "r", HEADER, 2**30)
    recorder.add(Started(term=3), 5)
    recorder.add(BrokerFound(), 6)
    recorder.close()
    header, events = read(tmp_path / "r")
    assert header == HEADER
    assert [(event.at_us, event.event) for event in events] == [(5, Started(term=3)), (6, BrokerFound())]
    assert (tmp_path / "r").stat().st_mode & 0o077 == 0


def test_a_long_one_is_read_in_pieces(tmp_path: Path) -> None:
    recorded(tmp_path / "r", 60_000)
    assert (tmp_path / "r").stat().st_size > 2 * 2**20
    _, events = read(tmp_path / "r")
    assert [event.at_us for event in events] == list(range(60_000))


def test_it_is_plain_messagepack(tmp_path: Path) -> None:
    recorded(tmp_path / "r", 2)
    with (tmp_path / "r").open("rb") as file:
        values = list(msgpack.Unpacker(file))
    assert values[0]["format"] == FORMAT
    assert values[2] == {"at_us": 1, "event": {"type": "BrokerLost", "detail": "000001"}}


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_one_that_was_cut_off_ends_before_the_cut(tmp_path: Path, cut: int) -> None:
    recorded(tmp_path / "r", 100)
    whole = (tmp_path / "r").read_bytes()
    (tmp_path / "r").write_bytes(whole[:-cut])
    _, events = read(tmp_path / "r")
    assert [event.at_us for event in events] == list(range(99))


@pytest.mark.parametrize("content", [b"", b"\x01", b"\xc1\xc1\xc1", b"plain text", msgpack.packb({"format": "other"})])
def test_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(ConfigError):
        read(tmp_path / "r")


def test_a_file_that_is_missing_or_there_already_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none")
    (tmp_path / "r").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="cannot be made"):
        Recorder(tmp_path / "r", HEADER, 2**30)
    assert (tmp_path / "r").read_bytes() == b"mine"


def test_a_recording_ends_at_its_limit_and_says_so(tmp_path: Path) -> None:
    recorder = recorded(tmp_path / "r", 1000, bytes_max=10_000)
    assert "size limit" in recorder.failure
    assert (tmp_path / "r").stat().st_size <= 10_000
    _, events = read(tmp_path / "r")
    assert len(list(events)) > 50


def test_a_full_disk_ends_a_recording_and_nothing_else(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "r", HEADER, 2**30)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        recorder.add(BrokerLost(detail="x" * 100_000), 1)
        recorder.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in recorder.failure
    recorder.add(BrokerFound(), 2)
    recorder.close()

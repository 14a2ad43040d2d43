"""`offerflow wire dump` reads whatever is MessagePack, says where it is not, and prints plain JSON."""

import io
import json
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest

from federation.cli.main import run
from federation.config import MasterConfig
from federation.events import BrokerLost
from federation.recording import FORMAT, Header, Recorder
from federation.wire import Ping, encode


def dumped(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    code = run(["wire", "dump", *arguments])
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err


def test_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = Header(format=FORMAT, version="1", policy="fifo", config=MasterConfig(), state=bytes(100))
    recorder = Recorder(tmp_path / "r", header, 2**20)
    recorder.add(BrokerLost(detail="gone"), 7)
    recorder.close()
    code, lines, _ = dumped(capsys, str(tmp_path / "r"), "-o", "json")
    first, second = (json.loads(line) for line in lines)
    assert code == 0 and first["format"] == FORMAT
    assert first["state"] == {"$bytes": "00" * 32 + "… 100 bytes"}
    assert second == {"at_us": 7, "event": {"type": "BrokerLost", "detail": "gone"}}
    _, lines, _ = dumped(capsys, str(tmp_path / "r"), "--limit", "1", "--full", "-o", "json")
    assert len(lines) == 1 and json.loads(lines[0])["state"] == {"$bytes": "00" * 100}


def test_a_message_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    body = encode(Ping(agent_id="gw-1", boot=1, conn=2, seq=3, nonce=4))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(body * 3)))
    code, lines, _ = dumped(capsys, "-")
    assert code == 0 and [line.split()[:2] for line in lines] == [
        [str(i * len(body)), str(len(body))] for i in range(3)
    ]
    assert '"t": "ping/1"' in lines[0] and '"agent_id": "gw-1"' in lines[0]


def test_what_json_lacks_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [{1: 2, b"k": "v"}, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2), b"\xd9\x02\xff\xfe", 2**64 - 1]
    body = b"".join(value if value == values[3] else msgpack.packb(value) for value in values)
    (tmp_path / "m").write_bytes(body)
    code, lines, _ = dumped(capsys, str(tmp_path / "m"), "-o", "json")
    assert code == 0
    assert [json.loads(line) for line in lines] == [
        {"1": 2, "b'k'": "v"},
        {"$other": "ExtType(code=5, data=b'x')"},
        {"$other": "Timestamp(seconds=1, nanoseconds=2)"},
        "??",
        2**64 - 1,
    ]


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (b"\xc1", 2, "is not MessagePack from byte 0 on"),
        (msgpack.packb([1, 2]) + b"\xc1", 2, "is not MessagePack from byte 3 on"),
        (b"\x91" * 5000, 2, "is not MessagePack from byte 0 on"),
        (
            msgpack.packb("whole") + msgpack.packb("cut off")[:-2],
            1,
            "ends in the middle of the value that begins at byte 6",
        ),
        (b"\xdd\xff\xff\xff\xff", 2, "is not MessagePack from byte 0 on"),
        (b"", 0, ""),
    ],
)
def test_where_it_is_not_messagepack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: bytes, code: int, said: str
) -> None:
    (tmp_path / "m").write_bytes(body)
    found, _, errors = dumped(capsys, str(tmp_path / "m"))
    assert (found, said in errors, errors.count("\n")) == (code, True, 1 if said else 0)


def test_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = dumped(capsys, "/none/such")
    assert code == 2 and errors == "error: /none/such cannot be read: No such file or directory\n"

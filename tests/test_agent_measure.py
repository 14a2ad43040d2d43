"""Reading this very machine, within the limits a configuration sets."""

import asyncio
import socket
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from agents.config import AgentConfig
from agents.events import Event, Measured
from agents.executors.base import TaskUse
from agents.measure import CPU_STEP_MILLI, Gauge, calibrate, cpu_model, slug
from federation.machine import busy_cpu_s, cpu_milli_total

BASE = AgentConfig(agent_id="edge-1", site="plant-a")


def gauge(folder: Path, use: TaskUse = TaskUse(), **fields: object) -> tuple[Gauge, "asyncio.Queue[Event]"]:
    events: asyncio.Queue[Event] = asyncio.Queue()
    return Gauge(msgspec.structs.replace(BASE, **fields), folder, events.put, lambda: use), events


async def test_what_is_not_configured_is_measured(tmp_path: Path) -> None:
    made, events = gauge(tmp_path)
    total = made.total()
    assert total.cpu_milli == cpu_milli_total() > 0
    assert 0 < total.memory_bytes <= psutil.virtual_memory().total - BASE.memory_reserved_bytes
    assert total.disk_bytes > 0
    assert made.total() is total
    await made.measure()
    event = events.get_nowait()
    assert isinstance(event, Measured)
    assert 0 <= event.usable.memory_bytes <= total.memory_bytes
    assert 0 <= event.usable.cpu_milli <= total.cpu_milli
    assert event.usable.gpus == total.gpus


def test_the_operators_limits_stand(tmp_path: Path) -> None:
    made, _ = gauge(tmp_path, cpu_milli=8000, memory_bytes=50_000_000, disk_bytes=70_000_000)
    assert (made.total().cpu_milli, made.total().memory_bytes, made.total().disk_bytes) == (
        8000,
        50_000_000,
        70_000_000,
    )
    assert made.usable() == made.total(), "this machine has that much to spare"
    none, _ = gauge(tmp_path, cpu_milli=0, memory_bytes=0, disk_bytes=0)
    assert none.usable().cpu_milli == none.usable().memory_bytes == none.usable().disk_bytes == 0


def test_reserves_larger_than_the_machine_leave_nothing(tmp_path: Path) -> None:
    made, _ = gauge(tmp_path, memory_reserved_bytes=2**53, disk_reserved_bytes=2**53)
    assert made.total().memory_bytes == made.total().disk_bytes == 0
    assert made.usable().memory_bytes == 0


def test_what_own_tasks_use_counts_as_free(tmp_path: Path) -> None:
    plain, _ = gauge(tmp_path)
    others = plain.usable().memory_bytes
    busy, _ = gauge(tmp_path, TaskUse(memory_bytes=10 * 2**30))
    assert busy.usable().memory_bytes >= min(others + 9 * 2**30, busy.total().memory_bytes)


def test_a_task_that_ends_is_no_load_of_others(tmp_path: Path) -> None:
    use = [TaskUse(cpu_s=1000.0)]
    made = Gauge(BASE, tmp_path, asyncio.Queue().put, lambda: use[0])
    for cpu_s in (1000.0, 0.0, 5000.0):
        use[0] = TaskUse(cpu_s=cpu_s)
        assert 0 <= made.usable().cpu_milli <= made.total().cpu_milli


def test_busy_time_counts_what_this_process_burns() -> None:
    begun_s, busy_s = time.process_time(), busy_cpu_s()
    while time.process_time() - begun_s < 0.2:
        pass
    assert busy_cpu_s() - busy_s >= 0.15


def test_small_changes_are_not_told(tmp_path: Path) -> None:
    made, _ = gauge(tmp_path)
    first = made.usable()
    for _ in range(5):
        found = made.usable()
        assert found.cpu_milli in (first.cpu_milli, found.cpu_milli // CPU_STEP_MILLI * CPU_STEP_MILLI)
    assert made.usable().disk_bytes == first.disk_bytes


def test_the_hardware_class(tmp_path: Path) -> None:
    made, _ = gauge(tmp_path)
    assert made.hardware() == gauge(tmp_path)[0].hardware() != ""
    assert gauge(tmp_path, hardware="rpi5")[0].hardware() == "rpi5"
    assert gauge(tmp_path, hardware="rpi5", cpu_share_milli=250)[0].hardware() == "rpi5@250m"
    assert len(cpu_model()) > 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "intel-xeon-e5-2680-v4"),
        ("AMD EPYC 9654 96-Core Processor", "amd-epyc-9654-96-core-processor"),
        ("Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5-model-b-rev-1-0"),
        ("NVIDIA H200", "nvidia-h200"),
    ],
)
def test_slugs(text: str, expected: str) -> None:
    assert slug(text) == expected


async def test_speed_is_calibrated_once_and_kept(tmp_path: Path) -> None:
    made, _ = gauge(tmp_path)
    speed = await made.speed_milli()
    assert 50 < speed < 20_000
    kept = tmp_path / "speed.json"
    assert await gauge(tmp_path)[0].speed_milli() == speed
    assert await gauge(tmp_path, cpu_share_milli=250)[0].speed_milli() != speed
    assert await gauge(tmp_path, speed_milli=800, cpu_share_milli=250)[0].speed_milli() == 200
    kept.write_bytes(b"{broken")
    assert 50 < await made.speed_milli() < 20_000


def test_calibration_repeats_within_a_third() -> None:
    first, second = calibrate(), calibrate()
    assert 2 / 3 < first / second < 3 / 2


def test_the_round_trip_of_a_socket(tmp_path: Path) -> None:
    made, _ = gauge(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            sample = made.tcp_rtt(client, "edge-1")
    assert sample is not None and sample.method == "tcp_info" and sample.rtt_us is not None
    assert (sample.from_agent, sample.to_agent) == ("edge-1", "")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        assert made.tcp_rtt(other, "edge-1") is None

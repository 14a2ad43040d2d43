"""NVML readings. The library's shape is stood in for: it is NVIDIA's, and few test machines have a GPU."""
# ruff: noqa: N802 — pynvml's names

from types import SimpleNamespace
from typing import Any

import pytest

from agents.gpus import load_nvml, read_gpus
from policies.model import Gpu


class NVMLError(Exception):
    pass


class Nvml:
    """pynvml's functions over a list of devices; a reading that is missing raises as the library does."""

    NVMLError = NVMLError

    def __init__(self, *devices: dict[str, Any] | None) -> None:
        self._devices = devices

    def nvmlDeviceGetCount(self) -> int:
        return len(self._devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        device = self._devices[index]
        if device is None:
            raise NVMLError("GPU is lost")
        return device

    def nvmlDeviceGetMaxMigDeviceCount(self, device: dict[str, Any]) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: dict[str, Any], index: int) -> dict[str, Any]:
        if index >= len(device["parts"]):
            raise NVMLError("Not Found")
        return device["parts"][index]

    def __getattr__(self, name: str) -> Any:
        key = {
            "nvmlDeviceGetUUID": "uuid",
            "nvmlDeviceGetName": "name",
            "nvmlDeviceGetMemoryInfo": "memory",
            "nvmlDeviceGetMigMode": "mig",
        }[name]

        def read(device: dict[str, Any]) -> Any:
            if key not in device:
                raise NVMLError("Not Supported")
            return device[key]

        return read


def memory(total: int) -> SimpleNamespace:
    return SimpleNamespace(total=total, used=0, free=total)


def test_whole_gpus_sorted_by_uuid() -> None:
    nvml = Nvml(
        {"uuid": "GPU-b", "name": "NVIDIA L4", "memory": memory(24 << 30), "mig": (0, 0)},
        {"uuid": b"GPU-a", "name": b"Tesla T4", "memory": memory(16 << 30)},
    )
    assert read_gpus(nvml) == (
        Gpu(uuid="GPU-a", model="Tesla T4", memory_bytes=16 << 30, memory_kind="dedicated", isolation="whole"),
        Gpu(uuid="GPU-b", model="NVIDIA L4", memory_bytes=24 << 30, memory_kind="dedicated", isolation="whole"),
    )


def test_a_sliced_gpu_is_its_slices() -> None:
    parts = [{"uuid": f"MIG-{n}", "name": "A100 MIG 1g.5gb", "memory": memory(5 << 30)} for n in range(2)]
    found = read_gpus(
        Nvml({"uuid": "GPU-a", "name": "A100", "memory": memory(40 << 30), "mig": (1, 1), "parts": parts})
    )
    assert [(gpu.uuid, gpu.isolation, gpu.memory_bytes) for gpu in found] == [
        ("MIG-0", "mig", 5 << 30),
        ("MIG-1", "mig", 5 << 30),
    ]


def test_a_gpu_being_sliced_offers_nothing() -> None:
    assert read_gpus(Nvml({"uuid": "GPU-a", "mig": (1, 1), "parts": []})) == ()


def test_memory_shared_with_the_cpu_has_no_size() -> None:
    assert read_gpus(Nvml({"uuid": "GPU-a", "name": "GB10"})) == (
        Gpu(uuid="GPU-a", model="GB10", memory_bytes=None, memory_kind="unified", isolation="whole"),
    )


def test_lost_and_nameless_gpus_are_left_out() -> None:
    found = read_gpus(Nvml(None, {"name": "no uuid"}, {"uuid": "GPU-c"}))
    assert [gpu.uuid for gpu in found] == ["GPU-c"] and found[0].model is None


def test_this_machine_is_read_without_an_error() -> None:
    nvml = load_nvml()
    if nvml is None:
        assert read_gpus(nvml) == ()
        return
    for gpu in read_gpus(nvml):
        assert gpu.uuid.startswith(("GPU-", "MIG-"))


def test_a_driver_that_refuses_everything() -> None:
    class Refusing(Nvml):
        def nvmlDeviceGetCount(self) -> int:
            raise NVMLError("Driver/library version mismatch")

    assert read_gpus(Refusing()) == ()


@pytest.mark.parametrize("modes", [None, (0, 1)])
def test_modes_that_are_not_in_force(modes: tuple[int, int] | None) -> None:
    (gpu,) = read_gpus(Nvml({"uuid": "GPU-a", "mig": modes}))
    assert gpu.isolation == "whole"

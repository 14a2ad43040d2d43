"""GPUs through NVML, every reading nullable: no driver, no permission, MIG slices, memory shared with the CPU."""

import ctypes
from typing import Any, Literal

from agents.logs import get_logger
from policies.model import Gpu

_log = get_logger("agents.gpus")

_LIBRARY = "libnvidia-ml.so.1"


def load_nvml() -> Any | None:
    """The `pynvml` module of nvidia-ml-py, initialised; None where library, driver or module is missing.

    The C library is looked for first: importing `pynvml` costs 5 MB, which a device without a GPU should not pay."""
    try:
        ctypes.CDLL(_LIBRARY)
        import pynvml
    except (OSError, ImportError):
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.warning("nvml_refused", detail=str(error))
        return None
    return pynvml


def read_gpus(nvml: Any | None, *, is_shared: bool = False) -> tuple[Gpu, ...]:
    """Every GPU, or every MIG slice of those that are sliced, sorted by UUID. `nvml` has pynvml's functions;
    `is_shared`: shares of whole ones are given out, of slices never."""
    if nvml is None:
        return ()
    found: list[Gpu] = []
    for index in range(_ask(nvml, nvml.nvmlDeviceGetCount) or 0):
        device = _ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
        if device is None:
            continue  # It has fallen off the bus.
        slices = _slices(nvml, device)
        if slices is None:
            kind: Literal["whole", "shared"] = "shared" if is_shared else "whole"
            found += _gpu(nvml, device, kind, _text(_ask(nvml, nvml.nvmlDeviceGetName, device)))
        else:
            for part in slices:
                found += _gpu(nvml, part, "mig", _text(_ask(nvml, nvml.nvmlDeviceGetName, part)))
    return tuple(sorted(found, key=lambda gpu: gpu.uuid))


def _slices(nvml: Any, device: Any) -> list[Any] | None:
    """The MIG devices of a GPU in MIG mode; None when it is whole."""
    modes = _ask(nvml, nvml.nvmlDeviceGetMigMode, device)  # (current, pending)
    if not modes or not modes[0]:
        return None
    count = _ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, device) or 0
    parts = [_ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, device, index) for index in range(count)]
    return [part for part in parts if part is not None]


def _gpu(nvml: Any, device: Any, isolation: Literal["whole", "mig", "shared"], model: str | None) -> list[Gpu]:
    uuid = _text(_ask(nvml, nvml.nvmlDeviceGetUUID, device))
    if uuid is None:
        return []  # Without a name it can be given to nobody.
    memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, device)
    total = getattr(memory, "total", None) or None
    # Grace, Jetson and Spark parts share the CPU's memory, and NVML then has no size to tell.
    kind: Literal["dedicated", "unified"] = "dedicated" if total else "unified"
    return [Gpu(uuid=uuid, model=model, memory_bytes=total, memory_kind=kind, isolation=isolation)]


def _ask(nvml: Any, function: Any, *arguments: Any) -> Any:
    """None where NVML does not support, permit or know it, and where the installed library lacks the function."""
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def _text(value: Any) -> str | None:
    """Older bindings answer bytes."""
    if value is None:
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

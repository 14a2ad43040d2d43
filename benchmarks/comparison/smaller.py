"""Shipped scenarios that take hours or many minutes at their own size, smaller: what is played again and again."""

SMALLER: dict[str, dict[str, str]] = {
    "day-of-devices": {"devices": "100", "day": "20m", "peak": "10m"},
    "gpu-fragmentation": {"every": "20", "pods": "381"},
}


def parameters_of(name: str) -> dict[str, str]:
    return SMALLER.get(name, {})

"""Shipped scenarios that take hours or many minutes at their own size, smaller: what is played again and again."""

SMALLER: dict[str, dict[str, str]] = {
    "day-of-devices": {"devices": "100", "day": "20m", "peak": "10m"},
    "gpu-fragmentation": {"every": "20", "pods": "381"},
}
# Two hundred times, under every policy and seed: what tells policies apart is there in a part of the fleet or time too.
COMPARED: dict[str, dict[str, str]] = {
    "data-gravity": {"until": "5m", "lasting": "10m"},
    "day-of-devices": {"devices": "50", "day": "10m", "peak": "5m"},
    "elastic-training": {"until": "4h"},
    "restart-storm": {"devices": "500"},
}


def parameters_of(name: str) -> dict[str, str]:
    return SMALLER.get(name, {})


def compared_parameters_of(name: str) -> dict[str, str]:
    return SMALLER.get(name, {}) | COMPARED.get(name, {})

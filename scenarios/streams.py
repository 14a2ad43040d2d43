"""One independent random stream per purpose, so that another policy meets the identical workload and network."""

import hashlib
import random


def stream(seed: int, purpose: str) -> random.Random:
    """A generator that depends on the seed and the purpose alone. Only `random()`-based methods are used from it: their
    Mersenne Twister output is specified and equal on every platform."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def noisy(value: int, deviation_ppm: int, source: random.Random) -> int:
    """`value` with a symmetric triangular error of about that standard deviation, at least 1.

    Triangular, not Gaussian: it needs no logarithm, whose last bit differs between C libraries."""
    spread = (source.random() + source.random() - 1) * deviation_ppm * 2.45  # √6 × deviation is the half-width.
    return max(1, value + int(value * spread / 1_000_000))

"""The demo's data: scikit-learn's bundled handwritten digits, augmented until a shard is a few megabytes.

The digits are the UCI "Optical Recognition of Handwritten Digits" test set (CC BY 4.0) that scikit-learn ships: 1,797
real 8×8 images. A fifth is held out untouched for the evaluation; shards hold shifted, rotated and noisy variants of
the rest, drawn without overlap between sites, so no site sees another's people.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

HELD_OUT_EVERY = 5  # every fifth image is for the evaluation
IMAGE_SIDE = 8


@dataclass(frozen=True)
class ShardFile:
    name: str
    path: Path
    size_bytes: int


def write_shards(folder: Path, sites: tuple[str, ...], shards_per_site: int, images_per_shard: int) -> list[ShardFile]:
    """Write `<folder>/<site>/digits/<site>-<n>` and return them in that order. Equal arguments give equal bytes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    train = np.arange(len(digits.images)) % HELD_OUT_EVERY != 0
    images = digits.images[train].astype(np.float32)
    labels = digits.target[train].astype(np.uint8)
    files = []
    for site_index, site in enumerate(sites):
        own = np.arange(len(images)) % len(sites) == site_index
        for shard_index in range(shards_per_site):
            rng = np.random.default_rng([site_index, shard_index])
            drawn = rng.integers(0, int(own.sum()), images_per_shard)
            pixels = _augment(images[own][drawn], rng)
            name = f"digits/{site}-{shard_index}"
            # One array, label in the last column: the file's bytes depend on nothing but the numbers.
            table = np.column_stack([pixels.reshape(images_per_shard, -1), labels[own][drawn]])
            files.append(_write(folder / site, name, table))
    return files


def write_held_out(folder: Path) -> ShardFile:
    """Write `<folder>/held-out/digits`: the untouched evaluation images, labels in the last column."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    held_out = np.arange(len(digits.images)) % HELD_OUT_EVERY == 0
    pixels = digits.images[held_out].reshape(int(held_out.sum()), -1).astype(np.float32)
    return _write(folder, "held-out/digits", np.column_stack([pixels, digits.target[held_out].astype(np.float32)]))


def _write(folder: Path, name: str, table: Array) -> ShardFile:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # np.save would add a suffix to a bare path
        np.save(file, table)
    return ShardFile(name, path, path.stat().st_size)


def _augment(images: Array, rng: np.random.Generator) -> Array:
    """Rotate by up to ±12°, shift by up to one pixel, add sensor noise; bilinear, whole batch at once.

    images float32[N, 8, 8] in 0–16, returned in the same shape and scale.
    """
    n_images = len(images)
    angle = rng.uniform(-np.pi / 15, np.pi / 15, n_images)[:, None, None]
    shift = rng.uniform(-1, 1, (2, n_images, 1, 1))
    centre = (IMAGE_SIDE - 1) / 2
    row, column = np.mgrid[0:IMAGE_SIDE, 0:IMAGE_SIDE] - centre
    from_row = np.cos(angle) * row - np.sin(angle) * column + centre + shift[0]
    from_column = np.sin(angle) * row + np.cos(angle) * column + centre + shift[1]
    top, left = np.floor(from_row).astype(int), np.floor(from_column).astype(int)
    down, right = from_row - top, from_column - left
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3)))
    which = np.arange(n_images)[:, None, None]

    def pixel(row_offset: int, column_offset: int) -> Array:
        rows = np.clip(top + 3 + row_offset, 0, IMAGE_SIDE + 5)
        chosen: Array = padded[which, rows, np.clip(left + 3 + column_offset, 0, IMAGE_SIDE + 5)]
        return chosen

    turned = (pixel(0, 0) * (1 - right) + pixel(0, 1) * right) * (1 - down) + (
        pixel(1, 0) * (1 - right) + pixel(1, 1) * right
    ) * down
    noisy: Array = np.clip(turned + rng.normal(0, 0.5, turned.shape), 0, 16).astype(np.float32)
    return noisy

"""Shared GPUs of a production cluster, filled until nothing fits: Weng et al., USENIX ATC 2023, and their trace
(openb).

Pods are drawn from the trace with replacement until the GPUs they ask for reach the load (130 % of what the cluster
has); each is placed at once or never, and none leaves. The result is the share of all GPU capacity that is given out
when the pods that arrived asked for 100 % and for 130 %. FGD scores with `policies.kernels.fragmentation`, the kernel
of this project's `packing`; the other five are scored here as the paper's simulator does: a node is chosen by its
score, ties at random, and on it the GPU that is fullest and still fits (Random: any; FGD: the one that fragments
least).
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.truth.result import Result
from policies.kernels.fragmentation import NOWHERE, WHOLE, gradient
from policies.lower import Int64s

LOADS = (100, 130)
POLICIES = {
    "Random": "01-Random", "DotProd": "02-DotProd", "GpuClustering": "03-GpuClustering",
    "GpuPacking": "04-GpuPacking", "BestFit": "05-BestFit", "FGD": "06-FGD",
}  # fmt: skip
POINTS = 0.3
_GPUS = 8
_COMMON = 0.95  # fragmentation is measured for the most common shapes that make up this share of the pods


@dataclass(frozen=True, slots=True)
class Shape:
    """What a pod asks for; `mask` has a bit for each GPU model that will do."""

    cpu_milli: int
    memory: int
    count: int
    milli: int
    mask: int


def run(data: Path, limit: int | None) -> list[Result]:
    """Every policy at both loads: means over `limit` seeds (None: 10)."""
    nodes, models = _nodes(data / "openb_node_list_gpu_node.csv")
    pods = _pods(data / "openb_pod_list_default.csv", models)
    with (data / "fgd_allocation_pct.csv").open() as file:
        reference = {row["sc_policy"]: row for row in csv.DictReader(file)}
    out: list[Result] = []
    for policy, key in POLICIES.items():
        runs = np.array([_Filling(nodes, pods, policy, seed).run() for seed in range(42, 42 + (limit or 10))])
        for n, load in enumerate(LOADS):
            row = reference[key]
            out.append(
                Result(
                    experiment=f"openb {load} %",
                    policy=policy,
                    measure="GPUs given out, %",
                    measured=float(runs[:, n].mean()),
                    reference=float(row[f"{load}_mean"]),
                    tolerance=max(POINTS, 3 * float(row[f"{load}_std"])),
                )
            )
    return out


class _Filling:
    def __init__(self, nodes: tuple[Int64s, Int64s, Int64s], pods: list[Shape], policy: str, seed: int) -> None:
        free, self.gpu, self.kind = nodes
        self.free, self.gpu = free.copy(), self.gpu.copy()
        self.most = free.max(axis=0)
        self.policy, self.pods = policy, pods
        self.draw = np.random.Generator(np.random.PCG64(seed))
        self.capacity = int(self.gpu.sum())
        self.typical = _typical(pods)
        self.scores: dict[Shape, tuple[Int64s, Int64s, int]] = {}  # growth, GPU, and up to which change it is fresh
        self.changes: list[int] = []  # nodes, in the order in which they changed

    def run(self) -> tuple[float, ...]:
        arrived, given, out = 0, 0, []
        order = self.draw.permutation(len(self.pods)).tolist()
        while len(out) < len(LOADS):
            if not order:
                order = self.draw.integers(len(self.pods), size=len(self.pods)).tolist()
            pod = self.pods[order.pop()]
            arrived += pod.count * pod.milli
            if self._place(pod):
                given += pod.count * pod.milli
            while len(out) < len(LOADS) and arrived * 100 >= LOADS[len(out)] * self.capacity:
                out.append(100 * given / self.capacity)
        return tuple(out)

    def _place(self, pod: Shape) -> bool:
        scores, slot = self._fgd(pod) if self.policy == "FGD" else (self._score(pod), None)
        best = int(scores.min())
        if best == NOWHERE:
            return False
        node = int(self.draw.choice(np.flatnonzero(scores == best)))
        self.free[node] -= (pod.cpu_milli, pod.memory)
        self.changes.append(node)
        if pod.count:
            gpus = np.flatnonzero((self.gpu[node] >= pod.milli) & (self.kind[node] >= 0))
            if slot is not None and pod.milli < WHOLE:
                gpus = np.array([slot[node]])
            elif self.policy == "Random":
                gpus = self.draw.permutation(gpus)
            else:
                gpus = gpus[np.argsort(self.gpu[node, gpus], kind="stable")]
            self.gpu[node, gpus[: pod.count]] -= pod.milli
        return True

    def _fgd(self, pod: Shape) -> tuple[Int64s, Int64s]:
        """Growth of fragmentation by node; only what changed since the last pod of that shape is computed again."""
        if pod not in self.scores:
            self.scores[pod] = np.empty(len(self.free), np.int64), np.empty(len(self.free), np.int64), -1
        growth, slot, seen = self.scores[pod]
        stale = np.arange(len(self.free)) if seen < 0 else np.array(sorted(set(self.changes[seen:])), np.int64)
        needs = np.array([pod.cpu_milli, pod.memory], np.int64)
        gradient(
            stale, self.free, self.gpu, self.kind, needs, pod.count, pod.milli, pod.mask, *self.typical, growth, slot
        )
        self.scores[pod] = growth, slot, len(self.changes)
        return growth, slot

    def _score(self, pod: Shape) -> Int64s:
        """[N] the lowest is chosen; NOWHERE where it does not fit."""
        enough = (self.gpu >= pod.milli) & (self.kind >= 0) & ((pod.mask >> np.maximum(self.kind, 0)) & 1 == 1)
        fits = (self.free >= (pod.cpu_milli, pod.memory)).all(axis=1)
        if pod.count:
            fits &= enough.sum(axis=1) >= pod.count
        free_milli = self.gpu.sum(axis=1)
        # Scored by CPU and GPUs only; memory is a bound.
        shares = np.column_stack([self.free[:, 0] / self.most[0], free_milli / (_GPUS * WHOLE)])
        asks = np.array([pod.cpu_milli / self.most[0], pod.count * pod.milli / (_GPUS * WHOLE)])
        match self.policy:
            case "Random":
                score = np.zeros(len(fits))
            case "DotProd":
                score = (shares * asks).sum(axis=1)
            case "BestFit":
                score = (shares - asks).sum(axis=1)
            case _ if not pod.count:
                score = np.zeros(len(fits))  # These two rate GPUs alone.
            case "GpuPacking":
                score = self._packing(pod)
            case _:
                score = self._clustering(pod)
        return np.where(fits, np.round(score * 1_000_000).astype(np.int64), NOWHERE)

    def _packing(self, pod: Shape) -> "np.typing.NDArray[np.float64]":
        """GPUs in use first, then idle ones of nodes in use, then idle nodes (Xiao et al., OSDI 2018)."""
        partly = ((self.gpu > 0) & (self.gpu < WHOLE) & (self.gpu >= pod.milli)).any(axis=1)
        idle = (self.gpu == WHOLE).sum(axis=1)
        unused = idle == (self.kind >= 0).sum(axis=1)
        return np.where(partly & (pod.milli < WHOLE), 0, np.where(unused, 2, 1)) + idle / 100

    def _clustering(self, pod: Shape) -> "np.typing.NDArray[np.float64]":
        """Pods of like GPU needs together: nodes that broke a GPU for shares take shares, whole ones the others."""
        shared = ((self.gpu > 0) & (self.gpu < WHOLE)).any(axis=1)
        used = (self.gpu < WHOLE).any(axis=1) & (self.kind >= 0).any(axis=1)
        like = shared if pod.milli < WHOLE else used & ~shared
        return np.where(like, 0, 1) + self.gpu.sum(axis=1) / (100 * WHOLE)


def _typical(pods: list[Shape]) -> tuple[Int64s, ...]:
    counts: dict[Shape, int] = {}
    for pod in pods:
        counts[pod] = counts.get(pod, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    before = np.cumsum([0, *(count for _, count in ranked)])
    kept = [item for item, n in zip(ranked, before, strict=False) if n < _COMMON * len(pods)]
    return (
        np.array([(shape.cpu_milli, shape.memory) for shape, _ in kept], np.int64),
        *(np.array([getattr(s, name) for s, _ in kept], np.int64) for name in ("count", "milli", "mask")),
        np.array([count for _, count in kept], np.int64),
    )


def _nodes(path: Path) -> tuple[tuple[Int64s, Int64s, Int64s], dict[str, int]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    models = {model: n for n, model in enumerate(sorted({row["model"] for row in rows}))}
    free = np.array([(int(row["cpu_milli"]), int(row["memory_mib"])) for row in rows], np.int64)
    gpu, kind = np.zeros((len(rows), _GPUS), np.int64), np.full((len(rows), _GPUS), -1, np.int64)
    for n, row in enumerate(rows):
        gpu[n, : int(row["gpu"])] = WHOLE
        kind[n, : int(row["gpu"])] = models[row["model"]]
    return (free, gpu, kind), models


def _pods(path: Path, models: dict[str, int]) -> list[Shape]:
    every = (1 << len(models)) - 1
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [
        Shape(
            int(row["cpu_milli"]),
            int(row["memory_mib"]),
            int(row["num_gpu"]),
            int(row["gpu_milli"]) if row["num_gpu"] != "0" else 0,
            sum(1 << models[model] for model in row["gpu_spec"].split("|") if model in models) or every,
        )
        for row in rows
    ]

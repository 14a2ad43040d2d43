"""Shared GPUs of a production cluster, filled until nothing fits: Weng et al., USENIX ATC 2023, and their trace
(openb).

Pods come in random order; past the end of the trace they are drawn from it with replacement, until the GPUs they ask
for reach the load (130 % of what the cluster has). Each is placed at once or never, and none leaves. The result is the
share of all GPU capacity that is given out when the pods that arrived asked for 100 % and for 130 %.

Scores are those of the published simulator (hkust-adsl/kubernetes-scheduler-simulator, `pkg/simulator/plugin`): whole
numbers from 0 to 100, cut off, so that ties are many; its scheduler, changed for that, takes the first of them by name.
On it a pod that shares gets the fullest GPU that has room, of FGD the one of the best score, of Random any; the first
of equals. Memory bounds where a
pod fits and counts in no score, nor among the shapes for which FGD measures fragmentation. FGD's measure is
`policies.kernels.fragmentation`, the kernel of this project's `packing`.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.truth.result import Result
from policies.kernels.fragmentation import WHOLE, fragmented, gradient
from policies.lower import Bools, Int64s

LOADS = (100, 130)
POLICIES = {
    "Random": "01-Random", "DotProd": "02-DotProd", "GpuClustering": "03-GpuClustering",
    "GpuPacking": "04-GpuPacking", "BestFit": "05-BestFit", "FGD": "06-FGD",
}  # fmt: skip
POINTS = 0.3
_GPUS = 8
_MODELS = 62  # bits of a mask
_MOST_CPU, _MOST_GPU = 128_000, _GPUS * WHOLE  # of any node, by which scores are scaled
_COMMON = 0.95  # fragmentation is measured for the most common shapes that make up this share of the pods


@dataclass(frozen=True, slots=True)
class Shape:
    """What a pod asks for; `mask` has a bit for each GPU model that will do."""

    cpu_milli: int
    memory: int
    count: int
    milli: int
    mask: int


Typical = tuple[Int64s, Int64s, Int64s, Int64s, Int64s, Int64s]
"""Needs, GPUs, thousandths of each, models that will do, GPU memory (none), and how many there are: as
`fragmentation` takes them."""


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
        self.memory = np.zeros_like(self.gpu)  # as published, memory of GPUs does not count
        self.n_gpus = (self.kind >= 0).sum(axis=1)
        self.affinity = np.zeros((len(free), _GPUS + 1), np.int64)  # pods there that share, that take 1 GPU, 2, …
        self.policy, self.pods = policy, pods
        self.draw = np.random.Generator(np.random.PCG64(seed))
        self.capacity = int(self.gpu.sum())
        self.typical = _typical(pods)
        self.weight = int(self.typical[-1].sum())
        self.growth: dict[Shape, tuple[Int64s, Int64s, int]] = {}  # and up to which change it is fresh
        self.changes: list[int] = []  # nodes, in the order in which they changed

    def run(self) -> tuple[float, ...]:
        arrived, given = 0, 0
        out: list[float] = []
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
        where = np.flatnonzero(self._fits(pod))
        if not len(where):
            return False
        scores = self._scores(pod, where)
        node = int(self.draw.choice(where) if self.policy == "Random" else where[scores.argmax()])
        if pod.count:
            self.gpu[node, self._gpus(pod, node)] -= pod.milli
            self.affinity[node, _likeness(pod)] += 1
        self.free[node] -= (pod.cpu_milli, pod.memory)
        self.changes.append(node)
        return True

    def _fits(self, pod: Shape) -> Bools:
        fits: Bools = np.all(self.free >= (pod.cpu_milli, pod.memory), axis=1)
        if pod.count:
            kind = self.kind[:, 0]
            enough = (self.gpu >= pod.milli) & (self.kind >= 0)
            fits = fits & (enough.sum(axis=1) >= pod.count) & ((pod.mask >> np.maximum(kind, 0)) & 1 == 1)
        return fits

    def _gpus(self, pod: Shape, node: int) -> Int64s:
        gpus = np.flatnonzero((self.gpu[node] >= pod.milli) & (self.kind[node] >= 0))
        if pod.milli == WHOLE:
            return gpus[: pod.count]
        match self.policy:
            case "Random":
                at = int(self.draw.integers(len(gpus)))
            case "FGD":
                at = int(np.argmax([self._fgd_points(self._growth_on(pod, node, int(gpu))) for gpu in gpus]))
            case _:
                at = int(np.argmin(self.gpu[node, gpus]))
        return gpus[at : at + 1]

    def _scores(self, pod: Shape, where: Int64s) -> Int64s:
        """Of the nodes on which it fits; the highest is the best."""
        gpu_left = self.gpu[where].sum(axis=1)
        cpu, gpus = self.free[where, 0] / _MOST_CPU, gpu_left / _MOST_GPU
        needs_cpu, needs_gpus = pod.cpu_milli / _MOST_CPU, pod.count * pod.milli / _MOST_GPU
        match self.policy:
            case "DotProd":
                return _points(1 - (cpu * needs_cpu + gpus * needs_gpus) / 2)
            case "BestFit":
                left_cpu = (self.free[where, 0] - pod.cpu_milli) / _MOST_CPU
                return _points(1 - (left_cpu / 2 + (gpu_left - pod.count * pod.milli) / _MOST_GPU / 2))
            case "FGD":
                return self._fgd_points(self._growth(pod)[where])
            case _ if self.policy == "Random" or not pod.count:
                return np.zeros(len(where), np.int64)  # The other two rate GPUs alone.
            case "GpuPacking":
                return self._packing(pod, where)
        own = 25 * (_MOST_GPU - gpu_left) // _MOST_GPU
        kinds = (self.affinity[where] > 0).sum(axis=1)
        like = self.affinity[where, _likeness(pod)] > 0
        out: Int64s = own + np.select([like & (kinds == 1), like, kinds == 0], [75, 50, 25], 0)
        return out

    def _packing(self, pod: Shape, where: Int64s) -> Int64s:
        """GPUs in use first, the fuller the better, then idle ones of nodes in use, then idle nodes."""
        gpu, idle = self.gpu[where], ((self.gpu == WHOLE) & (self.kind >= 0)).sum(axis=1)[where]
        usable = np.where((gpu >= pod.milli) & (self.kind[where] >= 0), gpu, 2 * WHOLE)
        fullest = np.sort(usable, axis=1)[:, : pod.count]
        n_idle = (fullest == WHOLE).sum(axis=1)
        shared = np.maximum(100 - (fullest * 100 // WHOLE).sum(axis=1) // 10, 50)
        out: Int64s = np.where(n_idle > 0, np.maximum(50 - n_idle, 33), shared)
        return np.where(idle == self.n_gpus[where], np.maximum(33 - idle, idle), out)

    def _growth(self, pod: Shape) -> Int64s:
        """Of fragmentation by node; only what changed since the last pod of that shape is computed again."""
        if pod not in self.growth:
            self.growth[pod] = np.empty(len(self.free), np.int64), np.empty(len(self.free), np.int64), -1
        growth, slot, seen = self.growth[pod]
        stale = np.arange(len(self.free)) if seen < 0 else np.array(sorted(set(self.changes[seen:])), np.int64)
        needs = np.array([pod.cpu_milli, pod.memory], np.int64)
        gradient(
            stale, self.free, self.gpu, self.memory, self.kind, needs, pod.count, pod.milli, pod.mask,
            self.typical[4][0], *self.typical, growth, slot,
        )  # fmt: skip
        self.growth[pod] = growth, slot, len(self.changes)
        return growth

    def _growth_on(self, pod: Shape, node: int, gpu: int) -> Int64s:
        left, gpus = self.free[node] - (pod.cpu_milli, pod.memory), self.gpu[node].copy()
        gpus[gpu] -= pod.milli
        here = self.memory[node], self.kind[node]
        before = fragmented(self.free[node], self.gpu[node], *here, *self.typical)
        return np.array(fragmented(left, gpus, *here, *self.typical) - before, np.int64)

    def _fgd_points(self, growth: Int64s) -> Int64s:
        return _points(1 / (1 + np.exp(growth / (self.weight * 1000))))


def _points(share: "np.typing.NDArray[np.float64]") -> Int64s:
    return (share * 100).astype(np.int64)


def _likeness(pod: Shape) -> int:
    """Pods are alike that share a GPU, and those that take equally many whole ones."""
    return 0 if pod.milli < WHOLE else pod.count


def _typical(pods: list[Shape]) -> Typical:
    counts: dict[Shape, int] = {}
    for pod in pods:
        shape = Shape(pod.cpu_milli, 0, pod.count, pod.milli, pod.mask)
        counts[shape] = counts.get(shape, 0) + 1
    ranked = sorted(
        counts.items(), key=lambda item: (item[1], item[0].cpu_milli, item[0].milli, item[0].count), reverse=True
    )
    before = np.cumsum([0, *(count for _, count in ranked)])
    kept = [item for item, n in zip(ranked, before, strict=False) if n < _COMMON * len(pods)]
    return (
        np.array([(shape.cpu_milli, shape.memory) for shape, _ in kept], np.int64),
        np.array([shape.count for shape, _ in kept], np.int64),
        np.array([shape.milli for shape, _ in kept], np.int64),
        np.array([shape.mask for shape, _ in kept], np.int64),
        np.zeros((len(kept), _MODELS), np.int64),
        np.array([count for _, count in kept], np.int64),
    )


def _nodes(path: Path) -> tuple[tuple[Int64s, Int64s, Int64s], dict[str, int]]:
    with path.open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["sn"])
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

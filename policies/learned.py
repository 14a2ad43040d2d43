"""A learned policy: a small network, trained elsewhere, says which waiting task to start next or to start none for now.

State, action and reward are DeepRM's (Mao et al., HotNets 2016): the network sees how much of the cluster is taken over
the next steps, the longest-waiting tasks with their length and size, and how many more wait; it names one of those
tasks or says "wait", and is asked again until it waits. What it learns beyond shortest-first is when to keep room for
what is short though something long would fit. The cluster is seen as one; a task goes where it is done soonest.

The network is a file of plain matrices (`Network.load`); no training library is needed here. `offerflow policy train`
makes such files over the scenario engine (docs/training.md), and the one beside this module came from there.

It may keep a task waiting only while something runs, and only until the task has waited `patience` times its run:
then it starts whatever the network says, so nothing starves.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from policies.cost import FREE
from policies.greedy import Greedy, Rank, Round, free_of, needs_of, seniority
from policies.lower import Int64s
from policies.model import Record, Release
from policies.resources import amount_of, kinds

Floats = npt.NDArray[np.float32]
Kind = Literal["cpu", "memory", "disk", "gpu"]
KINDS: tuple[Kind, ...] = ("cpu", "memory", "disk", "gpu")
SHIPPED = Path(__file__).with_name("learned_deeprm.npz")


class View(Record, frozen=True, kw_only=True):
    """What the network is shown. The defaults are DeepRM's, a step being a second.

    `form`: "image" is DeepRM's picture, a cell for each step and unit of a resource; "compact" says the same in one
    number for each step and resource, and three for each task.
    """

    slots: int = 5  # waiting tasks that are shown one by one, the longest-waiting
    horizon: int = 20  # steps ahead for which the cluster is shown
    step_us: int = 1_000_000
    units: int = 10  # cells a resource is drawn with ("image")
    backlog: int = 60  # so many further waiting tasks fill the scale
    kinds: tuple[Kind, ...] = ("cpu", "memory")
    form: Literal["compact", "image"] = "compact"
    patience: int = 20  # times its run that a task may be kept waiting

    @property
    def n_actions(self) -> int:
        """A slot each, and waiting, the last one."""
        return self.slots + 1

    @property
    def size(self) -> int:
        """Numbers in an observation."""
        per_task = 3 + len(self.kinds) if self.form == "compact" else self.horizon * self.units * len(self.kinds)
        per_cluster = self.horizon * len(self.kinds) * (1 if self.form == "compact" else self.units)
        return per_cluster + self.slots * per_task + 1


@dataclass(frozen=True, slots=True)
class Slot:
    """A waiting task: its length in steps, and its shares of the whole cluster, one for each kind of the view."""

    c: int
    steps: float
    shares: tuple[float, ...]
    may_start: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """One question to the network. `vector` is the observation; `mask` says which actions are open."""

    slots: tuple[Slot, ...]
    vector: Floats
    mask: npt.NDArray[np.bool_]


Brain = Callable[[Seen], int]


def observe(view: View, used: Floats, slots: tuple[Slot, ...], n_more: int) -> Floats:
    """The observation: `used` [kinds, horizon] is the share of the cluster taken, `n_more` tasks wait beyond."""
    more = np.array([min(1.0, n_more / view.backlog)], np.float32)
    if view.form == "image":
        return np.concatenate([_bars(view, used).ravel(), *(_drawn(view, slots)), more])
    rows = np.zeros((view.slots, 3 + len(view.kinds)), np.float32)
    for n, slot in enumerate(slots):
        rows[n] = (1.0, slot.steps / view.horizon, slot.may_start, *slot.shares)
    return np.concatenate([used.ravel(), rows.ravel(), more])


def _bars(view: View, shares: Floats) -> Floats:
    """[kinds, horizon, units] shares as bars of cells."""
    cells = np.arange(view.units, dtype=np.float32)
    return (cells < np.round(shares[..., None] * view.units)).astype(np.float32)


def _drawn(view: View, slots: tuple[Slot, ...]) -> list[Floats]:
    pictures = []
    for n in range(view.slots):
        shares = np.zeros((len(view.kinds), view.horizon), np.float32)
        if n < len(slots):
            shares[:, : int(np.ceil(slots[n].steps))] = np.array(slots[n].shares, np.float32)[:, None]
        pictures.append(_bars(view, shares).ravel())
    return pictures


class Network:
    """Layers of a multilayer perceptron with tanh between them; the action of the largest output is taken."""

    def __init__(self, view: View, layers: list[tuple[Floats, Floats]], note: str = "") -> None:
        """`layers`: weights [outputs, inputs] and biases, in order. Raises ValueError where they do not fit."""
        sizes = [view.size, *(len(bias) for _, bias in layers)]
        if sizes[-1] != view.n_actions or any(
            weights.shape != (sizes[n + 1], sizes[n]) for n, (weights, _) in enumerate(layers)
        ):
            raise ValueError(f"layers of {sizes} do not lead from {view.size} inputs to {view.n_actions} actions")
        self.view, self.layers, self.note = view, layers, note

    def __call__(self, seen: Seen) -> int:
        value = seen.vector
        for n, (weights, bias) in enumerate(self.layers):
            value = weights @ value + bias
            if n + 1 < len(self.layers):
                value = np.tanh(value)
        return int(np.where(seen.mask, value, -np.inf).argmax())

    def save(self, path: Path) -> None:
        """Half precision: a network of this size decides the same, and the file is small."""
        arrays = {f"{kind}{n}": each.astype(np.float16) for n, layer in enumerate(self.layers) for kind, each in
                  zip(("weights", "bias"), layer, strict=True)}  # fmt: skip
        about = json.dumps({"view": msgspec.to_builtins(self.view), "note": self.note})
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, about=np.array(about), **arrays)
        path.write_bytes(packed.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Network":
        """Read a file that `save` wrote. Raises ValueError for any other."""
        try:
            with np.load(path, allow_pickle=False) as found:
                about = json.loads(str(found["about"]))
                n_layers = sum(name.startswith("weights") for name in found.files)
                layers = [
                    (found[f"weights{n}"].astype(np.float32), found[f"bias{n}"].astype(np.float32))
                    for n in range(n_layers)
                ]
            return cls(msgspec.convert(about["view"], View), layers, about.get("note", ""))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no network of this policy: {error}") from error


class Learned(Greedy):
    """Cost of a round: O(demands × agents), and O(slots + started tasks) network evaluations."""

    kernel = "learned"

    def __init__(self, network: Network | None = None, brain: Brain | None = None, view: View | None = None) -> None:
        """Nothing: the network that ships with this package. `brain` decides in place of a network (training)."""
        super().__init__()
        if brain is None:
            network = network or Network.load(SHIPPED)
            brain, view = network, network.view
        self.view, self._brain = view or View(), brain

    def rank(self, books: Round, c: int) -> Rank:
        return seniority(books.demands[c])

    def scores(self, books: Round, c: int) -> Int64s | None:
        return books.by_node(books.costs.transfer_us[c] + books.costs.run_us[c])

    def give_out(self, books: Round) -> None:
        window = _Window(self.view, books)
        while (seen := window.look()) is not None:
            action = self._brain(seen) if seen.mask.sum() > 1 else int(seen.mask.argmax())
            if action == self.view.slots:
                return
            window.start(seen.slots[action])


class _Window:
    """What the network sees of one round, kept up as tasks are started."""

    def __init__(self, view: View, books: Round) -> None:
        self._view, self._books = view, books
        self._columns = [KINDS.index(kind) for kind in view.kinds]
        self._total = np.maximum(1, books.totals.sum(axis=0)[self._columns]).astype(np.float64)
        free = free_of(books).sum(axis=0)[self._columns]
        used = np.repeat((1 - free / self._total)[:, None], view.horizon, axis=1)
        for node in books.nodes:
            for release in node.releases:
                used[:, self._steps(release.in_us) :] -= self._released(release)[:, None]
        self._used = np.clip(used, 0.0, 1.0)
        self._busy = any(node.running for node in books.nodes)
        self._stuck: set[int] = set()  # classes that were named and did not fit after all
        self._order = [c for c in sorted(range(len(books.demands)), key=self._age) if self._possible(c)]
        self._run_us = {c: self._fastest_us(c) for c in self._order}

    def look(self) -> Seen | None:
        """The next question; None where nothing can be started."""
        view, books = self._view, self._books
        waiting = [(c, books.remaining[c]) for c in self._order if books.remaining[c] and c not in self._stuck]
        slots: list[Slot] = []
        late = False
        for c, count in waiting:
            may_start = bool(self._books.room(c).any()) and books.ledger.quota_room(c, 1) > 0
            late |= may_start and books.snapshot.now_us - books.demands[c].oldest_us > view.patience * self._run_us[c]
            slots += [self._slot(c, may_start)] * min(count, view.slots - len(slots))
            if len(slots) == view.slots:
                break
        slots.sort(key=lambda slot: slot.steps)  # Shortest first: the network need not learn to sort.
        mask = np.zeros(view.n_actions, np.bool_)
        mask[: len(slots)] = [slot.may_start for slot in slots]
        if not mask.any():
            return None
        mask[view.slots] = self._busy and not late
        n_more = sum(count for _, count in waiting) - len(slots)
        return Seen(tuple(slots), observe(view, self._used.astype(np.float32), tuple(slots), n_more), mask)

    def start(self, slot: Slot) -> None:
        placed = self._books.serve(slot.c, 1)
        if not placed:
            self._stuck.add(slot.c)
            return
        self._busy = True
        shares = np.array(slot.shares)[:, None] * placed
        self._used[:, : int(np.ceil(slot.steps))] += shares
        np.clip(self._used, 0.0, 1.0, out=self._used)

    def _age(self, c: int) -> tuple[int, str]:
        return self._books.demands[c].oldest_us, self._books.demands[c].demand_id

    def _possible(self, c: int) -> bool:
        """Whether some agent could run it, were it empty: what nobody can run must not fill the slots."""
        books = self._books
        if books.columns.unreachable[c] or not books.ledger.quota_room(c, 1):
            return False
        enough = (books.totals >= needs_of(books, c)).all(axis=1)
        return bool((enough & books.allowed(c)).any())

    def _fastest_us(self, c: int) -> int:
        open_groups = self._books.obstacle[c] == FREE
        return max(1, int(self._books.costs.run_us[c][open_groups].min()))

    def _slot(self, c: int, may_start: bool) -> Slot:
        amounts = needs_of(self._books, c)[self._columns]
        steps = self._run_us[c] / self._view.step_us
        return Slot(c, steps, tuple((amounts / self._total).tolist()), may_start)

    def _steps(self, in_us: int) -> int:
        return -(-in_us // self._view.step_us)

    def _released(self, release: Release) -> "npt.NDArray[np.float64]":
        amounts = np.array(kinds(amount_of(release.needs)))
        out: npt.NDArray[np.float64] = amounts[self._columns] * release.count / self._total
        return out

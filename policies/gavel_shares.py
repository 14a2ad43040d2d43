"""Shares of a cluster with unlike hardware: the optimisation problems of Gavel (Narayanan et al., OSDI 2020).

A share is the part of the time that a job runs on a type of hardware. Every objective asks for as much as can be had of
the same thing, job by job: `gain · shares ≥ level × need`, the level as high as the cluster allows. Only gain and need
differ: fairness weighs throughput against an equal split, makespan against the steps that are left, finish-time
fairness (Themis' ρ) against what is left of the time the job would take alone. HiGHS finds the level.

Many shares have the same level. A simplex solver answers with a corner: some jobs get all that is left over, on one
type. `centre` takes the analytic centre of the best shares instead, which treats like jobs alike and is the one that
interior-point solvers give; published results depend on it.

Axes: J jobs (a job is one or more equal tasks), W types of hardware, R kinds of resources. Floats: these are shares,
not amounts, and plans are made of whole tasks.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.optimize import linprog

Floats = npt.NDArray[np.float64]

_NEAR = 1e-5  # how near the best level shares are centred; nearer changes them in the fifth digit only
_RISE = 0.9  # of the way to the least job's margin, from one centre to the next
_NEWTON_MAX = 40
_CENTRES_MAX = 60  # the margin to the best level falls tenfold with each
_STEP_MIN = 1e-12
_DONE = 1e-9  # Newton decrement, squared
_RHO_NEAR = 1e-5
_DUAL_MIN = 1e-9


@dataclass(frozen=True, slots=True)
class Cluster:
    """What there is and who wants it. A job that is closed to a type has `open` False there."""

    needs: Floats  # [J, R] of one task; with several kinds, each in parts of all there is
    tasks: Floats  # [J] tasks of a job that may run at once
    room: Floats  # [W, R] in the same units; above 0
    open: npt.NDArray[np.bool_]  # [J, W]

    @property
    def size(self) -> Floats:
        """[J] what one task takes, by the kind of which it takes most."""
        out: Floats = self.needs.max(axis=1)
        return out

    @property
    def width(self) -> Floats:
        """[W] how much of all room a type is, over the kinds."""
        out: Floats = self.room.mean(axis=1)
        return out


class Best(NamedTuple):
    """`shares` [J, W] are tasks of a job on a type at a time, on average."""

    level: float
    shares: Floats
    tight: Floats  # [J] above 0: no shares of this level give the job more


def equal_split(throughput: Floats, cluster: Cluster) -> Floats:
    """[J] throughput when every job divides its time over the types that it may use as there is room on them."""
    part = np.where(cluster.open, cluster.width, 0.0)
    out: Floats = (throughput * part).sum(axis=1) / part.sum(axis=1)
    return out


def isolated(throughput: Floats, cluster: Cluster) -> Floats:
    """[J] throughput when each job has a J-th of every type for itself."""
    part = cluster.room / len(throughput)
    with np.errstate(divide="ignore"):
        fit = np.min(part[None, :, :] / cluster.needs[:, None, :], axis=2)
    share = np.where(cluster.open, fit, 0.0)
    share /= np.maximum(1.0, share.sum(axis=1) / cluster.tasks)[:, None]
    out: Floats = (throughput * share).sum(axis=1)
    return out


def best(cluster: Cluster, gain: Floats, need: Floats, fixed: Floats | None = None) -> Best:
    """The highest level that shares can give every job: Σ gain · share ≥ level × need.

    `fixed` [J]: a job with a number there gets that much and does not count; NaN elsewhere. Some job must have a gain,
    need and an open type. Time: one linear programme of J·W variables and J·2 + W·R rows.
    """
    n_jobs, n_types = gain.shape
    at = np.arange(n_jobs * n_types)
    largest = gain.max(axis=1)  # Rows near 1, and a level near 1: HiGHS' tolerances are absolute.
    gain, need = gain / largest[:, None], need / largest
    unit = float(need.max())
    need = need / unit
    of_job = sp.csr_array((np.ones(len(at)), (at // n_types, at)), shape=(n_jobs, len(at)))
    gains = sp.csr_array((gain.ravel(), (at // n_types, at)), shape=(n_jobs, len(at)))
    kinds = [
        sp.csr_array((np.repeat(cluster.needs[:, r], n_types), (at % n_types, at)), shape=(n_types, len(at)))
        for r in range(cluster.needs.shape[1])
    ]
    free = np.ones(n_jobs, np.bool_) if fixed is None else np.isnan(fixed)
    level = np.where(free, need, 0.0)
    floor = np.zeros(n_jobs) if fixed is None else np.where(free, 0.0, fixed) / largest
    rows = sp.vstack([of_job, *kinds, -gains])
    last = np.concatenate([np.zeros(n_jobs + n_types * len(kinds)), level])
    answer = linprog(
        np.append(np.zeros(len(at)), -1.0),
        A_ub=sp.hstack([rows, last[:, None]]).tocsr(),
        b_ub=np.concatenate([cluster.tasks, *cluster.room.T, -floor]),
        bounds=[(0, None) if is_open else (0, 0) for is_open in cluster.open.ravel()] + [(0, None)],
        method="highs",
    )
    if not answer.success:
        raise ArithmeticError(f"HiGHS found no shares: {answer.message}")
    tight = np.where(free, -answer.ineqlin.marginals[-n_jobs:], 0.0)
    return Best(float(answer.x[-1]) / unit, answer.x[:-1].reshape(n_jobs, n_types), tight)


def fairest(cluster: Cluster, throughput: Floats, weight: Floats) -> Best:
    """Weighted max-min fairness: the least of the jobs' throughputs, each over its equal split and weight and times
    what it takes (a job of two GPUs needs half the time of one GPU's), is as large as can be."""
    gain = throughput * (cluster.size / (weight * equal_split(throughput, cluster) * cluster.tasks))[:, None]
    found = best(cluster, gain, np.ones(len(gain)))
    return found._replace(shares=centre(cluster, gain, np.ones(len(gain)), found.level * (1 - _NEAR)))


def water_filled(cluster: Cluster, throughput: Floats, weight: Floats) -> Best:
    """Max-min fairness to the end: once nothing more can be done for the least, the rest is raised without them.

    `level` is the first. Time: at most J linear programmes; each ends it for at least one job.
    """
    gain = throughput * (cluster.size / (weight * equal_split(throughput, cluster) * cluster.tasks))[:, None]
    fixed = np.full(len(gain), np.nan)
    first = None
    found = Best(0.0, np.zeros_like(gain), np.zeros(len(gain)))
    while np.isnan(fixed).any():
        found = best(cluster, gain, np.ones(len(gain)), fixed)
        first = found.level if first is None else first
        # A hair less than what was found, so that rounding does not make the next programme infeasible.
        fixed[(found.tight > _DUAL_MIN) & np.isnan(fixed)] = found.level * (1 - 1e-9)
    return found._replace(level=first or 0.0)


def soonest(cluster: Cluster, throughput: Floats, steps: Floats, within: float = _NEAR) -> Best:
    """Makespan: all jobs are done in as little time as can be, or in `within` of it. `level` is 1 ÷ that time."""
    found = best(cluster, throughput, steps)
    return found._replace(shares=centre(cluster, throughput, steps, found.level * (1 - within)))


def fair_finish(cluster: Cluster, throughput: Floats, steps: Floats, since: Floats, alone: Floats) -> Best:
    """Finish-time fairness: the largest ρ = (time since arrival + what is left) ÷ the time the job takes `alone` is as
    small as can be. `level` is that ρ. Time: about twenty linear programmes."""
    least, found = 0.0, best(cluster, throughput, steps)
    rho = _rho(found.shares, throughput, steps, since, alone)
    shares = found.shares
    while rho - least > _RHO_NEAR * rho:
        middle = (least + rho) / 2
        left = middle * alone - since
        tried = best(cluster, throughput, steps / left) if (left > 0).all() else None
        if tried is not None and tried.level >= 1:
            shares, rho = tried.shares, min(middle, _rho(tried.shares, throughput, steps, since, alone))
        else:
            least = middle
    need = steps / (rho * alone - since)
    level = float(((throughput * shares).sum(axis=1) / need).min())
    return Best(rho, centre(cluster, throughput, need, level * (1 - _NEAR)), np.zeros(len(need)))


def _rho(shares: Floats, throughput: Floats, steps: Floats, since: Floats, alone: Floats) -> float:
    return float(((since + steps / (throughput * shares).sum(axis=1)) / alone).max())


def centre(cluster: Cluster, gain: Floats, need: Floats, level: float) -> Floats:
    """The analytic centre of all shares of at least this level, which must be below the best one.

    Follows centres of rising levels by Newton's method; where digits give out it stops at the last one reached.
    Time O(J·W³ + J·(W·R)²) a step, some hundred steps.
    """
    shares = _inside(cluster)
    at = 0.5 * float(((gain * shares).sum(axis=1) / need).min())
    for _ in range(_CENTRES_MAX):
        at = min(at, level)
        shares = _newton(cluster, gain, at * need, shares)
        if at >= level:
            break
        reached = float(((gain * shares).sum(axis=1) / need).min())
        at += _RISE * (reached - at)
    return shares


def _inside(cluster: Cluster) -> Floats:
    """Shares that touch no bound: half of what an even split over the open types takes."""
    wanted = np.where(cluster.open, (cluster.tasks / np.maximum(1, cluster.open.sum(axis=1)))[:, None], 0.0)
    used = np.einsum("jw,jr->wr", wanted, cluster.needs)
    fit = np.min(np.where(used > 0, cluster.room / np.maximum(used, 1e-300), 1.0), axis=1)
    out: Floats = 0.5 * wanted * np.minimum(1.0, fit)[None, :]
    return out


def _newton(cluster: Cluster, gain: Floats, need: Floats, shares: Floats) -> Floats:
    """Minimise the sum of −log of every slack, from strictly inside.

    The Hessian is a W × W block for each job and, over all jobs, W·R rows for the room: Woodbury's identity.
    """
    n_jobs, n_types = shares.shape
    diagonal = np.arange(n_types)
    for _ in range(_NEWTON_MAX):
        left = cluster.room - np.einsum("jw,jr->wr", shares, cluster.needs)
        idle = cluster.tasks - shares.sum(axis=1)
        more = (gain * shares).sum(axis=1) - need
        inverse = np.where(cluster.open, 1 / np.where(cluster.open, shares, 1.0), 0.0)
        slope = -inverse + cluster.needs @ (1 / left).T + (1 / idle)[:, None] - gain / more[:, None]
        slope = np.where(cluster.open, slope, 0.0)
        blocks = (1 / idle**2)[:, None, None] + gain[:, :, None] * gain[:, None, :] / (more**2)[:, None, None]
        blocks *= cluster.open[:, :, None] & cluster.open[:, None, :]
        blocks[:, diagonal, diagonal] += np.where(cluster.open, inverse**2, 1.0)
        blocks = np.linalg.inv(blocks)
        taken = np.zeros((n_jobs, n_types, n_types, cluster.needs.shape[1]))
        taken[:, diagonal, diagonal, :] = cluster.needs[:, None, :] * cluster.open[:, :, None]
        rows = taken.reshape(n_jobs, n_types, -1)
        direct = np.einsum("jab,jb->ja", blocks, slope)
        through = np.einsum("jab,jbk->jak", blocks, rows)
        coupling = np.diag(left.ravel() ** 2) + np.einsum("jak,jal->kl", rows, through)
        back = np.linalg.solve(coupling, np.einsum("jak,ja->k", rows, direct))
        step = -(direct - np.einsum("jak,k->ja", through, back))
        decrement = -float((slope * step).sum())
        if decrement < _DONE:
            break
        size = 1.0 if decrement < 0.25 else 1 / (1 + float(np.sqrt(decrement)))
        while size > _STEP_MIN and not _is_inside(cluster, gain, need, shares + size * step):
            size /= 2
        if size <= _STEP_MIN:
            break
        shares = shares + size * step
    return shares


def _is_inside(cluster: Cluster, gain: Floats, need: Floats, shares: Floats) -> bool:
    return bool(
        (shares[cluster.open] > 0).all()
        and (np.einsum("jw,jr->wr", shares, cluster.needs) < cluster.room).all()
        and (shares.sum(axis=1) < cluster.tasks).all()
        and ((gain * shares).sum(axis=1) > need).all()
    )

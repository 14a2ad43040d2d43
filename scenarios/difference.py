"""Two sets of results compared: how each number changed, how sure that is over seeds, and where equal runs part."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from federation.errors import ConfigError
from policies.model import Record
from scenarios.expect import shown
from scenarios.runs import Case, Result

if TYPE_CHECKING:
    from rich.table import Table

# Student's t for a 95 % interval, by degrees of freedom; beyond the table the normal distribution's 1.96.
STUDENT_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class Change(Record, frozen=True, kw_only=True, omit_defaults=False):
    """One number under one policy (named with its parameters), paired by seed. `margin` is half of the 95 % interval of
    the mean change; None of fewer than two pairs."""

    policy: str
    what: str
    kind: str
    n_pairs: int
    before: float
    after: float
    change: float
    margin: float | None

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.margin is not None and abs(self.change) > self.margin


class Parting(Record, frozen=True, kw_only=True, omit_defaults=False):
    """The first decision in which two runs of one case differ."""

    run: str
    at_s: float
    sentence: str


class Difference(Record, frozen=True, kw_only=True, omit_defaults=False):
    changes: tuple[Change, ...]
    partings: tuple[Parting, ...]
    n_equal: int  # pairs with the same digest
    unpaired: tuple[str, ...]


class _File(msgspec.Struct):
    results: list[Result]


Key = tuple[str, str, int, tuple[tuple[str, str], ...]]


def compare_files(before: Path, after: Path) -> Difference:
    """Raises `ConfigError` where a file is none of ours, or nothing can be paired."""
    return compare_results(_load(before), _load(after))


def _load(path: Path) -> list[Result]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).results
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} holds no results of `scenario run --json`: {error}") from None


def compare_results(before: list[Result], after: list[Result]) -> Difference:
    """Pairs by world, policy, seed and parameters; where the policies of the two sets differ and each has one, by the
    rest."""
    across = {each.case.policy for each in before}, {each.case.policy for each in after}
    by_policy = not (len(across[0]) == len(across[1]) == 1 and across[0] != across[1])
    old = {_key(each, by_policy): each for each in before}
    new = {_key(each, by_policy): each for each in after}
    pairs = [(old[key], new[key]) for key in old if key in new]
    if not pairs:
        raise ConfigError("the two sets have no run in common: same scenario, seed and parameters")
    partings = [parting for pair in pairs if (parting := _part(*pair)) is not None]
    unpaired = [_name(each) for key, each in (old | new).items() if key not in old or key not in new]
    return Difference(
        changes=tuple(_changes(pairs)),
        partings=tuple(partings),
        n_equal=sum(first.summary.digest == second.summary.digest for first, second in pairs),
        unpaired=tuple(unpaired),
    )


def with_solve_times(cases: list[Case], path: Path, file_seed: int) -> list[Case]:
    """The cases with the solve times of their runs in a file of results. Raises `ConfigError` where one has none."""
    known = {_key(each, True)[1:]: each.solve_us for each in _load(path)}
    found: list[Case] = []
    for case in cases:
        seed = file_seed if case.seed is None else case.seed
        solve_us = known.get((case.policy, seed, tuple(sorted(case.parameters.items()))))
        if not solve_us:
            settings = "".join(f" {name}={value}" for name, value in case.parameters.items())
            raise ConfigError(f"{path} has no measured solve times of {case.policy} seed {seed}{settings}")
        found.append(msgspec.structs.replace(case, solve_us=solve_us))
    return found


def _key(result: Result, by_policy: bool) -> Key:
    policy = result.case.policy if by_policy else ""
    return result.summary.world, policy, result.summary.seed, tuple(sorted(result.case.parameters.items()))


def _name(result: Result) -> str:
    settings = "".join(f" {name}={value}" for name, value in result.case.parameters.items())
    return f"{result.summary.world} {result.case.policy} seed {result.summary.seed}{settings}"


def _changes(pairs: list[tuple[Result, Result]]) -> list[Change]:
    kinds: dict[tuple[str, ...], list[tuple[Result, Result]]] = {}
    for first, second in pairs:
        settings = [f"{name}={value}" for name, value in sorted(first.case.parameters.items())]
        kinds.setdefault((first.case.policy, second.case.policy, *settings), []).append((first, second))
    changes: list[Change] = []
    for (before, after, *settings), own in kinds.items():
        label = " ".join((before if before == after else f"{before} → {after}", *settings))
        for what, kind in _numbers(own[0][0]):
            values = [(_value(first, what), _value(second, what)) for first, second in own]
            some = [(a, b) for a, b in values if a is not None and b is not None]
            if some:
                changes.append(_change(label, what, kind, some))
    return changes


def _numbers(result: Result) -> list[tuple[str, str]]:
    return [("completion", "duration"), ("bytes moved", "bytes"),
            *((verdict.text, verdict.kind) for verdict in result.verdicts)]  # fmt: skip


def _value(result: Result, what: str) -> float | None:
    match what:
        case "completion":
            seconds = result.summary.completion_s
            return None if seconds is None else seconds * 1e6
        case "bytes moved":
            return float(result.summary.uplink_bytes)
        case _:
            return next((verdict.value for verdict in result.verdicts if verdict.text == what), None)


def _change(policy: str, what: str, kind: str, values: list[tuple[float, float]]) -> Change:
    n_pairs = len(values)
    changes = [after - before for before, after in values]
    mean = sum(changes) / n_pairs
    margin = None
    if n_pairs > 1:
        deviation = math.sqrt(sum((change - mean) ** 2 for change in changes) / (n_pairs - 1))
        student = STUDENT_95[n_pairs - 2] if n_pairs - 2 < len(STUDENT_95) else 1.96
        margin = student * deviation / math.sqrt(n_pairs)
    return Change(
        policy=policy,
        what=what,
        kind=kind,
        n_pairs=n_pairs,
        before=sum(before for before, _ in values) / n_pairs,
        after=sum(after for _, after in values) / n_pairs,
        change=mean,
        margin=margin,
    )


def _part(first: Result, second: Result) -> Parting | None:
    if first.summary.digest == second.summary.digest:
        return None
    run = _name(first)
    for before, after in zip(first.decisions, second.decisions, strict=False):
        if before != after:
            sentence = f"{run}: first {_decision(before)}; then {_decision(after)}"
            return Parting(run=run, at_s=min(before[0], after[0]) / 1e6, sentence=sentence)
    shorter = min(len(first.decisions), len(second.decisions))
    longer = first.decisions if len(first.decisions) > shorter else second.decisions
    if len(longer) > shorter:
        sentence = f"{run}: only one of the two decides {_decision(longer[shorter])}"
        return Parting(run=run, at_s=longer[shorter][0] / 1e6, sentence=sentence)
    return Parting(run=run, at_s=0.0, sentence=f"{run}: every kept decision is equal; other events differ")


def _decision(decision: tuple[int, str, str, int]) -> str:
    at_us, task_id, agent_id, attempt = decision
    return f"{task_id} attempt {attempt} on {agent_id} at {at_us / 1e6:.3f} s"


def difference_table(found: Difference) -> "Table":
    from rich.table import Column, Table

    table = Table("policy", Column("", overflow="fold"), "before", "after", "change", "95 % margin", "runs")
    for each in found.changes:
        ratio = f" ({each.change / each.before:+.1%})" if each.before else ""
        sign = "-" if each.change < 0 else "+"
        change = f"{sign}{shown(abs(each.change), each.kind)}{ratio}"
        margin = "–" if each.margin is None else f"±{shown(each.margin, each.kind)}"
        table.add_row(
            each.policy,
            each.what,
            shown(each.before, each.kind),
            shown(each.after, each.kind),
            f"[bold]{change}[/bold]" if each.is_sure else change,
            margin,
            str(each.n_pairs),
        )
    return table

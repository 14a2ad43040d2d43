"""Scenario files: YAML as a tester writes it, to a `Scenario`. Reference: docs/scenarios.md.

Strict like job files: an unknown or duplicate key, a missing unit or a name that nothing bears is a `FileError` with
file, line and column. Jobs are job files, inline or by path, in the very grammar of `offerflow job submit`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from federation.errors import ConfigError
from federation.jobfile import read_duration, read_identifier, read_size
from federation.strictyaml import (
    Fields,
    FileError,
    Node,
    Scalar,
    as_mapping,
    choice,
    integer_between,
    list_of,
    matching,
    one_or_more,
    read_flag,
    read_text,
    suggest,
)
from policies.model import Record
from scenarios.expect import Expectations, read_expectations
from scenarios.faultfile import read_faults
from scenarios.frameworks import read_frameworks
from scenarios.preparing import SEED_MAX, prepare, read_matrix
from scenarios.sites import Site, as_is, check_holders, no_site, read_chance
from scenarios.topology import read_topology
from scenarios.traces.folder import Traces
from scenarios.workload import Scope, read_workload
from scenarios.world import DIGEST_BYTES, Recording, ShardSpec, World

SCHEMA = "offerflow/scenario/v1"
ROOT_KEYS = (
    "schema", "name", "purpose", "seed", "duration", "include", "parameters", "topology", "data", "workload",
    "frameworks", "faults", "expect", "matrix", "model", "recording",
)  # fmt: skip
RECORDING_KEYS = ("file", "digest")
DATA_KEYS = ("at", "count", "size")
MODEL_KEYS = ("solve", "commit", "measurement_noise", "to_the_end", "moves")
SOLVE_US = 5_000
MEASURED = "measured"
MEASURED_NOTE = "rounds take what this machine's processor takes: --solve-times RESULTS plays a run's times again"

T = TypeVar("T")


class Scenario(Record, frozen=True, kw_only=True):
    """A file as read with one seed and one set of parameters. `matrix` holds the values to run it with, by name;
    "policy" and "seed" among them. `recordings` are what it was made from, where it was."""

    path: str
    world: World
    expect: Expectations
    matrix: dict[str, tuple[str, ...]]
    parameters: dict[str, str]
    recordings: tuple[Recording, ...] = ()


def load_world(path: Path) -> World:
    """The world that a scenario file describes, with its own seed and parameters."""
    return load_scenario(path).world


def shipped(path: Path) -> Path:
    """The file itself; where there is none and only a name was given, the scenario of that name that ships.

    Raises `ConfigError` that names those that ship.
    """
    if path.exists() or path.parent != Path() or path.suffix not in ("", ".yaml"):
        return path
    own = Path(__file__).with_name(f"{path.stem}.yaml")
    if own.exists():
        return own
    names = sorted(each.stem for each in own.parent.glob("*.yaml"))
    raise ConfigError(f"there is no file {path}{suggest(path.stem, names)}; these scenarios ship: {', '.join(names)}")


def load_scenario(
    path: Path,
    *,
    seed: int | None = None,
    parameters: Mapping[str, str] | None = None,
    traces: Path | None = None,
) -> Scenario:
    """Read a scenario file, or one that ships, by its name. Raises `ConfigError` with file, line and column."""
    path = shipped(path)
    root, values = prepare(path, parameters or {})
    fields = Fields(root, "a scenario", ROOT_KEYS)
    fields.required("schema", choice(SCHEMA))
    own_seed = fields.required("seed", integer_between(0, SEED_MAX))
    seed = own_seed if seed is None else seed
    duration_us = fields.required("duration", read_duration)
    folder = Traces(traces)
    topology = read_topology(fields.required("topology", as_is), duration_us, folder, path.parent)
    model = Fields(fields.required("model", as_is), '"model"', MODEL_KEYS) if "model" in fields else None
    scope = Scope(topology.sites, path.parent, seed, duration_us, folder)
    workload = fields.required("workload", lambda node: read_workload(node, scope))
    frameworks, works = fields.optional("frameworks", lambda node: read_frameworks(node, scope), ((), ()))
    solve_us, is_measured = _of(model, "solve", _read_solve, (SOLVE_US, False))
    faults = None
    if "faults" in fields:
        faults = read_faults(fields.required("faults", as_is), topology, seed, duration_us)
    shards = fields.optional("data", lambda node: _read_data(node, topology.sites), ())
    world = World(
        name=fields.required("name", read_identifier),
        purpose=fields.required("purpose", read_text),
        seed=seed,
        duration_us=duration_us,
        agents=topology.agents,
        links=topology.links,
        master_site=topology.master_site,
        shards=(*shards, *workload.shards, *(shard for work in works for shard in work.shards)),
        arrivals=workload.arrivals,
        roles=workload.roles,
        frameworks=frameworks,
        faults=faults.timeline if faults is not None else (),
        variations=topology.variations,
        access=topology.access,
        egress=topology.egress,
        quiet_tail_us=faults.quiet_tail_us if faults is not None else 0,
        to_the_end=_of(model, "to_the_end", read_flag, False),
        solve_us=solve_us,
        solve_measured=is_measured,
        commit_us=_of(model, "commit", read_duration, 1_000),
        moves_per_minute=_of(model, "moves", integer_between(0, 1_000_000), None),
        noise_ppm=_of(model, "measurement_noise", read_chance, 30_000),
        notes=_notes(
            (
                *([MEASURED_NOTE] if is_measured else []),
                *topology.notes,
                *workload.notes,
                *(note for work in works for note in work.notes),
            )
        ),
    )
    arrivals = [*world.arrivals, *(each for framework in frameworks for each in framework.arrivals)]
    roles = {each.job.role for each in arrivals} | {role.path for role in world.roles}
    scopes = roles | {each.origin for each in arrivals} | {framework.name for framework in frameworks}
    expect = fields.optional("expect", lambda node: read_expectations(node, scopes, values), Expectations())
    matrix = fields.optional("matrix", lambda node: read_matrix(node, values), {})
    return Scenario(
        path=str(path),
        world=world,
        expect=expect,
        matrix=matrix,
        parameters=values,
        recordings=fields.optional("recording", list_of(partial(_read_recording, path.parent), '"recording"'), ()),
    )


def _read_recording(folder: Path, node: Node) -> Recording:
    """Whether it is there is asked when it is replayed: other policies need it not."""
    fields = Fields(node, "a recording", RECORDING_KEYS)
    return Recording(
        path=str(folder / fields.required("file", read_text)),
        digest=fields.required("digest", matching(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}", "a digest as `record` writes it")),
    )


def _of(fields: Fields | None, key: str, read: Callable[[Node], T], default: T) -> T:
    return default if fields is None else fields.optional(key, read, default)


def _read_solve(node: Node) -> tuple[int, bool]:
    """How long a round takes, and whether it is measured instead."""
    return (SOLVE_US, True) if isinstance(node, Scalar) and node.text == MEASURED else (read_duration(node), False)


def _notes(notes: tuple[str, ...]) -> tuple[str, ...]:
    """Each once; a world that joins sets has to say so."""
    unique = tuple(dict.fromkeys(notes))
    sets = {note.partition(":")[0] for note in unique if ", licence " in note}
    return (*unique, "real inputs, synthetic pairing") if len(sets) > 1 else unique


def _read_data(node: Node, sites: dict[str, Site]) -> tuple[ShardSpec, ...]:
    """`prefix: {at: site, count: n, size: s}`: shards `prefix-0` … dealt to the site's agents in turn; with a list of
    sites, each site has a replica of each."""
    shards: list[ShardSpec] = []
    for prefix, value in as_mapping(node, '"data"').entries.items():
        fields = Fields(value, f'data "{prefix}"', DATA_KEYS)
        at = fields.required("at", one_or_more(read_identifier))
        for site in at:
            if site not in sites:
                raise FileError(fields.place_of("at"), no_site(site, sites))
        check_holders(fields.place_of("at"), at, sites)
        count = fields.optional("count", integer_between(1, 1_000_000), None)
        size_bytes = fields.required("size", read_size)
        shards += [
            ShardSpec(
                name=prefix if count is None else f"{prefix}-{index}",
                size_bytes=size_bytes,
                agent_id=sites[site].agents[index % len(sites[site].agents)].agent_id,
            )
            for index in range(1 if count is None else count)
            for site in at
        ]
    return tuple(shards)


def read_settings(texts: list[str]) -> dict[str, str]:
    """`name=value` from the command line."""
    settings: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"{text!r} sets nothing: write --set name=value")
        settings[name.strip()] = value.strip()
    return settings

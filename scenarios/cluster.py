"""Sweeps on a Ray cluster, for those that outgrow one machine: `scenario run --on ray`, or `--on ray://HOST:10001`.

A case is read here and its world is sent, so a worker needs offerflow and the policy, and neither scenario nor traces.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from federation.errors import ConfigError
from scenarios.runs import play_case, read_case

if TYPE_CHECKING:
    from scenarios.runs import Case, Result

LOCAL = "ray"


def run_on_ray(cases: "list[Case]", on: str, on_done: "Callable[[Result], None]") -> "dict[int, Result]":
    """Results by the case's number; one core each. Raises `ConfigError` without Ray, or where no cluster answers."""
    if on != LOCAL and not on.startswith("ray://"):
        raise ConfigError(
            f"--on {on!r}: write ray for a cluster on this machine, or the address of one, ray://HOST:10001"
        )
    try:
        import ray
    except ImportError:
        raise ConfigError(f"--on {on} needs Ray: pip install 'offerflow[ray]'") from None
    worlds = [read_case(case) for case in cases]  # A mistake in a file is told before a cluster is asked for.
    try:
        if on == LOCAL:
            ray.init(log_to_driver=False, include_dashboard=False)
        else:
            ray.init(address=on, log_to_driver=False)
    except Exception as error:  # Ray raises that very class when a node does not start.
        token = "" if on == LOCAL else "; a cluster with a token needs RAY_AUTH_MODE=token here too"
        raise ConfigError(f"--on {on}: no cluster answers there ({error}){token}") from None
    try:
        play = ray.remote(num_cpus=1)(play_case)
        running = {
            play.remote(case, world): number for number, (case, world) in enumerate(zip(cases, worlds, strict=True))
        }
        results: dict[int, Result] = {}
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            number = running.pop(done[0])
            results[number] = ray.get(done[0])
            on_done(results[number])
        return results
    finally:
        ray.shutdown()

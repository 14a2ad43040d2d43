"""Policies by name, from the entry-point group `offerflow.policies`: built-ins register like anyone.

An entry point names a class or function that, called with nothing, gives a `Policy`.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from policies.api import Policy

GROUP = "offerflow.policies"


def names() -> tuple[str, ...]:
    """Every registered name, sorted. Imports none of them."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def entry(name: str) -> EntryPoint:
    """The entry point of a policy, not yet imported. Raises ValueError that names the known ones."""
    found = sorted((point for point in entry_points(group=GROUP) if point.name == name), key=lambda p: p.value)
    if not found:
        close = get_close_matches(name, names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"no policy is called {name!r}{hint} Known: {', '.join(names()) or 'none'}.")
    if len({point.value for point in found}) > 1:
        values = ", ".join(point.value for point in found)
        raise ValueError(f"the policy name {name!r} is registered more than once ({values}); uninstall one of them.")
    return found[0]


def is_built_in(name: str) -> bool:
    """Whether a policy is one of this distribution's own. Raises ValueError when it is unknown."""
    point = entry(name)
    return point.dist is not None and point.dist.name == "offerflow"


def load(name: str, costs: Mapping[str, int] | None = None) -> Policy:
    """A new policy of that name, with the operator's cost terms by weight (`policies.terms`) where it prices.

    Raises ValueError when it is unknown, cannot be imported or is no policy, and when it takes no cost terms.
    """
    point = entry(name)
    try:
        make = point.load()
        if costs and not getattr(make, "takes_terms", False):
            raise ValueError(f"the policy {name!r} takes no cost terms; remove [costs] or use another policy.")
        if costs:
            from policies.terms import load_terms

            policy = make(terms=load_terms(costs))
        else:
            policy = make()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"the policy {name!r} ({point.value}) does not load: {error}") from error
    if not callable(getattr(policy, "plan", None)):
        raise ValueError(f"the policy {name!r} ({point.value}) has no method plan(snapshot).")
    return cast(Policy, policy)

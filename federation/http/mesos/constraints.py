"""Offer constraints of Mesos (attribute predicates in groups) → constraints of the market.

Predicates of text hold of every attribute that is a number, as the definitions say: those are left to the framework.
"""

import re
from typing import Any, Final

from federation.errors import PeerError
from federation.http.mesos.messages import AttributeConstraint, RoleConstraints, Selector
from federation.market.constraints import quoted

_PSEUDO: Final = {"HOSTNAME": "agent.id", "REGION": "agent.region", "ZONE": "agent.site"}
# Attributes of offers that are no labels.
_TEXTS: Final = {
    "site": "agent.site",
    "region": "agent.region",
    "tier": "agent.tier",
    "hardware": "agent.hardware",
    "gpu.model": "gpu.model",
}
_NUMBERS: Final = {"speed_milli": "agent.speed_milli", "gpu.memory_bytes": "gpu.memory_bytes"}
_LINK: Final = re.compile(r"link\.(?:rtt_us|jitter_us|loss_ppm|bandwidth_bps)\{(?:to|from)=[A-Za-z0-9_.:/-]+\}")
_ALWAYS: Final = "agent.speed_milli >= 0"


def predicates_of(constraints: RoleConstraints) -> tuple[str, ...]:
    """One text that says "all of this group, or all of that". Raises `PeerError("invalid")` for what cannot be said."""
    if not constraints.groups or not all(group.attribute_constraints for group in constraints.groups):
        raise PeerError("invalid", "offer_constraints have a group for a role, and each group a constraint")
    groups = [[_predicate(constraint) for constraint in group.attribute_constraints] for group in constraints.groups]
    return (" or ".join(" and ".join(texts) for texts in groups),)


def _predicate(constraint: AttributeConstraint) -> str:
    field, is_number = _field(constraint.selector)
    if len(constraint.predicate) != 1:
        raise PeerError("invalid", "an attribute constraint has exactly one predicate")
    [(kind, body)] = constraint.predicate.items()
    match kind:
        case "exists":
            return f"{field} >= 0" if is_number else field if field.startswith("label{") else f'{field} =~ "?*"'
        case "not_exists":
            return f"no {field}"
        case "text_equals" | "text_matches":
            value = _value(kind, body)
            return f"{field} >= 0" if is_number else f"{field} {_operator(kind)} {value}"
        case "text_not_equals" | "text_not_matches":
            value = _value(kind, body)
            return _ALWAYS if is_number else f"no {field} {_operator(kind)} {value}"
    known = "exists, not_exists, text_equals, text_not_equals, text_matches, text_not_matches"
    raise PeerError("invalid", f"{kind[:80]!r} is not among {known}")


def _operator(kind: str) -> str:
    return "matches" if kind.endswith("matches") else "=="


def _field(selector: Selector) -> tuple[str, bool]:
    """Our field, and whether it is a number."""
    name = selector.attribute_name
    if bool(name) == bool(selector.pseudoattribute_type):
        raise PeerError("invalid", "a selector has either attribute_name or pseudoattribute_type")
    if not name:
        if selector.pseudoattribute_type not in _PSEUDO:
            raise PeerError("invalid", f"there is no pseudoattribute {selector.pseudoattribute_type[:80]!r}")
        return _PSEUDO[selector.pseudoattribute_type], False
    if name in _NUMBERS:
        return _NUMBERS[name], True
    if _LINK.fullmatch(name):
        return name, True
    return _TEXTS.get(name) or f"label{{key={quoted(name)}}}", False


def _value(kind: str, body: dict[str, Any]) -> str:
    name = "regex" if kind.endswith("matches") else "value"
    value = body.get(name)
    if not isinstance(value, str):
        raise PeerError("invalid", f"'{kind}' needs the text '{name}'")
    return quoted(value)

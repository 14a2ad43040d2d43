"""Offer constraints of Mesos (attribute predicates in groups) → constraints of the market."""

from typing import Any, Final

from federation.errors import PeerError
from federation.http.mesos.messages import AttributeConstraint, RoleConstraints, Selector

_PSEUDO: Final = {"HOSTNAME": "agent.id", "REGION": "agent.region", "ZONE": "agent.site"}
# Attributes of offers that are no labels.
_ATTRIBUTES: Final = {
    "site": "agent.site",
    "region": "agent.region",
    "tier": "agent.tier",
    "hardware": "agent.hardware",
    "gpu.model": "gpu.model",
}


def predicates_of(constraints: RoleConstraints) -> tuple[str, ...]:
    """Texts that must all hold: one for each constraint of an only group, else one that says "this group or that".
    Raises `PeerError("invalid")` for what the market cannot say."""
    if not constraints.groups or not all(group.attribute_constraints for group in constraints.groups):
        raise PeerError("invalid", "offer_constraints have a group for a role, and each group a constraint")
    groups = [[_predicate(constraint) for constraint in group.attribute_constraints] for group in constraints.groups]
    return tuple(groups[0]) if len(groups) == 1 else (" or ".join(" and ".join(texts) for texts in groups),)


def _predicate(constraint: AttributeConstraint) -> str:
    field = _field(constraint.selector)
    if len(constraint.predicate) != 1:
        raise PeerError("invalid", "an attribute constraint has exactly one predicate")
    [(kind, body)] = constraint.predicate.items()
    match kind:
        case "exists":
            return field if field.startswith("label{") else f'{field} =~ "?*"'
        case "not_exists":
            return f"no {field}"
        case "text_equals":
            return f"{field} == {_quoted(body.get('value'))}"
        case "text_not_equals":
            return f"{field} != {_quoted(body.get('value'))}"
    raise PeerError(
        "invalid",
        f"{kind[:80]!r} is not among exists, not_exists, text_equals, text_not_equals; globs can be said in offerflow",
    )


def _field(selector: Selector) -> str:
    name = selector.attribute_name
    if bool(name) == bool(selector.pseudoattribute_type):
        raise PeerError("invalid", "a selector has either attribute_name or pseudoattribute_type")
    if name:
        return _ATTRIBUTES.get(name) or f"label{{key={_quoted(name)}}}"
    if selector.pseudoattribute_type not in _PSEUDO:
        raise PeerError("invalid", f"there is no pseudoattribute {selector.pseudoattribute_type[:80]!r}")
    return _PSEUDO[selector.pseudoattribute_type]


def _quoted(value: Any) -> str:
    if not isinstance(value, str) or '"' in value:
        raise PeerError("invalid", "a constraint's value is text without quotation marks")
    return f'"{value}"'

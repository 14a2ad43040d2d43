"""The one interface a policy has. Third parties register theirs in the entry-point group `offerflow.policies`."""

from typing import Protocol

from policies.model import Plan, Snapshot


class Policy(Protocol):
    """A placement policy. It may keep state between calls (warm starts), but the same sequence of snapshots must give
    the same sequence of plans; `policies.conformance.check_policy` judges this and every other clause."""

    def plan(self, snapshot: Snapshot) -> Plan: ...

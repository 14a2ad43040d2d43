"""Why a task is where it is, as kept: of its placement, or of its refusal."""

from policies.model import Blocker, Candidate, CostTerms, Record


class Explanation(Record, frozen=True, kw_only=True):
    """One object is shared by all tasks it explains."""

    round_id: int
    term: int
    policy: str
    at_us: int
    agent_id: str = ""  # "" for a refusal
    terms: CostTerms | None = None
    alternatives: tuple[Candidate, ...] = ()
    blockers: tuple[Blocker, ...] = ()
    n_agents: int = 0
    waits_for: Candidate | None = None

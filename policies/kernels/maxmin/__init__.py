"""Weighted max-min fair rates of flows over capacitated links, kept up to date by repair of what a change reaches.

Axes: F flow slots, L links, D hops a flow at most. All flows rise together, each in proportion to its weight, until a
link is full or a flow reaches its own bound; what is bounded stops there, the rest rises on (progressive filling:
Bertsekas and Gallager, Data Networks, 1987, §6.5). Levels are bit/s for a weight of `ONE`:

- a link with `left` bit/s for flows of weight W in all fills at ⌊left·ONE / W⌋, never earlier as others stop;
- a flow reaches its bound (its own limit, the narrowest link of its path) at ⌈bound·ONE / weight⌉, its ceiling;
- a flow that stops at a level gets min(bound, ⌊level·weight / ONE⌋), so no link is ever overfull.

What ends the rise at one level ends together, so that rates depend on the set of flows and never on their history.

Nothing is filled from zero. A flow stops at the lowest of its ceiling and the levels at which its links fill; where a
link fills depends only on flows that stopped below. So the levels are the fixed point of an equation of which a value
depends on smaller ones alone, and after a change (flows in, flows out) it is repaired from the lowest level at which
the equation does not hold, upwards, touching what changes (Ramalingam and Reps, An incremental algorithm for a
generalization of the shortest-path problem, J. Algorithms 21, 1996). A link that fills later than it did goes first to
where it would fill now, all else unchanged, which mostly stands; if it has to again, its flows are let go altogether,
as there, and then it is settled for good: three turns a link at most.

A link can fill if it is *tight*: two or more flows cross it and their bounds add up to more than its capacity. What one
link alone holds back moves with its level, together and without a look at each (`crowds`).

Times are µs, amounts left bit·µs/s (rate × elapsed, exact). Magnitudes: capacity ≤ RATE_MAX, weight ≤ ONE, amounts ≤
LEFT_MAX; then no product here exceeds 2⁶² + 2²².

Kernels take the one array `Tables.whole`: `enter` and `leave`, `share` to bring rates up to date, `pass_due` to let
begin and end what is due; `rate_of` and `left_at` tell of one flow.
"""

from policies.kernels.maxmin.moves import enter as enter
from policies.kernels.maxmin.moves import leave as leave
from policies.kernels.maxmin.moves import left_at as left_at
from policies.kernels.maxmin.moves import pass_due as pass_due
from policies.kernels.maxmin.moves import rate_of as rate_of
from policies.kernels.maxmin.moves import share as share
from policies.kernels.maxmin.tables import CAPACITY as CAPACITY
from policies.kernels.maxmin.tables import LEFT_MAX as LEFT_MAX
from policies.kernels.maxmin.tables import N_CROWD as N_CROWD
from policies.kernels.maxmin.tables import NEVER as NEVER
from policies.kernels.maxmin.tables import ONE as ONE
from policies.kernels.maxmin.tables import OUT as OUT
from policies.kernels.maxmin.tables import RATE_MAX as RATE_MAX
from policies.kernels.maxmin.tables import Tables as Tables
from policies.kernels.maxmin.tables import grown as grown
from policies.kernels.maxmin.tables import tables as tables

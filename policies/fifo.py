"""First in, first out: the network-blind baseline.

Highest priority first, then the longest wait; each task goes to the first agent in order of id on which it fits.
Links and the place of data count only where they are hard constraints (link needs, residency); deadlines do not.
"""

from policies.greedy import Greedy


class Fifo(Greedy):
    """Seniority decides who, order of id decides where. Cost of a round: O(demands × agents) array work."""

"""The Gymnasium environments of this distribution; importing this registers them.

`offerflow/DeepRM-v0` and `offerflow/Scenario-v0` run the scenario engine, `offerflow/BareDeepRM-v0` the cluster alone.
"""

from scenarios.deeprm import BareEnv, deeprm_world
from scenarios.gym import SchedulingEnv

__all__ = ["BareEnv", "SchedulingEnv", "deeprm_world"]

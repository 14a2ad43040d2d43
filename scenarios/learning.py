"""Training the network of the policy `learned`: sb3-contrib's MaskablePPO on CPU, same seed same network.

Proximal policy optimisation (Schulman et al., 2017) with closed actions masked out (Huang and Ontañón, 2022). Needs the
extra `learn`; what comes out is a file that `policies.learned.Network.load` reads without it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from policies.learned import Network, View
from policies.model import Record

N_ENVS = 16
N_STEPS = 128  # decisions of each environment between two updates
BATCH = 512
EPOCHS = 6
LEARNING_RATE = 5e-4  # falling to nothing, linearly
ENTROPY = 0.003
HIDDEN = (64, 64)
REWARD_SCALE = 0.1  # an episode loses a few hundred; values of tens are learned faster


class Training(Record, frozen=True, kw_only=True):
    """What is learned from. `rates`: chances of a job a step; an episode draws one of them."""

    n_decisions: int = 1_000_000
    seed: int = 1
    rates: tuple[float, ...] = (0.3, 0.5, 0.7)
    n_steps: int = 50
    view: View = View()


def train(training: Training, on_progress: Callable[[int, float], None] | None = None) -> Network:
    """`on_progress(decisions, slowdown)` is told the mean slowdown of the newest hundred episodes after each update.

    Raises ImportError without sb3-contrib. One thread: sums of floats then have one order.
    """
    import torch
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    from scenarios.deeprm import BareEnv

    torch.set_num_threads(1)
    slowdowns: list[float] = []

    class Watch(BaseCallback):  # type: ignore[misc]
        def _on_step(self) -> bool:
            slowdowns.extend(info["slowdown"] for info in self.locals["infos"] if "slowdown" in info)
            return True

        def _on_rollout_end(self) -> None:
            if on_progress is not None and slowdowns:
                on_progress(self.num_timesteps, float(np.mean(slowdowns[-100:])))

    def make() -> "object":
        from gymnasium.wrappers import TransformReward

        env = BareEnv(training.rates, training.n_steps, training.view)
        return TransformReward(env, lambda reward: REWARD_SCALE * float(reward))

    model = MaskablePPO(
        "MlpPolicy",
        make_vec_env(make, n_envs=N_ENVS, seed=training.seed),
        n_steps=N_STEPS,
        batch_size=BATCH,
        n_epochs=EPOCHS,
        learning_rate=lambda left: LEARNING_RATE * left,
        ent_coef=ENTROPY,
        gamma=1.0,  # An episode ends by itself, and a late job counts as much as an early one.
        gae_lambda=0.95,
        policy_kwargs={"net_arch": {"pi": list(HIDDEN), "vf": [128, 128]}},
        seed=training.seed,
        device="cpu",
    )
    model.learn(training.n_decisions, callback=Watch())
    layers = [*model.policy.mlp_extractor.policy_net, model.policy.action_net]
    matrices = [
        (layer.weight.detach().numpy().astype(np.float32), layer.bias.detach().numpy().astype(np.float32))
        for layer in layers
        if isinstance(layer, torch.nn.Linear)
    ]
    rates = ",".join(f"{rate:g}" for rate in training.rates)
    note = f"{training.n_decisions} decisions, seed {training.seed}, rates {rates}, {training.n_steps} steps an episode"
    return Network(training.view, matrices, note)


def slowdown_of(network: Network, rate: float, n_episodes: int, seed: int) -> float:
    """Mean slowdown over fresh episodes of the bare cluster."""
    from policies.learned import Seen
    from scenarios.deeprm import BareEnv

    env = BareEnv((rate,), view=network.view)
    found = []
    for episode in range(n_episodes):
        vector, _ = env.reset(seed=seed + episode)
        done = False
        info: dict[str, Any] = {}
        while not done:
            vector, _, done, _, info = env.step(network(Seen((), vector, env.action_masks())))
        found.append(float(info["slowdown"]))
    return float(np.mean(found))


def save(network: Network, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    network.save(path)

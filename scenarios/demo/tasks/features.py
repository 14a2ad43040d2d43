"""Random Fourier features (Rahimi and Recht, 2007): a kernel machine whose weights can be averaged."""

import numpy as np

N_FEATURES = 512
GAMMA = 0.0007  # of the RBF kernel, for pixels in 0–16


def lift(pixels: np.ndarray) -> np.ndarray:
    """float32[N, 64] → float32[N, N_FEATURES]; the draw is seeded, so all sites share it."""
    rng = np.random.default_rng(7)
    weights = rng.normal(0, np.sqrt(2 * GAMMA), (pixels.shape[1], N_FEATURES)).astype(np.float32)
    offset = rng.uniform(0, 2 * np.pi, N_FEATURES).astype(np.float32)
    return np.sqrt(2 / N_FEATURES) * np.cos(pixels.astype(np.float32) @ weights + offset)

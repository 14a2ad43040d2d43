"""Train a softmax classifier on one shard, on random Fourier features that every site draws alike.

NumPy alone: a task starts in a fraction of the second that importing a framework takes, which a small device feels.
"""

import argparse

import numpy as np
from features import N_FEATURES, lift

N_CLASSES = 10
BATCH = 128
RATE = 2.0  # decays linearly to nothing over the run
MOMENTUM = 0.9


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--shard", required=True)
    options.add_argument("--out", required=True)
    options.add_argument("--epochs", type=int, default=20)
    arguments = options.parse_args()

    table = np.load(arguments.shard)
    inputs, labels = lift(table[:, :-1]), table[:, -1].astype(int)
    rng = np.random.default_rng(0)
    coef = np.zeros((N_FEATURES, N_CLASSES), np.float32)
    intercept = np.zeros(N_CLASSES, np.float32)
    coef_step, intercept_step = np.zeros_like(coef), np.zeros_like(intercept)
    n_steps = arguments.epochs * len(inputs) // BATCH
    step = 0
    for epoch in range(arguments.epochs):
        for chosen in np.array_split(rng.permutation(len(inputs)), len(inputs) // BATCH):
            scores = inputs[chosen] @ coef + intercept
            wrong = np.exp(scores - scores.max(axis=1, keepdims=True))
            wrong /= wrong.sum(axis=1, keepdims=True)
            wrong[np.arange(len(chosen)), labels[chosen]] -= 1
            rate = RATE * (1 - step / n_steps) / len(chosen)
            coef_step = MOMENTUM * coef_step - rate * (inputs[chosen].T @ wrong)
            intercept_step = MOMENTUM * intercept_step - rate * wrong.sum(axis=0)
            coef += coef_step
            intercept += intercept_step
            step += 1
        right = ((inputs[:2000] @ coef + intercept).argmax(axis=1) == labels[:2000]).mean()
        print(f"epoch {epoch + 1}: {right:.3f} of its own shard right", flush=True)
    np.savez(arguments.out, coef=coef, intercept=intercept, n=len(inputs))


if __name__ == "__main__":
    main()

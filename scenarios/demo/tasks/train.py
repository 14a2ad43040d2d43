"""Train a softmax classifier on one shard, on random Fourier features that every site draws alike."""

import argparse

import numpy as np
from features import lift
from sklearn.linear_model import SGDClassifier


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--shard", required=True)
    options.add_argument("--out", required=True)
    options.add_argument("--epochs", type=int, default=3)
    arguments = options.parse_args()

    table = np.load(arguments.shard)
    inputs, labels = lift(table[:, :-1]), table[:, -1].astype(int)
    model = SGDClassifier(loss="log_loss", alpha=1e-6, random_state=0, average=True)
    order = np.random.default_rng(0)
    for epoch in range(arguments.epochs):
        shuffled = order.permutation(len(inputs))
        model.partial_fit(inputs[shuffled], labels[shuffled], classes=np.arange(10))
        print(f"epoch {epoch + 1}: {model.score(inputs[:2000], labels[:2000]):.3f} of its own shard right", flush=True)
    np.savez(arguments.out, coef=model.coef_, intercept=model.intercept_, n=len(inputs))


if __name__ == "__main__":
    main()

"""Average the models of all shards, weighted by images (one round of federated averaging, McMahan et al., 2017)."""

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--models", required=True, help="folder of model files")
    options.add_argument("--out", required=True)
    arguments = options.parse_args()

    models = [np.load(path) for path in sorted(Path(arguments.models).rglob("*")) if path.is_file()]
    images = np.array([float(model["n"]) for model in models])
    share = images / images.sum()
    coef = sum(part * model["coef"] for part, model in zip(share, models, strict=True))
    intercept = sum(part * model["intercept"] for part, model in zip(share, models, strict=True))
    np.savez(arguments.out, coef=coef, intercept=intercept, n=images.sum())
    print(f"merged {len(models)} models of {int(images.sum())} images", flush=True)


if __name__ == "__main__":
    main()

"""Score the merged model on real images that no shard was made from; write the accuracy as JSON."""

import argparse
import json
from pathlib import Path

import numpy as np
from features import lift


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--inputs", required=True, help="folder with the merged model and the held-out images")
    options.add_argument("--out", required=True)
    arguments = options.parse_args()

    files = [path for path in sorted(Path(arguments.inputs).rglob("*")) if path.is_file()]
    model = next(loaded for path in files if isinstance(loaded := np.load(path), np.lib.npyio.NpzFile))
    table = next(loaded for path in files if isinstance(loaded := np.load(path), np.ndarray))
    scores = lift(table[:, :-1]) @ model["coef"] + model["intercept"]
    accuracy = float((scores.argmax(axis=1) == table[:, -1]).mean())
    Path(arguments.out).write_text(json.dumps({"accuracy": round(accuracy, 4), "images": len(table)}))
    print(f"accuracy {accuracy:.4f} on {len(table)} held-out images", flush=True)


if __name__ == "__main__":
    main()

"""The choice of the GM loss's settings for `celeba291.yaml`, on identities of CelebA held out of training.

Each setting changes a thing or two about the base. `python benchmarks/sweep_gm.py STORE FOLDER`, from `facegm align
celeba291`; interrupted, the same command goes on. Writes `gm_sweep.csv`.
"""

import argparse
import json
from pathlib import Path

from held_out import hold_out
from interleaved import write_results
from training_runs import train_all

from facegm.training.run_folder import read_metrics

EPOCHS = 12
BASE = {
    "loss.gm.alpha": 0.01,
    "loss.gm.likelihood_weight": 0.001,
    "loss.gm.warmup_fraction": 0.05,
    "model.dropout": 0.0,
}
SETTINGS = {
    "base: alpha 0.01, lambda 0.001, warm-up 0.05, no dropout": {},
    "alpha 0": {"loss.gm.alpha": 0.0},
    "alpha 0.05": {"loss.gm.alpha": 0.05},
    "alpha 0.1": {"loss.gm.alpha": 0.1},
    "alpha 0.3": {"loss.gm.alpha": 0.3},
    "lambda 0.0001": {"loss.gm.likelihood_weight": 0.0001},
    "lambda 0.01": {"loss.gm.likelihood_weight": 0.01},
    "lambda 0.05": {"loss.gm.likelihood_weight": 0.05},
    "warm-up 0.3": {"loss.gm.warmup_fraction": 0.3},
    "dropout 0.2": {"model.dropout": 0.2},
    "dropout 0.4": {"model.dropout": 0.4},
    "alpha 0.05, warm-up 0.3": {"loss.gm.alpha": 0.05, "loss.gm.warmup_fraction": 0.3},
    "alpha 0, warm-up 0.3": {"loss.gm.alpha": 0.0, "loss.gm.warmup_fraction": 0.3},
    "lambda 0.0001, warm-up 0.3": {"loss.gm.likelihood_weight": 0.0001, "loss.gm.warmup_fraction": 0.3},
    "warm-up 0.6": {"loss.gm.warmup_fraction": 0.6},
    "warm-up 1": {"loss.gm.warmup_fraction": 1.0},
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("store", type=Path)
    options.add_argument("folder", type=Path)
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--jobs", type=int, default=2)
    chosen = options.parse_args()
    held_out = hold_out(chosen.store, chosen.folder / "held-out")
    common = [
        "--config=celeba291.yaml",
        f"--data.store={chosen.store}",
        f"--data.exclude_identities={json.dumps(held_out)}",
        f"--train.epochs={EPOCHS}",
        f"--validation.store={chosen.folder / 'held-out/store'}",
        f"--validation.pairs={chosen.folder / 'held-out/pairs.txt'}",
        "--validation.every_epochs=4",
    ]
    runs = {
        chosen.folder / f"{number:02}-s{seed}": [
            *common,
            f"--train.seed={seed}",
            *(f"--{key}={value}" for key, value in (BASE | changes).items()),
        ]
        for seed in chosen.seeds
        for number, changes in enumerate(SETTINGS.values())
    }
    failures = train_all(runs, chosen.jobs)
    rows = []
    for run, failure in failures.items():
        number, _, seed = run.name.partition("-s")
        last = {} if failure else read_metrics(run)[-1]
        rows.append(
            {
                "setting": list(SETTINGS)[int(number)],
                "seed": seed,
                "held_out_accuracy": round(100 * last["validation_accuracy"], 2) if last else "",
                "standard_error": round(100 * last["validation_standard_error"], 2) if last else "",
                "training_accuracy": round(100 * last["accuracy"], 1) if last else "",
                "own_distance": round(last["own_distance"], 2) if last else "",
                "mean_distance": round(last["mean_distance"], 2) if last else "",
                "failure": failure,
            }
        )
    write_results("gm_sweep", rows)


if __name__ == "__main__":
    main()

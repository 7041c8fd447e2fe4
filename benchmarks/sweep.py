"""Settings of `celeba291.yaml` compared on identities of CelebA held out of training, never on LFW.

Each setting changes a thing or two about the base of its sweep. `python benchmarks/sweep_gm.py STORE FOLDER`, the store
from `facegm align celeba291`; interrupted, the same command goes on.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from held_out import hold_out
from interleaved import write_results
from training_runs import train_all

from facegm.training.run_folder import read_metrics

Options = Mapping[str, Any]
"""Values of the configuration's keys, as `facegm train` takes them: `optimizer.learning_rate`."""


def sweep(name: str, base: Options, settings: Mapping[str, Options], epochs: int) -> None:
    """Train each setting as the command line says and write `<name>.csv`.

    Args:
        name: of the result, and of the folder of its runs.
        base: options of every run.
        settings: what a setting changes about the base, by its title.
        epochs: length of a run.
    """
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
        f"--train.epochs={epochs}",
        f"--validation.store={chosen.folder / 'held-out/store'}",
        f"--validation.pairs={chosen.folder / 'held-out/pairs.txt'}",
        "--validation.every_epochs=4",
    ]
    runs = {
        chosen.folder / name / f"{number:02}-s{seed}": [
            *common,
            f"--train.seed={seed}",
            *(f"--{key}={value}" for key, value in {**base, **changes}.items()),
        ]
        for seed in chosen.seeds
        for number, changes in enumerate(settings.values())
    }
    rows = []
    for run, failure in train_all(runs, chosen.jobs).items():
        number, _, seed = run.name.partition("-s")
        rows.append({"setting": list(settings)[int(number)], "seed": seed, **_reached(run, failure)})
    write_results(name, rows)


def _reached(run: Path, failure: str) -> dict[str, Any]:
    """Accuracies in percent, of the held-out pairs (no PCA) and of the last batch, and distances, at the run's end."""
    last = {} if failure else read_metrics(run)[-1]

    def rounded(key: str, factor: float, digits: int) -> float | str:
        return round(factor * last[key], digits) if key in last else ""

    return {
        "held_out_accuracy": rounded("validation_accuracy", 100, 2),
        "standard_error": rounded("validation_standard_error", 100, 2),
        "training_accuracy": rounded("accuracy", 100, 1),
        "own_distance": rounded("own_distance", 1, 2),
        "mean_distance": rounded("mean_distance", 1, 2),
        "failure": failure,
    }

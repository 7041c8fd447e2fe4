"""Losses compared at the settings of `celeba291.yaml`, all else equal, on all pairs of LFW.

`python benchmarks/compare_losses.py STORE LFW PAIRS FOLDER`, the first two from `facegm align`; interrupted, the same
command goes on. Writes `losses_lfw.csv`.
"""

import argparse
from pathlib import Path

from interleaved import write_results
from training_runs import train_all

from facegm.eval.protocol import NO_PCA, PCA_64, PCA_64_RENORMALISED
from facegm.eval.verify_lfw import verify_lfw
from facegm.training.run_folder import read_metrics

LOSSES = ("gm", "softmax", "center", "arcface")
VARIANTS = {"pca_64": PCA_64, "pca_64_renormalised": PCA_64_RENORMALISED, "no_pca": NO_PCA}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("store", "lfw", "pairs", "folder"):
        options.add_argument(name, type=Path)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--jobs", type=int, default=2)
    chosen = options.parse_args()
    runs = {
        chosen.folder / f"{loss}-s{seed}": [
            "--config=celeba291.yaml",
            f"--data.store={chosen.store}",
            f"--loss.name={loss}",
            f"--train.seed={seed}",
        ]
        for seed in chosen.seeds
        for loss in LOSSES
    }
    rows = []
    for run, failure in train_all(runs, chosen.jobs).items():
        loss, _, seed = run.name.partition("-s")
        scores = {} if failure else _scores(run, chosen.lfw, chosen.pairs)
        rows.append({"loss": loss, "seed": seed, **scores, "failure": failure})
    write_results("losses_lfw", rows)


def _scores(run: Path, lfw: Path, pairs: Path) -> dict[str, float]:
    """Accuracies in percent with the standard error over the folds, and what the run had reached on its own faces."""
    report = verify_lfw(run, lfw, run / "lfw", pairs_file=pairs)
    scores = {}
    for name, variant in VARIANTS.items():
        found = next(found for found in report.verifications if found.variant == variant)
        scores[name] = round(100 * found.accuracy, 2)
        scores[f"{name}_standard_error"] = round(100 * found.standard_error, 2)
    return scores | {
        "area_under_roc": round(report.roc().area, 4),
        "training_accuracy": round(100 * read_metrics(run)[-1]["accuracy"], 1),
    }


if __name__ == "__main__":
    main()

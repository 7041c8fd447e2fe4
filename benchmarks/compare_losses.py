"""Losses compared at the settings of `celeba291.yaml`, all else equal, on all pairs of LFW.

`python benchmarks/compare_losses.py STORE LFW PAIRS FOLDER`, the first two from `facegm align`; interrupted, the same
command goes on. Writes `losses_lfw.csv`, and `losses_lfw_compared.csv`: of each two losses what `facegm compare` says,
which takes seeds as replicates.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interleaved import write_results
from training_runs import train_all

from facegm.cli.run_groups import groups_by_configuration
from facegm.eval.comparison import compare
from facegm.eval.comparison_report import TABLE_FILE, comparison_text, write_comparison
from facegm.eval.scores import NO_PCA, PCA_64, PCA_64_RENORMALISED
from facegm.eval.verify_lfw import verify_lfw
from facegm.training.run_folder import read_metrics

WANTED = 0.005
"""Difference in accuracy that seeds are counted for, a share of 1."""
LOSSES = ("gm", "softmax", "center", "arcface")
VARIANTS = {"pca_64": PCA_64, "pca_64_renormalised": PCA_64_RENORMALISED, "no_pca": NO_PCA}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("store", "lfw", "pairs", "folder"):
        options.add_argument(name, type=Path)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
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
    failures = train_all(runs, chosen.jobs)
    reports = {run: _verified(run, chosen.lfw, chosen.pairs) for run, failure in failures.items() if not failure}
    rows = []
    for run, failure in failures.items():
        loss, _, seed = run.name.partition("-s")
        scores = _scores(run, reports[run]) if run in reports else {}
        rows.append({"loss": loss, "seed": seed, **scores, "failure": failure})
    write_results("losses_lfw", rows)
    if len(reports) > 1:
        write_results("losses_lfw_compared", _compared(chosen.folder, list(reports)))


def _verified(run: Path, lfw: Path, pairs: Path) -> dict[str, dict[str, Any]]:
    """Numbers of a finished run's report, by variant; verified only where it has not been."""
    report = run / "lfw" / "report.json"
    if not report.is_file():
        verify_lfw(run, lfw, report.parent, pairs_file=pairs)
    numbers = {found["variant"]["name"]: found for found in json.loads(report.read_text())["variants"]}
    return {name: numbers[variant.name] for name, variant in VARIANTS.items()}


def _scores(run: Path, report: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Accuracies in percent with the standard error over the folds, and what the run had reached on its own faces."""
    scores = {}
    for name, numbers in report.items():
        scores[name] = round(100 * numbers["accuracy"], 2)
        scores[f"{name}_standard_error"] = round(100 * numbers["standard_error"], 2)
    return scores | {
        "area_under_roc": round(report["pca_64"]["area_under_roc"], 4),
        "training_accuracy": round(100 * read_metrics(run)[-1]["accuracy"], 1),
    }


def _compared(folder: Path, runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Of each two losses and each score that the reports share, with the seeds as replicates: `facegm compare`."""
    comparison = compare(groups_by_configuration(runs))
    print(comparison_text(comparison, wanted=WANTED))
    write_comparison(folder, comparison, wanted=WANTED)
    with (folder / TABLE_FILE).open(newline="") as table:
        return list(csv.DictReader(table))


if __name__ == "__main__":
    main()

"""Losses compared at the settings of `celeba291.yaml`, all else equal, on all pairs of LFW.

`python benchmarks/compare_losses.py STORE LFW PAIRS FOLDER`, the first two from `facegm align`; interrupted, the same
command goes on. Writes `losses_lfw.csv`, and `losses_lfw_compared.csv`: each two losses by each score, as
`facegm compare` does it.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from interleaved import write_results
from training_runs import train_all

from facegm.eval.comparison import RunGroup, compare
from facegm.eval.comparison_report import comparison_rows
from facegm.eval.report_file import find_report, read_report
from facegm.eval.scores import NO_PCA, PCA_64, PCA_64_RENORMALISED
from facegm.eval.verify_lfw import verify_lfw
from facegm.training.run_folder import read_metrics

LOSSES = ("gm", "softmax", "center", "arcface")
VARIANTS = {"pca_64": PCA_64, "pca_64_renormalised": PCA_64_RENORMALISED, "no_pca": NO_PCA}
WANTED = 0.005
"""Difference in accuracy that seeds are counted for."""


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
    write_results("losses_lfw_compared", _compared(reports))


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


def _compared(runs: Iterable[Path]) -> list[dict[str, object]]:
    """Each two losses by each score, tested over the seeds; losses of one finished run alone are tested by none."""
    by_loss: dict[str, list[Path]] = {}
    for run in runs:
        by_loss.setdefault(run.name.partition("-s")[0], []).append(run)
    groups = [
        RunGroup(
            name=loss,
            reports=tuple(read_report(find_report(run)) for run in own),
            seeds=tuple(int(run.name.partition("-s")[2]) for run in own),
        )
        for loss, own in by_loss.items()
    ]
    return comparison_rows(compare(groups), wanted=WANTED)


if __name__ == "__main__":
    main()

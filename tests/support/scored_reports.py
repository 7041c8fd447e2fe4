"""Verification reports, as `facegm verify-lfw` writes them, of which the tests say which pairs are judged rightly."""

import hashlib
import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from facegm.eval.pairs import Pairs
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.losses.config import LossConfig
from facegm.training.config import TrainConfig, to_yaml

_networks = count()
"""Each has distances of its own."""

Judgements = Mapping[str, np.ndarray]
"""By the score's name, which pairs are judged rightly."""


def few_people(folds: int = 4, size: int = 30, people: int = 20) -> Pairs:
    """Pairs of so many people a fold, in random company."""
    rng = np.random.default_rng(5)
    names_a, names_b = [], []
    for fold in range(folds):
        for number in range(2 * size):
            a, b = rng.choice(people, 2, replace=False)
            b = a if number < size else b
            names_a.append(f"F{fold}P{a}/1.jpg")
            names_b.append(f"F{fold}P{b}/2.jpg")
    row = np.arange(2 * folds * size)
    return Pairs(tuple(names_a), tuple(names_b), row % (2 * size) < size, row // (2 * size))


def config_of_run(seed: int, loss: Any = "gm", **train: Any) -> dict[str, Any]:
    """A run's resolved configuration, as it lies in its folder."""
    config = FaceRunConfig(
        data=FaceDataConfig(store=Path("/stores/faces")),
        loss=LossConfig(name=loss),
        train=TrainConfig(seed=seed, **train),
    )
    content: dict[str, Any] = yaml.safe_load(to_yaml(config))
    return content


def report_content(
    pairs: Pairs, right: Judgements, config: dict[str, Any] | None, digest: str | None
) -> dict[str, Any]:
    """What `report.json` holds, as far as comparisons read it, with distances that give these judgements."""
    rng = np.random.default_rng(next(_networks))
    variants = []
    for name, judged in right.items():
        thresholds = 1 + 0.1 * np.arange(pairs.fold.max() + 1)
        is_close = judged == pairs.same
        distances = thresholds[pairs.fold] + np.where(is_close, -1, 1) * rng.uniform(0.01, 0.9, len(pairs))
        folds = [
            {"accuracy": float(judged[pairs.fold == number].mean()), "threshold": threshold}
            for number, threshold in enumerate(thresholds.tolist())
        ]
        variants.append({"variant": {"name": name}, "folds": folds, "distances": np.round(distances, 8).tolist()})
    scored = {
        "names_a": list(pairs.names_a),
        "names_b": list(pairs.names_b),
        "same": pairs.same.astype(int).tolist(),
        "fold": pairs.fold.tolist(),
    }
    return {
        "schema": 2,
        "pairs": {"count": len(pairs), "digest": hashlib.sha256(json.dumps(scored).encode()).hexdigest()},
        "scored": scored,
        "variants": variants,
        "run": {"config": config, "model_digest": digest, "facegm": "0.1.0"},
    }


def write_scored(run: Path, pairs: Pairs, right: Judgements, config: dict[str, Any] | None = None) -> Path:
    """Write a run's report into its folder's `lfw`, as of a network of its own.

    Returns:
        The run's folder.
    """
    content = report_content(pairs, right, config, None if config is None else f"digest of {run.name}")
    (run / "lfw").mkdir(parents=True)
    (run / "lfw" / "report.json").write_text(json.dumps(content))
    return run


def judged(pairs: Pairs, accuracy: float, seed: int) -> np.ndarray:
    """Judgements of a network of exactly that accuracy, rounded down to whole pairs."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    return np.asarray(order < int(accuracy * len(pairs) + 1e-9))

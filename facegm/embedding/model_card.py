"""A page on a model for whoever is to use it: what is known of it from its file and from its run, and nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from facegm.data.files import replace_atomically
from facegm.data.names import printable
from facegm.embedding.calibration import Calibration
from facegm.embedding.export import BATCHES, Agreement
from facegm.embedding.onnx_network import OnnxNetwork
from facegm.errors import FacegmError

CONFIG_FILE, ENVIRONMENT_FILE, REPORT_FILE = "config.yaml", "environment.json", "report.json"
"""In a run folder; in that of a verification."""


def write_card(
    path: Path, network: OnnxNetwork, *, run: Path | None = None, agreement: Agreement | None = None
) -> None:
    """Write a model card in Markdown.

    Args:
        path: the file to write or replace.
        network: an ONNX model with a description.
        run: the run folder that it is from, whose configuration and reports on these very weights are taken.
        agreement: with the original that it was exported from.

    Raises:
        FacegmError: a file of the run is damaged.
    """
    description = network.file.description
    assert description is not None, "a model without a description has no card"
    found = description.get("calibration")
    calibration = None if found is None else Calibration.from_json(found)
    reports = [] if run is None else _reports(run, network.contract.weights)
    lines = [f"# {network.describe().split(',')[0]}", "", _purpose(network), ""]
    lines += _file(network, description, agreement)
    lines += [] if run is None else _training(run, reports)
    lines += [line for report in reports for line in _verification(report)]
    lines += _distances(calibration)
    lines += _limits(calibration, reports)
    replace_atomically(path, "\n".join(lines).rstrip().encode() + b"\n")


def _purpose(network: OnnxNetwork) -> str:
    return (
        f"Makes an embedding of {network.dim} numbers of an aligned face, so that faces of one person lie near each "
        "other: for telling whether two photos show one person, and for finding a person in a gallery."
    )


def _file(network: OnnxNetwork, description: Mapping[str, Any], agreement: Agreement | None) -> list[str]:
    taken, given = description["input"], description["output"]
    landmarks = ", ".join(f"({x:g}, {y:g})" for x, y in taken["landmarks"])
    rows = [
        ("file", f"{network.file.path.name}, {len(network.file.data) / 1e6:.1f} MB, {network.describe()}"),
        ("licence", description.get("license") or "not stated; ask whoever made the model"),
        ("input", f"`{taken['name']}`: float32 {_shape(taken['shape'])}, {taken['color']}, pixels {taken['pixels']}"),
        ("landmarks", f"{landmarks}: {taken['landmarks_are']}"),
        ("output", f"`{given['name']}`: float32 [batch, {given['dim']}]; mirror image: {given['mirror']}"),
        ("comparison", given["compare"]),
        ("contract", f"`{network.contract.digest}`: embeddings of the same contract may be compared"),
    ]
    if agreement is not None:
        rows.append(
            (
                "checked",
                f"against the original on {agreement.faces:,} faces, {' and '.join(map(str, BATCHES))} at a time: "
                f"cosine distance at most {agreement.cosine_distance:.1g}",
            )
        )
    use = [
        "```python",
        "from facegm import FaceEmbedder",
        "",
        f'embedder = FaceEmbedder.load("{network.file.path.name}")',
        'embedder.verify("a.jpg", "b.jpg")',
        "```",
    ]
    return ["## The file", "", *_table(("", ""), rows), "", *use, ""]


def _training(run: Path, reports: Sequence[Mapping[str, Any]]) -> list[str]:
    config, environment = _yaml(run / CONFIG_FILE), _json(run / ENVIRONMENT_FILE)
    rows = []
    if config:
        data, loss, train = config["data"], config["loss"], config["train"]
        own = loss.get(loss["name"]) or {}
        counts = {report["run"]["training"]["count"] for report in reports if report["run"]["training"]} - {None}
        excluded = len(data.get("exclude_identities") or ())
        identities = [f"{count:,} identities" for count in counts] + [f"{excluded:,} left out"] * bool(excluded)
        rows += [
            ("data", ", ".join([f"`{Path(data['store']).name}`", *identities])),
            ("loss", ", ".join([loss["name"], *(f"{name} {value}" for name, value in own.items())])),
            ("optimiser", _settings(config["optimizer"])),
            ("course", _settings(train)),
            ("augmentation", f"{_settings(config['preprocessing'])}, jitter {data['jitter']}"),
        ]
    if environment:
        rows += [
            ("command", f"`{printable(environment['command'])}`"),
            ("versions", _settings({"Python": environment["python"], **environment["packages"]})),
        ]
    return ["## Training", "", *_table(("", ""), rows), ""] if rows else []


def _verification(report: Mapping[str, Any]) -> list[str]:
    pairs = report["pairs"]
    said = (
        f"{pairs['count']:,} pairs in {pairs['folds']} folds, {pairs['same']:,} of one person; threshold, and PCA "
        "where there is one, from the other folds, accuracy on the fold: its mean over the folds and their standard "
        "error."
    )
    if pairs["with_fallback_image"]:
        said += (
            f" In {pairs['with_fallback_image']:,} pairs the middle of a photo stands for a face that was not found."
        )
    if pairs["dropped"]:
        said += f" {pairs['dropped']['dropped']:,} pairs of the set were left out for want of images."
    rows = [
        (
            variant["variant"]["name"],
            f"{100 * variant['accuracy']:.2f} ± {100 * variant['standard_error']:.2f} %",
            f"{100 * variant['equal_error_rate']:.2f} %",
            f"{variant['mean_threshold']:.4g}",
        )
        for variant in report["variants"]
    ]
    columns = ("score", "accuracy", "equal error rate", "mean threshold")
    name = printable(Path(report["facts"].get("photos", "a set")).name)
    note = [report["note"], ""] if report["note"] else []
    return [f"## Verification on {name}", "", said, "", *note, *_table(columns, rows), ""]


def _distances(calibration: Calibration | None) -> list[str]:
    if calibration is None:
        return []
    rows = [
        (
            f"{found.false_match_rate:g}",
            f"{found.threshold:.4f}",
            " to ".join("not bounded" if end is None else f"{end:.4f}" for end in found.interval),
            f"{found.false_matches:,}",
        )
        for found in calibration.thresholds
    ]
    columns = ("false-match rate", "threshold", "95 % interval", "false matches")
    said = (
        f"Measured on {printable(calibration.measured_on)}: {calibration.same:,} pairs of one person, "
        f"{calibration.different:,} of different people. Log-likelihood ratio = {calibration.offset:.4g} "
        f"{calibration.slope:+.4g} * distance (nats); Cllr {calibration.cllr:.3f} bits out of fold, expected "
        f"calibration error {calibration.calibration_error:.3f}. Pairs nearer than the threshold count as one person's."
    )
    return ["## What distances mean", "", said, "", *_table(columns, rows), ""]


def _limits(calibration: Calibration | None, reports: Sequence[Mapping[str, Any]]) -> list[str]:
    limits = [
        "A photo of a photo is a face too: nothing here tells a living face from a picture of one.",
        "Errors are to be expected in both directions; what follows from a match needs a person who looks at it.",
    ]
    if not reports:
        limits.append(
            "How well it verifies is not known: in its run there is no report that says it is on these weights."
        )
    if calibration is None:
        limits.append("It has not been calibrated: no threshold is known (`facegm verify --calibrate` finds them).")
    else:
        limits.append(
            f"Thresholds and probabilities hold for photos like those of {printable(calibration.measured_on)}."
        )
    if not any(report["groups"] for report in reports):
        limits.append("Whether errors differ between groups of people was not measured.")
    return ["## Limits", "", *(f"- {limit}" for limit in limits)]


def _reports(run: Path, weights: str) -> list[dict[str, Any]]:
    """Those of verifications of these very weights in a run folder, LFW's first."""
    files = [run / "lfw" / REPORT_FILE, *sorted(run.glob(f"verify/*/{REPORT_FILE}"))]
    found = [report for file in files if (report := _json(file)) is not None]
    return [report for report in found if (report.get("run") or {}).get("model_digest") == weights]


def _json(file: Path) -> dict[str, Any] | None:
    return _read(file, json.loads)


def _yaml(file: Path) -> dict[str, Any] | None:
    return _read(file, yaml.safe_load)


def _read(file: Path, load: Any) -> dict[str, Any] | None:
    """None where it is not there.

    Raises:
        FacegmError: it is damaged.
    """
    if not file.is_file():
        return None
    try:
        return dict(load(file.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise FacegmError(f"{file}: damaged, so that the model card cannot say what is in it ({error})") from error


def _settings(section: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in section.items() if value not in (None, [], {}))


def _shape(shape: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines]

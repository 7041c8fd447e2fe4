"""The paper's tables and figure of adversarial examples (section 4.4 of Wan et al.), as grids of attacks on networks.

All figures are percentages, but for distortions, which are on a scale of 0 to 255.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from facegm.adversarial.recipe import BIM, CW, CW_HC, CW_WB, FGSM, ILCM, AttackRecipe
from facegm.reproduce.experiment import Beside, Column, Experiment, Overrides, Published, Row, figures_of

AMONG_SUCCESSES = Beside("successes alone", {"auc_of_successes": "auc_of_successes"})
UNDETECTED = Beside(
    "undetected at 1 / 5 / 10 %",
    {f"undetected_at_{rate}": f"undetected_at_{rate}" for rate in (1, 5, 10)},
)
NOISE = Beside(
    "alarms on noise at 1 / 5 / 10 %",
    {f"noise_at_{rate}": f"noise_at_{rate}" for rate in (1, 5, 10)},
)
SUCCESS = Beside("attack succeeds", {"success": "success"})
_OF_AUC = (AMONG_SUCCESSES, UNDETECTED, NOISE, SUCCESS)
IMAGES = 1000
"""Test images that are attacked, less those that are classified wrong."""
_PROTOCOL = (
    "AUC: test images that are classified right against what the attack made of the same images, whether it succeeded "
    "or not. Nothing of an attack is used to fit a detector, but for KD+BU and LID, which are fitted on four fifths of "
    "the images and judged on the rest.",
    "Beside it: the same over the images that fool the network alone; the share of all attacked images that fool it "
    "undetected, where the detector raises a false alarm on 1, 5 and 10 % of the clean ones; its false alarms then on "
    "clean images with noise of the same distortion; and how often the attack succeeds.",
    f"Attacked are {IMAGES:,} test images, evenly spaced among all, less those that are classified wrong; the paper "
    "attacks all.",
)
_ADAPTIVE = (
    "No robustness is claimed of what an attack that knows the detector defeats; the verdict asks whether it could do "
    "better."
)


def _auc(title: str, attack: AttackRecipe, judge: Overrides | None = None) -> Column:
    return Column(title, {}, "auc", _OF_AUC, attack, judge)


# ------------------------------------------------------------------------------------------------- networks

MNIST, CIFAR10 = "MNIST", "CIFAR-10"
_FILES = {MNIST: "mnist.yaml", CIFAR10: "cifar10.yaml"}
_ALPHA = {MNIST: 1.0, CIFAR10: 0.3}


def _row(images: str, title: str, loss: str, detector: str, **others: float) -> Row:
    """A network of one of the small sets, and a detector that looks at its features."""
    overrides: dict[str, Any] = {"loss.name": loss, "model.feature_relu": False, "model.name": "resnet32", **others}
    if loss == "gm":
        overrides["loss.gm.alpha"] = _ALPHA[images]
    return Row(f"{images}: {title}", overrides, _FILES[images], detector)


def usual_rows(images: str) -> tuple[Row, ...]:
    """The networks whose features are judged by their density, and the GM loss's own likelihood."""
    return (
        _row(images, "softmax+KD", "softmax", "k-density"),
        _row(images, "RCE+KD", "rce", "k-density"),
        _row(images, "GM+KD", "gm", "k-density"),
        _row(images, "GM likelihood", "gm", "gm-likelihood"),
    )


# ------------------------------------------------------------------------------------------------- semi white-box

_ATTACKS = (
    _auc("FGSM", FGSM),
    _auc("BIM", BIM),
    _auc("ILCM", ILCM),
    _auc("C&W", CW),
)
_UNTARGETED = _auc("FGSM untargeted", replace(FGSM, targets="none"))


def _theirs(mean: float) -> Published:
    return Published(mean, source="of the method's own paper, it seems: other networks and settings")


def _table7_rows(images: str) -> tuple[Row, ...]:
    softmax, rce, gm, likelihood = usual_rows(images)
    others = (
        _row(images, "KD+BU", "softmax", "kd-bu", **{"model.feature_dropout": 0.5}),
        _row(images, "I-defender", "softmax", "i-defender"),
        _row(images, "LID", "softmax", "lid"),
    )
    return (softmax, *others, rce, gm, likelihood)


_TABLE7_ROWS = (*_table7_rows(MNIST), *_table7_rows(CIFAR10))
_TABLE7 = Experiment(
    title="Table 7: AUC (%) under attacks that know the network alone, ResNet-32",
    config="mnist.yaml",
    rows=_TABLE7_ROWS,
    columns=(*_ATTACKS, _auc("C&W-hc", CW_HC), _UNTARGETED),
    images=IMAGES,
    ours="over all attacked images",
    paper=figures_of(
        _TABLE7_ROWS,
        _ATTACKS,
        [
            [90.2, 90.3, 95.8, 97.6],
            [_theirs(90.6), _theirs(97.2), _theirs(87.4), _theirs(97.9)],
            [_theirs(96.4), _theirs(97.6), None, None],
            [_theirs(96.9), _theirs(99.6), None, None],
            [99.4, 91.8, 98.6, 99.8],
            [99.5, 99.7, 99.0, 99.8],
            [None, None, None, None],
            [71.2, 60.2, 85.4, 76.5],
            [_theirs(72.2), _theirs(81.1), _theirs(93.3), _theirs(92.2)],
            [_theirs(87.6), _theirs(79.0), None, None],
            [_theirs(82.4), _theirs(82.5), None, None],
            [98.0, Published(97.6, source="re-implemented by the paper, for another early stop"), 93.9, 98.2],
            [99.3, 98.6, 98.9, 99.2],
            [None, None, None, None],
        ],
    ),
    notes=(
        *_PROTOCOL,
        "All targets are random but for ILCM's, the class that the network finds least likely. The authors' released "
        "FGSM is untargeted: the last column. C&W-hc is C&W with kappa = 10, of which the paper gives no figures.",
        "BIM and ILCM stay within 0.1 of the image as FGSM does, and C&W has 1,000 iterations; the paper says neither.",
    ),
)
_IMAGENET_ROWS = (
    Row("softmax+KD", {"loss.name": "softmax"}, detector="k-density"),
    Row("KD+BU", {"loss.name": "softmax", "model.feature_dropout": 0.5}, detector="kd-bu"),
    Row("GM+KD", {"loss.name": "gm", "loss.gm.alpha": 0.01}, detector="k-density"),
    Row("GM likelihood", {"loss.name": "gm", "loss.gm.alpha": 0.01}, detector="gm-likelihood"),
)
_TABLE8 = Experiment(
    title="Table 8: AUC (%) on ImageNet under attacks that know the network alone, ResNet-50",
    config="imagenet.yaml",
    rows=_IMAGENET_ROWS,
    columns=(*_ATTACKS, _UNTARGETED),
    seeds=1,
    images=IMAGES,
    ours=_TABLE7.ours,
    paper=figures_of(
        _IMAGENET_ROWS,
        _ATTACKS,
        [[74.9, 72.6, 91.7, 85.6], [90.6, 87.2, 92.1, 94.8], [98.4, 92.6, 97.0, 99.5], [None, None, None, None]],
    ),
    notes=(
        *_PROTOCOL,
        "Densities are of 60,000 training images, drawn among all.",
        "The authors' released FGSM, from which the paper's 74.9 is, is untargeted: the last column.",
    ),
)
_FIG5_ROWS = tuple(row for row in _TABLE7_ROWS if row.title in ("CIFAR-10: softmax+KD", "CIFAR-10: GM+KD"))
_FIG5_COLUMNS = tuple(column for column in _ATTACKS if column.title in ("FGSM", "BIM", "C&W"))
_FIG5 = Experiment(
    title="Fig. 5: K-density on CIFAR-10 before and after attacks",
    config="cifar10.yaml",
    rows=_FIG5_ROWS,
    columns=_FIG5_COLUMNS,
    seeds=1,
    images=IMAGES,
    ours=_TABLE7.ours,
    paper={
        (row.title, column.title): _TABLE7.paper[row.title, column.title]
        for row in _FIG5_ROWS
        for column in _FIG5_COLUMNS
    },
    notes=(*_PROTOCOL, "The cells are those of table 7 with seed 0, and the paper's figures that table's."),
)

# ------------------------------------------------------------------------------------------------- white-box

_WHITE_BOX = (
    _auc("AUC (%)", CW_WB),
    Column("distortion", {}, "distortion", (), CW_WB),
    Column("success (%)", {}, "success", (), CW_WB),
)


def _white_box(number: int, images: str, figures: Sequence[Sequence[float | None]]) -> Experiment:
    rows = usual_rows(images)
    return Experiment(
        title=f"Table {number}: C&W-wb on {images}, which knows network and detector, ResNet-32",
        config=_FILES[images],
        rows=rows,
        columns=_WHITE_BOX,
        images=IMAGES,
        ours=_TABLE7.ours,
        paper=figures_of(rows, _WHITE_BOX, [*figures, [None] * 3]),
        notes=(
            *_PROTOCOL,
            "Each row is attacked together with its own detector. It succeeds where an image is taken for the target "
            "class and is as dense in it as half of its training images are; distortion is the root mean square change "
            "of a pixel, on a scale of 0 to 255, where it succeeds.",
            "The attack has 1,000 iterations and works on the logarithm of the density, by which it is stronger than "
            "the published code, whose floor of 1e-30 has no gradient.",
            _ADAPTIVE,
        ),
    )


_TABLE9 = _white_box(9, CIFAR10, [[53.8, 1.26, 100], [64.6, 3.89, 88.0], [84.3, 7.82, 70.1]])
_TABLE10 = _white_box(10, MNIST, [[55.6, 18.42, 98.8], [67.9, 31.59, 86.9], [84.9, 42.29, 68.1]])

# ------------------------------------------------------------------------------------------------- black-box

_TABLE11_ROWS = (*usual_rows(MNIST), *usual_rows(CIFAR10))
_BLACK_BOX = _auc("AUC (%)", CW_WB, {"model.name": "resnet56"})
_TABLE11 = Experiment(
    title="Table 11: AUC (%) of ResNet-56's detector under C&W-wb on ResNet-32 and its own",
    config="mnist.yaml",
    rows=_TABLE11_ROWS,
    columns=(_BLACK_BOX,),
    images=IMAGES,
    ours=_TABLE7.ours,
    paper=figures_of(_TABLE11_ROWS, (_BLACK_BOX,), [[94.4], [96.7], [98.6], [None], [75.0], [84.9], [94.7], [None]]),
    notes=(
        *_PROTOCOL,
        "Both networks have the same loss and the same training images. Right is what ResNet-56 classifies right, and "
        "an attack succeeds where ResNet-56 is fooled.",
    ),
)

ATTACK_EXPERIMENTS: Mapping[str, Experiment] = {
    "table7": _TABLE7,
    "table8": _TABLE8,
    "table9": _TABLE9,
    "table10": _TABLE10,
    "table11": _TABLE11,
    "fig5": _FIG5,
}

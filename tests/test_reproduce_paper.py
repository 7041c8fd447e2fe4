"""Protects what stands for the paper's own figures: they are those that its tables print, and none is missing."""

import re

import pytest

from facegm.classification.config import ImageRunConfig
from facegm.reproduce.attack_cells import AttackCell
from facegm.reproduce.experiment import Published, changed
from facegm.reproduce.paper import EXPERIMENTS
from facegm.reproduce.reproduction import Options, Reproduction
from facegm.reproduce.table import Entry
from facegm.reproduce.verdict_cells import VerdictCell

PRINTED = """\
table1	2-D	100-D
center	1.45 ± 0.01	0.47 ± 0.01
L-Softmax	1.30 ± 0.02	0.43 ± 0.01
softmax	1.82 ± 0.01	0.68 ± 0.01
GM alpha=0	1.44 ± 0.01	0.49 ± 0.01
GM alpha=0.3	1.32 ± 0.01	0.42 ± 0.02
GM alpha=1	1.17 ± 0.01	0.39 ± 0.01

table2	ResNet-20	ResNet-56	ResNet-110
softmax	8.75 ± 0.04	6.97 ± 0.05	6.43 ± 0.04
center	7.77 ± 0.05	5.94 ± 0.02	5.32 ± 0.03
L-Softmax	7.73 ± 0.03	6.05 ± 0.04	5.79 ± 0.02
GM alpha=0.3	7.21 ± 0.04	5.61 ± 0.02	4.96 ± 0.03

table3	C100	C100+
center	24.85 ± 0.06	21.05 ± 0.03
L-Softmax	24.83 ± 0.05	20.98 ± 0.04
softmax	25.61 ± 0.07	21.60 ± 0.04
GM alpha=0.1	23.74 ± 0.08	20.94 ± 0.03
GM alpha=0.2	23.04 ± 0.08	20.85 ± 0.04
GM alpha=0.3	23.16 ± 0.05	20.76 ± 0.03

table4	softmax, top-1	softmax, top-5	GM alpha=0.01, top-1	GM alpha=0.01, top-5
ResNet-50	24.7	7.8	23.28	6.81
ResNet-101	23.6	7.1	22.51	6.22
ResNeXt-50	22.2	-	21.43	5.72
SE-ResNet-50	23.29	6.62	22.37	5.85

table6	alpha=0	alpha=0.1	alpha=0.2	alpha=0.3	alpha=0.4	alpha=0.5
lambda=0.01	78.40	78.63	78.55	79.08	78.74	78.65
lambda=0.1	78.62	78.80	78.86	79.24	78.95	78.81

table7	FGSM	BIM	ILCM	C&W
MNIST: softmax+KD	90.2	90.3	95.8	97.6
MNIST: KD+BU	90.6	97.2	87.4	97.9
MNIST: I-defender	96.4	97.6	-	-
MNIST: LID	96.9	99.6	-	-
MNIST: RCE+KD	99.4	91.8	98.6	99.8
MNIST: GM+KD	99.5	99.7	99.0	99.8
CIFAR-10: softmax+KD	71.2	60.2	85.4	76.5
CIFAR-10: KD+BU	72.2	81.1	93.3	92.2
CIFAR-10: I-defender	87.6	79.0	-	-
CIFAR-10: LID	82.4	82.5	-	-
CIFAR-10: RCE+KD	98.0	97.6	93.9	98.2
CIFAR-10: GM+KD	99.3	98.6	98.9	99.2

table8	FGSM	BIM	ILCM	C&W
softmax+KD	74.9	72.6	91.7	85.6
KD+BU	90.6	87.2	92.1	94.8
GM+KD	98.4	92.6	97.0	99.5

table9	AUC (%)	distortion	success (%)
CIFAR-10: softmax+KD	53.8	1.26	100
CIFAR-10: RCE+KD	64.6	3.89	88.0
CIFAR-10: GM+KD	84.3	7.82	70.1

table10	AUC (%)	distortion	success (%)
MNIST: softmax+KD	55.6	18.42	98.8
MNIST: RCE+KD	67.9	31.59	86.9
MNIST: GM+KD	84.9	42.29	68.1

table11	AUC (%)
MNIST: softmax+KD	94.4
MNIST: RCE+KD	96.7
MNIST: GM+KD	98.6
CIFAR-10: softmax+KD	75.0
CIFAR-10: RCE+KD	84.9
CIFAR-10: GM+KD	94.7
"""
"""Tables 1 to 4 and 6 to 11 of arXiv 2011.09066, separated by tabs; rows and columns are called as ours are."""
QUOTED = {
    "table2": r"softmax",
    "table4": r".*, softmax, ",
    "table7": r".*: (KD\+BU|I-defender|LID), |CIFAR-10: RCE\+KD, BIM",
}
"""Rows and columns that the paper quotes from others, it seems, or made by other means."""


def printed() -> dict[str, dict[tuple[str, str], tuple[float, float | None]]]:
    """Mean and standard deviation, by table, row and column."""
    tables = {}
    for block in PRINTED.strip().split("\n\n"):
        head, *lines = (line.split("\t") for line in block.splitlines())
        figures = {}
        for row, *texts in lines:
            for column, text in zip(head[1:], texts, strict=True):
                if text != "-":
                    mean, _, deviation = text.partition(" ± ")
                    figures[row, column] = float(mean), float(deviation) if deviation else None
        tables[head[0]] = figures
    return tables


def paired(figure: Published) -> tuple[float, float | None]:
    return figure.mean, figure.deviation


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("table1", 12), ("table2", 12), ("table3", 12), ("table4", 15), ("table6", 12), ("table7", 40)),
        *(("table8", 12), ("table9", 9), ("table10", 9), ("table11", 6)),
    ],
)
def test_the_papers_figures_are_those_that_it_prints(name: str, count: int) -> None:
    expected = printed()[name]
    assert len(expected) == count
    assert {at: paired(figure) for at, figure in EXPERIMENTS[name].paper.items()} == expected


def test_no_other_figure_is_said_to_be_the_papers() -> None:
    others = {name: one.paper for name, one in EXPERIMENTS.items() if name not in printed() and one.paper}
    assert {name: {at: paired(figure) for at, figure in paper.items()} for name, paper in others.items()} == {
        "fig1": {at: figure for at, figure in printed()["table1"].items() if at[1] == "2-D"},
        "fig5": {
            (row, column): printed()["table7"][row, column]
            for row in ("CIFAR-10: softmax+KD", "CIFAR-10: GM+KD")
            for column in ("FGSM", "BIM", "C&W")
        },
        "fig4": {("lambda=0.001, alpha=0", "LFW"): (98.80, None), ("alpha=0.01, lambda=0", "LFW"): (98.88, None)},
    }


def test_what_the_paper_quotes_from_others_says_so() -> None:
    for name, experiment in EXPERIMENTS.items():
        for at, figure in experiment.paper.items():
            is_quoted = re.match(QUOTED.get(name, "nothing"), ", ".join(at)) is not None
            assert bool(figure.source) == is_quoted, (name, at)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_cell_is_what_its_title_says(name: str) -> None:
    """So that no figure stands beside a run of another kind."""
    for entry in Reproduction(Options(name=name)).entries:
        told = claims(entry)
        config = entry.cell.config
        gm = config.loss.gm
        actual: dict[str, object] = {
            "alpha": gm.alpha,
            "lambda": gm.likelihood_weight,
            "loss": config.loss.name,
            "seed": config.train.seed,
        }
        if isinstance(config, ImageRunConfig):
            actual |= {"network": config.model.name, "dim": config.model.feature_dim, "mirror": config.data.mirror}
            actual |= {"set": config.data.set, "dropout": config.model.feature_dropout}
        assert told.items() <= actual.items(), entry.title


def claims(entry: Entry) -> dict[str, object]:
    """What a cell's title says of its configuration."""
    title = f"{entry.row.title}, {entry.column.title}"
    found: dict[str, object] = {"seed": entry.seed, "loss": "gm"}
    for loss in ("softmax", "center", "l_softmax"):
        if re.match(loss.replace("_", "-"), entry.row.title, re.IGNORECASE) or entry.column.title.startswith(loss):
            found["loss"] = loss
    found |= {key: float(value) for key, value in re.findall(r"(alpha|lambda)=([\d.]+)", title)}
    if network := re.search(r"(SE-)?(ResNet|ResNeXt)-(\d+)", title):
        found["network"] = network[0].replace("-", "").lower()
    if dim := re.search(r"(\d+)-D\b", title):
        found["dim"] = int(dim[1])
    if entry.column.title in ("C100", "C100+"):
        found |= {"mirror": entry.column.title == "C100+", "network": "vgg13"}
    if isinstance(entry.cell, AttackCell | VerdictCell):
        images, _, method = entry.row.title.rpartition(": ")
        found["loss"] = {"RCE": "rce", "GM": "gm"}.get(re.split(r"\W", method)[0], "softmax")
        found |= {"set": {"MNIST": "mnist", "CIFAR-10": "cifar10", "": "folder"}[images]}
        found |= {"network": "resnet32" if images else "resnet50", "dropout": 0.5 if method == "KD+BU" else 0.0}
        found |= {"alpha": {"MNIST": 1.0, "CIFAR-10": 0.3, "": 0.01}[images]} if found["loss"] == "gm" else {}
    return found


CONSTANTS = {
    "FGSM": {"loop": "sign", "targets": "random", "epsilon": 0.1, "step": 0.1, "iterations": 1},
    "FGSM untargeted": {"loop": "sign", "targets": "none", "epsilon": 0.1, "step": 0.1, "iterations": 1},
    "BIM": {"loop": "sign", "targets": "random", "epsilon": 0.1, "step": 0.01, "iterations": 20},
    "ILCM": {"loop": "sign", "targets": "least_likely", "epsilon": 0.1, "step": 0.01, "iterations": 20},
    "C&W": {"loop": "carlini_wagner", "confidence": 0.0, "learning_rate": 0.001, "search_steps": 5},
    "C&W-hc": {"loop": "carlini_wagner", "confidence": 10.0, "learning_rate": 0.001, "search_steps": 5},
    "white-box": {"loop": "carlini_wagner", "targets": "random", "defeats_detector": True, "search_steps": 5},
}
"""Of section 4.4; white-box is of tables 9 to 11."""
METHODS = {"KD+BU": "kd-bu", "I-defender": "i-defender", "LID": "lid", "GM likelihood": "gm-likelihood"}


@pytest.mark.parametrize("name", ["table7", "table8", "table9", "table10", "table11", "fig5"])
def test_an_attack_is_what_its_title_says(name: str) -> None:
    """Its constants, the detector that is defeated and shown, and that a black-box attack is judged by ResNet-56."""
    for entry in Reproduction(Options(name=name)).entries:
        cell, title = entry.cell, entry.column.title
        assert isinstance(cell, AttackCell)
        constants = CONSTANTS["white-box" if name in ("table9", "table10", "table11") else title]
        assert constants.items() <= vars(cell.recipe).items(), entry.title
        detector = METHODS.get(entry.row.title.rpartition(": ")[2], "k-density")
        assert entry.row.detector == detector
        assert cell.detector == (detector if cell.recipe.defeats_detector else "")
        if name != "table11":
            assert cell.judge is None
        else:
            assert cell.judge is not None
            assert cell.judge == changed(cell.config, {"model.name": "resnet56"})

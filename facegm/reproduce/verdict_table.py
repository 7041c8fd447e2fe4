"""The verdict beside the paper's tables of attacks: whether a detector withstands an attack that knows it."""

from facegm.adversarial.recipe import ATTACKS
from facegm.reproduce.attack_tables import AMONG_SUCCESSES, CIFAR10, IMAGES, MNIST, NOISE, UNDETECTED, usual_rows
from facegm.reproduce.experiment import Beside, Column, Experiment, Metric

BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
"""The most that a pixel may change, of a range of 1: with the last, any image can be made into any other."""
_OVER_BUDGET = Beside(
    f"undetected within {' / '.join(f'{bound:g}' for bound in BUDGETS)}",
    {f"undetected_within_{bound:g}": f"undetected_within_{bound:g}" for bound in BUDGETS},
)
_FOOLED = Beside("fool the network", {"fooled": "fooled"})


def _column(title: str, metric: Metric, *beside: Beside) -> Column:
    return Column(title, {}, metric, beside, ATTACKS["orthogonal"])


VERDICT = Experiment(
    title="Verdict (%): network and detector under orthogonal PGD, which knows both, ResNet-32",
    config="mnist.yaml",
    rows=(*usual_rows(MNIST), *usual_rows(CIFAR10)),
    columns=(
        _column("AUC", "auc", AMONG_SUCCESSES, NOISE, _FOOLED),
        _column("undetected", "undetected_at_5", UNDETECTED, _OVER_BUDGET),
        _column("twice the iterations", "doubled_at_5"),
        _column("from a substitute", "transferred_at_5"),
        _column("without gradients", "gradient_free_at_5"),
        _column("undefended twin", "undefended"),
        _column("broken detector", "broken_at_5"),
        _column("no gradient", "zero_gradients"),
    ),
    seeds=1,
    images=IMAGES,
    budgets=BUDGETS,
    ours="over all attacked images",
    notes=(
        f"Attacked are {IMAGES:,} test images, evenly spaced among all, less those that are classified wrong, each "
        f"towards a random class. No pixel changes by more than {ATTACKS['orthogonal'].epsilon:g}, of a range of 1, "
        "where no other bound is named.",
        "Undetected: the share of all attacked images that are taken for their target and that the detector lets pass, "
        "where it raises a false alarm on 5 % of the clean ones. So it is for twice the iterations, for images that "
        "were crafted on a substitute, a network of the same kind with another seed, and its own detector, for the "
        "Square attack, and for a detector that scores at random.",
        "The undefended twin is the network without its detector; the share is that of images taken for their target. "
        "No gradient: the share of clean images at which the attack cannot begin.",
        "The paper reaches no verdict: its figures of attacks that know the detector are in tables 9 to 11.",
    ),
)

"""C&W and DDN against adv-lib's, and K-density against scikit-learn's: on one network, and on one thread.

Both sides attack the same images with the same targets and constants. Rows say how far the attacked images are, since
seconds compare only at equal distances. Seconds are those that the processor spends on this process, so that others on
the machine count little.
"""

import os
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from adv_lib.attacks import carlini_wagner_l2
from adv_lib.attacks import ddn as adv_lib_ddn
from interleaved import measure, processor_seconds, write_results
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity
from torch import Tensor, nn

from facegm.adversarial.carlini_wagner import carlini_wagner
from facegm.adversarial.chance import generators_of
from facegm.adversarial.ddn import ddn
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.objectives import CrossEntropy, Margin, random_other_classes
from facegm.adversarial.observations import Observations, observe
from facegm.adversarial.subject import UNIT_RANGE, Subject, outputs_of
from facegm.data.readers.idx import read_mnist
from facegm.losses.config import LossConfig, build_loss
from facegm.models.cifar_resnet import CifarResNet
from facegm.models.quick_network import quick_copy
from facegm.schedule import Progress

DATA = Path(os.environ.get("FACEGM_DATA", Path(__file__).parents[2] / "shared" / "data"))
RUNS = 2
CLASSES, DIM = 10, 64
TRAINING_STEPS, BATCH = 300, 64
ATTACKED = 48
LEARNING_RATE, SEARCH_STEPS, ITERATIONS, INITIAL_CONSTANT = 0.05, 5, 100, 10.0
DDN_ITERATIONS = 100
CENTERS, QUERIES = 50_000, 200


class Classifier(nn.Module):
    """A small residual network with the GM loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = CifarResNet(8, channels=1)
        self.loss = build_loss(LossConfig(name="gm"), CLASSES, DIM)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.loss.logits(self.network(images))
        return logits


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    classifier = trained(*mnist("train"))
    quick = quick_copy(classifier)
    subject = Subject(module=quick, features=quick.network, logits=quick.loss.logits)
    images, labels = mnist("test")
    accuracy = (outputs_of(subject, images[:1000]).logits.argmax(dim=1) == labels[:1000]).double().mean().item()
    print(f"accuracy {accuracy:.3f}", flush=True)
    rows = attacks(classifier, subject, images[:ATTACKED], labels[:ATTACKED])
    rows += densities(subject, mnist("train")[0][:CENTERS], images[:QUERIES])
    versions = {"adv_lib": version("adv-lib"), "scikit_learn": version("scikit-learn")}
    write_results("adversarial", [row | versions for row in rows])


def mnist(part: str) -> tuple[Tensor, Tensor]:
    """Images of 0 to 1 and their labels."""
    arrays = read_mnist(DATA / "mnist", part=part)
    images = torch.from_numpy(arrays.images).permute(0, 3, 1, 2).contiguous() / 255
    return images, torch.from_numpy(arrays.labels).long()


def trained(images: Tensor, labels: Tensor) -> Classifier:
    """Half a minute's training."""
    classifier = Classifier()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, TRAINING_STEPS)
    for step in range(TRAINING_STEPS):
        batch = torch.randint(len(images), (BATCH,))
        features = classifier.network(images[batch])
        loss = classifier.loss(features, labels[batch], Progress(step + 1, TRAINING_STEPS)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval().requires_grad_(False)


def attacks(classifier: Classifier, subject: Subject, images: Tensor, labels: Tensor) -> list[dict[str, object]]:
    """Of adv-lib also on the copy of the network that facegm attacks, which tells its share in the time."""
    targets = random_other_classes(labels, CLASSES, generators_of(torch.arange(len(labels)), 0))
    margin = Margin(subject=subject, classes=targets, is_targeted=True)
    cross_entropy = CrossEntropy(subject=subject, classes=targets, is_targeted=True)

    def of_adv_lib(network: nn.Module) -> Tensor:
        return carlini_wagner_l2(
            network,
            images,
            targets,
            targeted=True,
            learning_rate=LEARNING_RATE,
            binary_search_steps=SEARCH_STEPS,
            max_iterations=ITERATIONS,
            initial_const=INITIAL_CONSTANT,
        )

    def of_facegm() -> Tensor:
        return carlini_wagner(
            margin,
            images,
            UNIT_RANGE,
            learning_rate=LEARNING_RATE,
            search_steps=SEARCH_STEPS,
            iterations=ITERATIONS,
            initial_constant=INITIAL_CONSTANT,
        ).images

    def ddn_of_adv_lib(network: nn.Module) -> Tensor:
        return adv_lib_ddn(network, images, targets, targeted=True, steps=DDN_ITERATIONS, levels=None)

    of_carlini_wagner = {
        "adv-lib C&W": partial(of_adv_lib, classifier),
        "adv-lib C&W, quick copy": partial(of_adv_lib, subject.module),
        "facegm C&W": of_facegm,
    }
    of_ddn = {
        "adv-lib DDN": partial(ddn_of_adv_lib, classifier),
        "adv-lib DDN, quick copy": partial(ddn_of_adv_lib, subject.module),
        "facegm DDN": lambda: ddn(cross_entropy, images, UNIT_RANGE, iterations=DDN_ITERATIONS).images,
    }
    rows = []
    for ways in (of_carlini_wagner, of_ddn):
        attacked: dict[str, Tensor] = {}
        for row in compare(ways, attacked):
            images_after = attacked[str(row["way"])]
            is_success = outputs_of(subject, images_after).logits.argmax(dim=1) == targets
            distance = (images_after - images).flatten(1).norm(dim=1)[is_success].mean().item()
            rows.append({"success": is_success.double().mean().item(), "l2_distance": round(distance, 4), **row})
    return rows


def densities(subject: Subject, images: Tensor, others: Tensor) -> list[dict[str, object]]:
    """All features as of one class, which makes it the most work.

    scikit-learn's trees are off by nats where a point lies far from all centers; with all centers in one leaf it is
    right, and quicker.
    """
    centers, queries = of_one_class(subject, images), of_one_class(subject, others)
    ours = KDensity().fit(centers)
    bandwidth = ours.bandwidth_.item()
    c, x = centers.features.double().numpy(), queries.features.double().numpy()
    tree = KernelDensity(bandwidth=bandwidth).fit(c)
    one_leaf = KernelDensity(bandwidth=bandwidth, leaf_size=2 * CENTERS).fit(c)
    scores: dict[str, np.ndarray] = {}
    rows = compare(
        {
            "scikit-learn KernelDensity": lambda: tree.score_samples(x),
            "scikit-learn KernelDensity, one leaf": lambda: one_leaf.score_samples(x),
            "facegm K-density": lambda: ours.score_samples(queries),
        },
        scores,
    )
    exact = np.array([logsumexp(-np.square(c - one).sum(axis=1) / (2 * bandwidth**2)) for one in x]) - np.log(CENTERS)
    for row in rows:
        way = str(row["way"])
        constant = DIM * (np.log(bandwidth) + 0.5 * np.log(2 * np.pi)) if "scikit-learn" in way else 0.0
        row["largest_error"] = f"{np.abs(scores[way] + constant - exact).max():.1e}"  # in nats
    return [{"centers": CENTERS, "queries": QUERIES, **row} for row in rows]


def of_one_class(subject: Subject, images: Tensor) -> Observations:
    features = observe(subject, images).features
    return Observations(
        features=features,
        logits=torch.zeros(len(features), 1),
        labels=torch.zeros(len(features), dtype=torch.int64),
    )


def compare(ways: dict[str, Callable[[], object]], results: dict[str, object]) -> list[dict[str, object]]:
    """Time ways in turn, the other library's first; `results` keeps what each has come to."""

    def kept(name: str, way: Callable[[], object]) -> None:
        results[name] = way()

    rows = measure({name: partial(kept, name, way) for name, way in ways.items()}, runs=RUNS, clock=processor_seconds)
    return [{"times_faster": round(1 / float(str(row["ratio_to_first"])), 2), **row} for row in rows]


if __name__ == "__main__":
    main()

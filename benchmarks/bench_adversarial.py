"""C&W and DDN against adv-lib's, and K-density against scikit-learn's: on one network, and on one thread.

Both sides attack the same images with the same targets and constants. Rows say how far the attacked images are, since
seconds compare only at equal distances. Seconds are those that the processor spends on this process, so that others on
the machine count little.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from adv_lib.attacks import carlini_wagner_l2
from adv_lib.attacks import ddn as adv_lib_ddn
from interleaved import measure, write_results
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
from facegm.schedule import Progress

DATA = Path(os.environ.get("FACEGM_DATA", Path(__file__).parents[2] / "shared" / "data"))
RUNS = 2
CLASSES, DIM = 10, 64
TRAINING_STEPS, BATCH = 1000, 64
ATTACKED = 24
LEARNING_RATE, SEARCH_STEPS, ITERATIONS, INITIAL_CONSTANT = 0.01, 5, 500, 1.0
DDN_ITERATIONS = 300
CENTERS, QUERIES = 50_000, 200


class LeNet(nn.Module):
    """That of LeCun et al. 1998, with ReLU and the GM loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, DIM),
        )
        self.loss = build_loss(LossConfig(name="gm"), CLASSES, DIM)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.loss.logits(self.network(images))
        return logits


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    subject = trained(*mnist("train"))
    images, labels = mnist("t10k")
    print(f"accuracy {(outputs_of(subject, images).logits.argmax(dim=1) == labels).double().mean():.4f}", flush=True)
    rows = attacks(subject, images[:ATTACKED], labels[:ATTACKED])
    rows += densities(subject, mnist("train")[0][:CENTERS], images[:QUERIES])
    write_results("adversarial", rows)


def mnist(part: str) -> tuple[Tensor, Tensor]:
    """Images of 0 to 1 and their labels."""
    arrays = read_mnist(DATA / "mnist", part=part)
    images = torch.from_numpy(arrays.images).permute(0, 3, 1, 2).contiguous() / 255
    return images, torch.from_numpy(arrays.labels).long()


def trained(images: Tensor, labels: Tensor) -> Subject:
    """A quarter of a minute's training."""
    classifier = LeNet()
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
    classifier.eval().requires_grad_(False)
    return Subject(module=classifier, features=classifier.network, logits=classifier.loss.logits)


def attacks(subject: Subject, images: Tensor, labels: Tensor) -> list[dict[str, object]]:
    targets = random_other_classes(labels, CLASSES, generators_of(torch.arange(len(labels)), 0))
    margin = Margin(subject=subject, classes=targets, is_targeted=True)
    cross_entropy = CrossEntropy(subject=subject, classes=targets, is_targeted=True)
    classifier = subject.module
    of_carlini_wagner = {
        "adv-lib C&W": partial(
            carlini_wagner_l2,
            classifier,
            images,
            targets,
            targeted=True,
            learning_rate=LEARNING_RATE,
            binary_search_steps=SEARCH_STEPS,
            max_iterations=ITERATIONS,
            initial_const=INITIAL_CONSTANT,
        ),
        "facegm C&W": lambda: (
            carlini_wagner(
                margin,
                images,
                UNIT_RANGE,
                learning_rate=LEARNING_RATE,
                search_steps=SEARCH_STEPS,
                iterations=ITERATIONS,
                initial_constant=INITIAL_CONSTANT,
            ).images
        ),
    }
    of_ddn = {
        "adv-lib DDN": partial(
            adv_lib_ddn, classifier, images, targets, targeted=True, steps=DDN_ITERATIONS, levels=None
        ),
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
    """All features as of one class, which makes it the most work."""
    centers, queries = of_one_class(subject, images), of_one_class(subject, others)
    ours = KDensity().fit(centers)
    bandwidth = ours.bandwidth_.item()
    theirs = KernelDensity(bandwidth=bandwidth).fit(centers.features.double().numpy())
    scores: dict[str, np.ndarray] = {}
    rows = compare(
        {
            "scikit-learn KernelDensity": lambda: theirs.score_samples(queries.features.double().numpy()),
            "facegm K-density": lambda: ours.score_samples(queries),
        },
        scores,
    )
    first, second = scores.values()
    difference = first - second + DIM * (np.log(bandwidth) + 0.5 * np.log(2 * np.pi))  # scores lack the constant
    return [
        {"centers": CENTERS, "queries": QUERIES, "largest_difference": f"{np.abs(difference).max():.1e}", **row}
        for row in rows
    ]


def of_one_class(subject: Subject, images: Tensor) -> Observations:
    features = observe(subject, images).features
    return Observations(
        features=features,
        logits=torch.zeros(len(features), 1),
        labels=torch.zeros(len(features), dtype=torch.int64),
    )


def compare(ways: dict[str, Callable[[], object]], results: dict[str, object]) -> list[dict[str, object]]:
    """Time two ways, the other library's first; `results` keeps what each has come to."""

    def kept(name: str, way: Callable[[], object]) -> None:
        results[name] = way()

    rows = measure({name: partial(kept, name, way) for name, way in ways.items()}, runs=RUNS, clock=processor_seconds)
    return [{"times_faster": round(1 / float(str(row["ratio_to_first"])), 2), **row} for row in rows]


def processor_seconds(way: Callable[[], object]) -> float:
    start = time.process_time()
    way()
    return time.process_time() - start


if __name__ == "__main__":
    main()

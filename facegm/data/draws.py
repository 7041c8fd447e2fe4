"""Which samples a step trains on: a function of seed and step alone; and their loading.

Every rank draws the whole global batch and takes its part, so that one process and many see the same data, and a
resumed run goes on as if it had never stopped.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64
from torch.utils.data import DataLoader, Dataset, Sampler

from facegm.data.samples import Batch, DrawnSamples, Samples
from facegm.data.workers import ended_workers, named_worker_failures, start_worker
from facegm.errors import FacegmError


@dataclass(frozen=True, kw_only=True)
class DrawPlan:
    """The numbers that the order of a run's samples follows from."""

    labels: Int64[np.ndarray, " samples"] = field(repr=False)
    """Class of each sample of the data set, 0 to classes - 1; of a face, its identity."""
    batch_size: int
    """Samples in a step, over all processes."""
    epochs: float
    seed: int
    balanced: bool = False
    """Draw all classes equally often, however many samples each has."""

    def __post_init__(self) -> None:
        if len(self.labels) < self.batch_size:
            raise FacegmError(
                f"{len(self.labels)} images do not fill one batch of {self.batch_size}; "
                "lower train.batch_size or add images"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the rest of the shuffled samples is left out, others in each epoch."""
        return len(self.labels) // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run, one at least."""
        return max(1, round(self.epochs * self.steps_per_epoch))


class StepSampler(Sampler[DrawnSamples]):
    """This process's part of each step's samples and their augmentation, from a first step to the last of the run.

    Args:
        plan: the run's numbers.
        samples: the data set, which draws the augmentation.
        first_step: where to begin, counted from 0.
        rank: this process.
        world_size: number of processes; the batch size is a multiple of it.
    """

    def __init__(
        self, plan: DrawPlan, samples: Samples, *, first_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if plan.batch_size % world_size:
            raise FacegmError(f"train.batch_size: {plan.batch_size} does not divide among {world_size} processes")
        self._plan, self._samples, self._first_step = plan, samples, first_step
        self._mine = slice(rank * plan.batch_size // world_size, (rank + 1) * plan.batch_size // world_size)

    def __len__(self) -> int:
        return self._plan.steps - self._first_step

    def __iter__(self) -> Iterator[DrawnSamples]:
        plan = self._plan
        order, order_epoch = np.empty(0, np.int64), -1
        for step in range(self._first_step, plan.steps):
            epoch = step // plan.steps_per_epoch
            if epoch != order_epoch:
                order, order_epoch = _order(plan, epoch), epoch
            numbers = _batch(plan, order, step)
            draws = self._samples.draw(numbers, np.random.default_rng([plan.seed, 1, step]))
            mine = type(draws)(*(column[self._mine] for column in draws)) if draws else ()
            yield DrawnSamples(numbers[self._mine], mine)


class EvaluationSampler(Sampler[DrawnSamples]):
    """This process's batches of an evaluation: every `world_size`-th of the data set in its order, without chance."""

    def __init__(self, samples: Samples, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self._samples, self._size = samples, batch_size
        self._starts = range(rank * batch_size, len(samples), world_size * batch_size)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[DrawnSamples]:
        for start in self._starts:
            numbers = np.arange(start, min(start + self._size, len(self._samples)))
            yield DrawnSamples(numbers, self._samples.draw(numbers, None))


def samples_of_step(plan: DrawPlan, step: int) -> Int64[np.ndarray, " batch"]:
    """Numbers of the samples that all processes together train on in a step, counted from 0."""
    return _batch(plan, _order(plan, step // plan.steps_per_epoch), step)


def load(
    samples: Samples, sampler: Iterable[DrawnSamples], *, workers: int, pin_memory: bool = False
) -> Generator[Batch, None, None]:
    """Batches in the order of a sampler; to be closed where not all of them are taken.

    Args:
        samples: the data set.
        sampler: which samples, a batch at a time.
        workers: processes that read and decode ahead, each on one core, where there is something to decode; 0 for none
            but this one.
        pin_memory: whether batches are to lie where a GPU can fetch them while the host goes on.

    Raises:
        FacegmError: an image is missing or damaged, or a worker has died or has no room for its batches.
    """
    loader: DataLoader[Batch | FacegmError] = DataLoader(
        _Answers(samples),
        batch_size=None,  # the sampler's items are whole batches
        sampler=sampler,
        num_workers=0 if samples.is_in_memory else workers,
        worker_init_fn=start_worker,
        pin_memory=pin_memory,
    )
    with named_worker_failures(has_workers=loader.num_workers > 0), ended_workers(loader) as answers:
        for answer in answers:
            if isinstance(answer, FacegmError):
                raise answer
            yield answer


class _Answers(Dataset["Batch | FacegmError"]):
    """Batches, or what is wrong with them in place of an exception, to which a worker would add its trace."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, drawn: DrawnSamples) -> Batch | FacegmError:
        try:
            return self._samples[drawn]
        except FacegmError as error:
            return error


def _batch(plan: DrawPlan, order: Int64[np.ndarray, " samples"], step: int) -> Int64[np.ndarray, " batch"]:
    """The samples of a step, from the order of its epoch."""
    return order[step % plan.steps_per_epoch * plan.batch_size :][: plan.batch_size]


def _order(plan: DrawPlan, epoch: int) -> Int64[np.ndarray, " samples"]:
    """The samples of an epoch in the order in which they are trained on."""
    rng = np.random.default_rng([plan.seed, 0, epoch])
    order = rng.permutation(len(plan.labels))
    return _balanced(plan.labels, order, rng) if plan.balanced else order


def _balanced(
    labels: Int64[np.ndarray, " samples"], order: Int64[np.ndarray, " samples"], rng: np.random.Generator
) -> Int64[np.ndarray, " samples"]:
    """As many samples, all classes in every round; of each its samples in their shuffled order, again and again."""
    counts = np.bincount(labels)
    classes = np.flatnonzero(counts)
    rounds = -(-len(labels) // len(classes))
    drawn = np.concatenate([rng.permutation(classes) for _ in range(rounds)])
    turn = np.repeat(np.arange(rounds), len(classes))
    by_class = order[np.argsort(labels[order], kind="stable")]
    first = np.cumsum(counts) - counts
    return np.asarray(by_class[first[drawn] + turn % counts[drawn]][: len(labels)])

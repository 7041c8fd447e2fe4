"""Loads each step's batch, by worker processes where images are decoded anew."""

import signal

import cv2
from torch.utils.data import DataLoader, Dataset

from facegm.data.batch import Batch
from facegm.data.draws import StepSampler


def load_steps(
    samples: Dataset[Batch], sampler: StepSampler, *, workers: int, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Batches in the order of a sampler.

    Args:
        samples: gives a batch for the draws of a step.
        sampler: the steps.
        workers: processes that read and decode ahead, each on one core; 0 for none but this one.
        pin_memory: whether batches are to lie where a GPU can fetch them while the host goes on.
    """
    return DataLoader(
        samples,
        batch_size=None,  # the sampler's items are whole batches
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
    )


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers share the processors among themselves
    # A signal to all processes of a group is the main one's to act on, which needs its workers for one step more.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

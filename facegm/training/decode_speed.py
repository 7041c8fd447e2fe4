"""How fast the faces of a data set are read and decoded."""

import time
import warnings

import cv2
import torch

from facegm.data.draws import DrawPlan, StepSampler
from facegm.data.loader import load_steps
from facegm.data.random_faces import AnyFaces
from facegm.training import stopwatch


def decode_seconds(faces: AnyFaces, plan: DrawPlan, workers: int) -> tuple[float, float]:
    """Time to read and decode a face: in this process on one core, and by so many worker processes together."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    draws = iter(StepSampler(plan))
    one_core = stopwatch.median_seconds(lambda _: faces[next(draws)], torch.device("cpu")) / plan.batch_size
    cv2.setNumThreads(threads)
    if workers == 0:
        return one_core, one_core
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than cores: to be measured
        batches = iter(load_steps(faces, StepSampler(plan), workers=workers))
    for _ in range(2 * workers):  # so many are prepared while nobody waits
        next(batches)
    start, count = time.perf_counter(), 0
    while count < stopwatch.REPEATS or time.perf_counter() < start + stopwatch.SECONDS:
        next(batches)
        count += 1
    return one_core, (time.perf_counter() - start) / (count * plan.batch_size)

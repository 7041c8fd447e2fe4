"""A whole step as one CUDA graph: for small networks, whose kernels take less time than their launch by the host."""

from collections.abc import Callable

import torch
from torch import Tensor

from facegm.data.samples import Batch
from facegm.errors import FacegmError
from facegm.schedule import Progress

Watch = Callable[[Tensor], None]
Step = Callable[[Batch, Progress, Watch], dict[str, Tensor]]
EAGER_STEPS = 3
"""Steps that are taken before one is captured, in which memory is allocated and algorithms are chosen."""


class CapturedStep:
    """Takes steps by replaying a graph of one.

    The learning rate lies on the device and may change. What else the host decides in a step, such as the margin in
    its warm-up, is part of the graph: while that changes, steps are taken as they are; when it has settled, a step is
    captured. So with L-Softmax, which changes to the end, nothing is gained.

    Args:
        step: takes a step; with `Watch` called neither more nor less often than once.
        settings: what a step leaves to the host at a point of the run.
    """

    def __init__(self, step: Step, settings: Callable[[Progress], dict[str, float]]) -> None:
        self._step, self._settings = step, settings
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured_settings: dict[str, float] = {}
        self._eager_steps = 0
        self._batch: Batch | None = None
        self._terms: dict[str, Tensor] = {}

    def __call__(self, batch: Batch, progress: Progress, watch: Watch) -> dict[str, Tensor]:
        """Take a step.

        Raises:
            FacegmError: the step holds what cannot be captured.
        """
        settings = self._settings(progress)
        if settings != self._captured_settings:
            self._graph, self._captured_settings, self._eager_steps = None, settings, 0
        if self._graph is None and self._eager_steps < EAGER_STEPS:
            self._eager_steps += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                terms = self._step(batch, progress, watch)
            torch.cuda.current_stream().wait_stream(self._stream)
            return terms
        if self._graph is None:
            self._capture(batch, progress)
        assert self._graph is not None
        assert self._batch is not None
        _copy(self._batch, batch)
        self._graph.replay()
        watch(self._terms["gradient_norm"])
        return self._terms

    def _capture(self, batch: Batch, progress: Progress) -> None:
        self._batch = batch.map(Tensor.clone)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._terms = self._step(self._batch, progress, lambda _: None)
        except RuntimeError as error:
            raise FacegmError(f"train.capture: this step cannot be captured ({error}); set it to false") from error


def _copy(to: Batch, source: Batch) -> None:
    for tensor, value in zip(_tensors(to), _tensors(source), strict=True):
        tensor.copy_(value, non_blocking=True)


def _tensors(batch: Batch) -> tuple[Tensor, ...]:
    return (batch.images, batch.labels, *batch.draws)

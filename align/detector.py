"""MTCNN face detection (Zhang et al. 2016) on batches of photos, with facenet-pytorch's weights and its results."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from facenet_pytorch.models.utils.detect_face import nms_numpy
from jaxtyping import Float, Int, UInt8

from facegm.align.area import CHANNELS, AreaSampler
from facegm.align.networks import NetworkName, Networks, Runtime, load_runtime, normalize
from facegm.align.proposals import (
    MINIMUM_FACE,
    PROPOSAL_THRESHOLD,
    Boxes,
    by_group,
    inside,
    is_filled,
    propose,
    shifted,
    squared,
    suppressed,
)

REFINEMENT_THRESHOLD, FINAL_THRESHOLD = 0.7, 0.7
STAGE_THRESHOLDS = (PROPOSAL_THRESHOLD, REFINEMENT_THRESHOLD, FINAL_THRESHOLD)
OVERLAP = 0.7
"""Largest overlap of two boxes that both stay."""
REFINEMENT_SIDE, FINAL_SIDE = 24, 48


@dataclass(frozen=True, kw_only=True)
class DetectedFaces:
    """The faces of one photo, in the detector's order; coordinates in pixels of the photo."""

    boxes: Float[np.ndarray, "faces 4"]
    """Left, top, right, bottom."""
    probabilities: Float[np.ndarray, " faces"]
    landmarks: Float[np.ndarray, "faces 5 2"]
    """Left eye, right eye, nose, left and right mouth corner as (x, y)."""

    def __len__(self) -> int:
        return len(self.boxes)


class FaceDetector:
    """MTCNN, equal to facenet-pytorch's `MTCNN(keep_all=True).detect`, for photos of any sizes together.

    What the networks see is the same to the last bit; what they make of it differs by the rounding of products in
    another order, which moves boxes by less than a thousandth of a pixel, and very rarely a box across a threshold.

    Args:
        runtime: what computes the networks.
        minimum_face: smallest face looked for, in pixels: facenet-pytorch's `min_face_size`.
        gpu: number of the GPU that does, where one does.

    Raises:
        FacegmError: the runtime is not installed.
    """

    def __init__(self, runtime: Runtime = "cpu", *, minimum_face: int = MINIMUM_FACE, gpu: int = 0) -> None:
        self._networks: Networks = load_runtime(runtime, gpu)
        self._minimum_face = minimum_face

    def detect(self, photo: UInt8[np.ndarray, "height width 3"]) -> DetectedFaces:
        """Find all faces of an upright RGB photo, 0 to 255; no face is an empty result, not an error."""
        return self.detect_batch([photo])[0]

    def detect_batch(self, photos: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[DetectedFaces]:
        """Find all faces of upright RGB photos, 0 to 255, of any sizes."""
        samplers = [AreaSampler(photo) for photo in photos]
        boxes, owners = propose(self._networks, samplers, self._minimum_face)
        boxes, owners = self._refined(samplers, boxes, owners)
        boxes, scores, landmarks, owners = self._finished(samplers, boxes, owners)
        faces = [np.empty(0, np.int64)] * len(photos)
        for group in by_group(owners):
            kept = nms_numpy(boxes[group], scores[group], OVERLAP, "Min").astype(np.int64)
            faces[owners[group[0]]] = group[kept]
        return [
            DetectedFaces(
                boxes=boxes[of_photo].astype(np.float64),
                probabilities=scores[of_photo].astype(np.float64),
                landmarks=landmarks[of_photo].astype(np.float64),
            )
            for of_photo in faces
        ]

    def _refined(
        self, samplers: Sequence[AreaSampler], boxes: Boxes, owners: Int[np.ndarray, " boxes"]
    ) -> tuple[Boxes, Int[np.ndarray, " kept"]]:
        """R-Net's stage: boxes that look like a face on 24x24 pixels, moved to it."""
        boxes, owners, rectangles = _filled(samplers, boxes, owners)
        if not len(boxes):
            return boxes, owners
        probabilities, offsets = self._run("rnet", samplers, rectangles, owners, REFINEMENT_SIDE)
        scores = probabilities[:, 1]
        likely = np.flatnonzero(scores > np.float32(REFINEMENT_THRESHOLD))
        groups = [likely[group] for group in by_group(owners[likely])]
        best = [group[suppressed(boxes[group], scores[group], OVERLAP)] for group in groups]
        kept = np.concatenate([np.empty(0, np.int64), *best])
        return squared(shifted(boxes[kept], offsets[kept])), owners[kept]

    def _finished(
        self, samplers: Sequence[AreaSampler], boxes: Boxes, owners: Int[np.ndarray, " boxes"]
    ) -> tuple[Boxes, np.ndarray, np.ndarray, Int[np.ndarray, " kept"]]:
        """O-Net's stage: boxes that are a face on 48x48 pixels, with probabilities and landmarks."""
        boxes, owners, rectangles = _filled(samplers, boxes, owners)
        if not len(boxes):
            return boxes, np.empty(0, np.float32), np.empty((0, 5, 2), np.float32), owners
        probabilities, offsets, points = self._run("onet", samplers, rectangles, owners, FINAL_SIDE)
        scores = probabilities[:, 1]
        kept = np.flatnonzero(scores > np.float32(FINAL_THRESHOLD))
        boxes, points = boxes[kept], points[kept].reshape(-1, 2, 5).transpose(0, 2, 1)
        sides = (boxes[:, 2:] - boxes[:, :2] + np.float32(1))[:, None]
        landmarks = sides * points + boxes[:, None, :2] - np.float32(1)
        return shifted(boxes, offsets[kept]), scores[kept], landmarks, owners[kept]

    def _run(
        self,
        name: NetworkName,
        samplers: Sequence[AreaSampler],
        rectangles: Int[np.ndarray, "boxes 4"],
        owners: Int[np.ndarray, " boxes"],
        side: int,
    ) -> list[np.ndarray]:
        """A network's outputs for rectangles of the photos, resized to squares."""
        most = max(1, self._networks.most // (side * side * CHANNELS))
        outputs = []
        for start in range(0, len(rectangles), most):
            part = slice(start, start + most)
            images = np.empty((len(rectangles[part]), side, side, CHANNELS), np.float32)
            for group in by_group(owners[part]):
                samplers[owners[part][group[0]]].crop(rectangles[part][group], images[group[0] : group[-1] + 1])
            outputs.append(self._networks.run(name, normalize(images)))
        return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


def _filled(
    samplers: Sequence[AreaSampler], boxes: Boxes, owners: Int[np.ndarray, " boxes"]
) -> tuple[Boxes, Int[np.ndarray, " filled"], Int[np.ndarray, "filled 4"]]:
    """The boxes that hold a pixel of their photo, their photos, and the pixels that they hold."""
    sizes = np.array([sampler.size for sampler in samplers], np.int64).reshape(-1, 2)
    rectangles = inside(boxes, sizes[owners])
    filled = is_filled(rectangles)
    return boxes[filled], owners[filled], rectangles[filled]

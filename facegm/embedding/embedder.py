"""Photo in, embedding out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from facegm.align.detector import FaceDetector
from facegm.align.face import FACE_SIZE, TEMPLATE, align_face
from facegm.data.ahead import done_ahead
from facegm.data.decoding import read_photo
from facegm.data.preprocessing import PIXEL_CENTER, PIXEL_SCALE, Preprocessing
from facegm.data.progress import Progress
from facegm.data.readers.photo import UnreadablePhotoError
from facegm.data.weights import digest_of
from facegm.embedding.calibration import Calibration
from facegm.embedding.contract import EmbeddingContract, preprocessing_digest
from facegm.embedding.engine import Engine, best_batch, engine_class
from facegm.embedding.model_file import embedder_file, load_embedder, read_calibration
from facegm.embedding.network import embed_crops
from facegm.errors import FacegmError
from facegm.models.face_base import FaceNetwork

PhotoLike = str | Path | UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of two photos."""

    distance: float
    """L2 distance (not squared) of the normalised embeddings, 0 to 2."""
    same: bool | None
    """Whether the distance is below the threshold; None where no threshold was given."""
    probability: float | None
    """That both photos show one person, at the given prior; None where the embedder has not been calibrated."""


class FaceEmbedder:
    """Finds, aligns and embeds the face of a photo, as the network was trained to see it.

    Example:
        >>> embedder = FaceEmbedder.load("runs/casia")  # doctest: +SKIP
        >>> embedder.embed(["ann.jpg", "bob.jpg"]).shape  # doctest: +SKIP
        (2, 512)
    """

    def __init__(
        self, network: FaceNetwork, preprocessing: Preprocessing, calibration: Calibration | None = None
    ) -> None:
        self._network, self._preprocessing, self._calibration = network, preprocessing, calibration
        self._detector: FaceDetector | None = None
        self._engine: Engine | None = None
        self._faces = 0
        self._contract: EmbeddingContract | None = None

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu") -> "FaceEmbedder":
        """Load an exported embedder.

        Args:
            path: an `embedder.safetensors`, or the folder of a finished run.
            device: where the network runs.

        Raises:
            FacegmError: no such model, a damaged file, or faces aligned in another way than this version does.
        """
        file = embedder_file(Path(path))
        network, preprocessing, alignment = load_embedder(file)
        if alignment.get("size") != FACE_SIZE or alignment.get("template") != TEMPLATE.tolist():
            raise FacegmError(f"{file}: trained on faces of another alignment template than this facegm's")
        return cls(network.to(device), preprocessing, read_calibration(file))

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._network.embedding_dim

    @property
    def contract(self) -> EmbeddingContract:
        """Whose embeddings may be compared with this embedder's; made of the weights when it is first asked for."""
        if self._contract is None:
            prepared = {
                "preprocessing": asdict(self._preprocessing),
                "pixels": {"color": "RGB", "center": PIXEL_CENTER, "scale": PIXEL_SCALE},
                "alignment": {"size": FACE_SIZE, "template": TEMPLATE.tolist()},
            }
            self._contract = EmbeddingContract(
                weights=digest_of(self._network.state_dict()),
                preprocessing=preprocessing_digest(prepared),
                dim=self.dim,
            )
        return self._contract

    @property
    def calibration(self) -> Calibration | None:
        """What distances mean, as measured on a set of pairs; None where the embedder has not been calibrated."""
        return self._calibration

    @property
    def is_mirrored(self) -> bool:
        """Whether an embedding is that of the face plus that of its mirror image."""
        return self._preprocessing.mirror

    def describe(self) -> str:
        """One line on the network and how it sees faces, for reports."""
        parameters = sum(parameter.numel() for parameter in self._network.parameters())
        p = self._preprocessing
        return (
            f"{self._network.label}, {parameters:,} parameters, {self.dim} dimensions, {p.crop_size}x{p.crop_size} "
            f"pixels of {p.face_size}x{p.face_size}, mirror: {'sum' if p.mirror else 'none'}"
        )

    def embed(
        self, photos: Sequence[PhotoLike], *, on_missing: Literal["raise", "center-crop"] = "raise"
    ) -> Float[np.ndarray, "photos dim"]:
        """Embed the largest central face of each photo; the embeddings have unit L2 norm.

        Args:
            photos: paths, or upright RGB arrays of 0 to 255.
            on_missing: where no face is found, raise, or embed the middle of the photo.

        Raises:
            FacegmError: unreadable photos, or photos without a face, all of them named.
            TypeError: one photo in place of a list.
        """
        if isinstance(photos, str | Path | np.ndarray):
            raise TypeError("embed takes a list of photos; put a single one in brackets")
        faces, troubles = [], []
        for number, photo in enumerate(photos):
            name = f"photo {number}" if isinstance(photo, np.ndarray) else str(photo)
            try:
                faces.append(self._align(photo, on_missing == "center-crop"))
            except UnreadablePhotoError as error:
                troubles.append(f"{name}: {error}")
        if troubles:
            raise FacegmError("\n".join(troubles))
        return normalised(self.embed_aligned(faces))

    def embed_aligned(
        self, faces: Sequence[UInt8[np.ndarray, "side side 3"]], *, progress: bool = False
    ) -> Float[np.ndarray, "faces dim"]:
        """Embed faces that are aligned already (RGB, 0 to 255); mirror-summed, not normalised.

        The next faces are taken from the sequence, in another thread, while the last ones are embedded, so it may well
        read them from a disk when they are asked for.
        """
        engine, size = self._engine_for(len(faces)), best_batch(self._network)
        parts = [range(start, min(start + size, len(faces))) for start in range(0, len(faces), size)]
        embeddings = np.empty((len(faces), self.dim), np.float32)

        def crops(part: range) -> UInt8[np.ndarray, "batch crop crop 3"]:
            return self._preprocessing.middle_crops(faces[number] for number in part)

        with Progress("embed", len(faces), "faces", is_shown=progress) as shown:
            for part, batch in zip(parts, done_ahead([partial(crops, part) for part in parts]), strict=True):
                embeddings[part.start : part.stop] = embed_crops(
                    engine, batch, mirror=self._preprocessing.mirror, device=self._device
                )
                shown.update(len(part))
        return embeddings

    @property
    def _device(self) -> torch.device:
        return next(self._network.parameters()).device

    def _engine_for(self, faces: int) -> Engine:
        """What embeds so many more faces; once many were embedded, also a few."""
        self._faces += faces
        fastest = engine_class(self._network, self._faces)
        if not isinstance(self._engine, fastest):
            self._engine = fastest(self._network)
        return self._engine

    def embed_sides(
        self, faces: UInt8[np.ndarray, "faces side side 3"]
    ) -> tuple[Float[np.ndarray, "faces dim"], Float[np.ndarray, "faces dim"]]:
        """Embed some aligned faces (RGB, 0 to 255) and their mirror images, apart; not normalised."""
        engine, crops = self._engine_for(len(faces)), self._preprocessing.middle_crops(faces)
        face, mirrored = (
            embed_crops(engine, side, mirror=False, device=self._device)
            for side in (crops, np.ascontiguousarray(crops[:, :, ::-1]))
        )
        return face, mirrored

    def verify(
        self,
        photo_a: PhotoLike,
        photo_b: PhotoLike,
        *,
        threshold: float | None = None,
        false_match_rate: float | None = None,
        prior: float = 0.5,
    ) -> Comparison:
        """Compare the faces of two photos.

        Args:
            photo_a: path, or upright RGB array of 0 to 255.
            photo_b: the other.
            threshold: distance below which two photos count as the same person's; the report of
                `facegm verify-lfw` names one under "no PCA".
            false_match_rate: in place of a threshold, one of the rates that the embedder's calibration has one for.
            prior: probability that two photos show one person, before they are looked at.

        Raises:
            FacegmError: an unreadable photo, or one without a face; a threshold and a false-match rate, or a rate that
                was not measured.
        """
        if false_match_rate is not None:
            if threshold is not None:
                raise FacegmError("verify takes a threshold or a false-match rate, not both")
            if self._calibration is None:
                raise FacegmError("false-match rate: this embedder has not been calibrated; give a threshold")
            threshold = self._calibration.threshold_at(false_match_rate)
        a, b = self.embed([photo_a, photo_b])
        distance = float(np.linalg.norm(a - b))
        return Comparison(
            distance=distance,
            same=None if threshold is None else distance < threshold,
            probability=None if self._calibration is None else self._calibration.probability(distance, prior=prior),
        )

    def _align(self, photo: PhotoLike, crop_when_missing: bool) -> UInt8[np.ndarray, "128 128 3"]:
        if self._detector is None:
            self._detector = FaceDetector()
        pixels = _checked(photo) if isinstance(photo, np.ndarray) else read_photo(Path(photo))
        aligned = align_face(pixels, self._detector.detect(pixels), crop_when_missing=crop_when_missing)
        if aligned.image is None:
            raise UnreadablePhotoError(f"{aligned.reason}; on_missing='center-crop' embeds the middle of the photo")
        return aligned.image


def normalised(embeddings: Float[np.ndarray, "photos dim"]) -> Float[np.ndarray, "photos dim"]:
    """Scale embeddings to unit L2 norm."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, np.finfo(np.float32).tiny))


def _checked(photo: np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise UnreadablePhotoError(
            f"array of {photo.dtype} and shape {photo.shape}; expected uint8 RGB [height, width, 3]"
        )
    return photo

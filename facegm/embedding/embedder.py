"""Photos in, faces and their embeddings out."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, compress, islice
from pathlib import Path
from typing import Literal, TypeVar, get_args, overload

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8

from facegm.align.detector import FaceDetector
from facegm.align.face import center_crop
from facegm.align.finder import FaceFinder, batches, decoded_ahead, is_alone
from facegm.align.found_face import Face
from facegm.align.networks import Runtime
from facegm.data.ahead import done_together
from facegm.embedding.aligned_embedder import AlignedFaceEmbedder, usable_embeddings, with_unit_length
from facegm.embedding.calibration import Calibration
from facegm.embedding.comparison import SAME_TO_ROUNDING, Comparison, FacePolicy, chosen_face, compared
from facegm.embedding.embedding_network import EmbeddingNetwork
from facegm.embedding.likelihood import ClassLikelihood, with_likelihood
from facegm.embedding.model_device import device_of_model
from facegm.embedding.model_file import embedder_file, read_calibration, read_likelihood
from facegm.embedding.onnx_file import OnnxFile, is_onnx
from facegm.embedding.onnx_model import load_onnx
from facegm.embedding.onnx_preprocessing import OnnxPreprocessing
from facegm.embedding.photo_faces import UNUSABLE, PhotoFaces, chosen_faces, find_faces
from facegm.embedding.photos import Color, OpenedPhoto, PhotoLike, open_photo, opened
from facegm.embedding.processes import OncePerProcess, compute_alone
from facegm.embedding.trained_network import TrainedNetwork
from facegm.errors import FacegmError, UsageError

logger = logging.getLogger(__name__)

MAX_BATCHES = 8
"""Batches that go through the networks at a time at most, so that memory is bounded."""
Value = TypeVar("Value")
OnMissing = Literal["raise", "center-crop", "skip"]
"""What `embed` does where a photo has no face."""
_NO_FACE = "no face found; on_missing='center-crop' embeds the middle of the photo, 'skip' leaves the photo out"


class FaceEmbedder(AlignedFaceEmbedder):
    """Finds, aligns and embeds the faces of photos, as the network was trained to see them.

    Threads may share one. A process that was forked, or that a pickled embedder was sent to, goes on with its own
    detector and engine.

    Example:
        >>> embedder = FaceEmbedder.load("runs/casia")  # doctest: +SKIP
        >>> embedder.embed(["ann.jpg", "bob.jpg"]).shape  # doctest: +SKIP
        (2, 512)
    """

    def __init__(
        self,
        network: EmbeddingNetwork,
        calibration: Calibration | None = None,
        likelihood: ClassLikelihood | None = None,
        *,
        detector: Runtime | None = None,
        expected: int | None = None,
    ) -> None:
        self._calibration, self._likelihood, self._detector = calibration, likelihood, detector
        super().__init__(network, expected=expected)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "auto",
        preprocessing: OnnxPreprocessing | str | None = None,
        detector: Runtime | None = None,
        expected: int | None = None,
        false_alarm_rate: float | None = None,
    ) -> "FaceEmbedder":
        """Load an exported embedder, or any model that makes embeddings of faces.

        Args:
            path: an `embedder.safetensors`, the folder of a finished run, or an ONNX model.
            device: where networks run; "auto" takes a GPU where torch sees one, else the CPU, and logs which and why.
            preprocessing: of an ONNX model that does not describe itself: `"insightface"`, or settings.
            false_alarm_rate: at which `Face.is_abnormal` is said; None for 0.01, or of a small calibration set the
                smallest rate that it has a threshold for.
            detector: what computes the detector; None for the device.
            expected: faces that are going to be embedded, which decides what embeds them from the first on; None to
                decide when many have come.

        Raises:
            FacegmError: no such model, a damaged file, faces aligned in another way than this version does, a device
                that is not here, or a false-alarm rate that was not measured.
        """
        file = embedder_file(Path(path))
        there = device_of_model(file, device)
        if is_onnx(file):
            onnx = OnnxFile.read(file)
            network: EmbeddingNetwork = load_onnx(onnx, preprocessing=preprocessing, device=there)
            calibration, likelihood = read_calibration(onnx), read_likelihood(onnx, false_alarm_rate)
            onnx.forget_model()
        elif preprocessing is not None:
            raise FacegmError(f"{file}: says itself how faces are prepared for it; leave the preprocessing out")
        else:
            network = TrainedNetwork.load(file, there)
            calibration, likelihood = read_calibration(file), read_likelihood(file, false_alarm_rate)
        return cls(network, calibration, likelihood, detector=detector, expected=expected)

    @property
    def calibration(self) -> Calibration | None:
        """What distances mean, as measured on a set of pairs; None where the embedder has not been calibrated."""
        return self._calibration

    @property
    def likelihood(self) -> ClassLikelihood | None:
        """How likely faces are under the classes of the training; None where the embedder carries no class means."""
        return self._likelihood

    def find(
        self, photo: PhotoLike, *, color: Color | None = None, policy: FacePolicy | Literal["all"] = "all"
    ) -> list[Face]:
        """Find, align and embed the faces of a photo.

        Args:
            photo: see `PhotoLike`.
            color: order of the channels, where the photo is an array of them.
            policy: all faces, or which of several.

        Returns:
            The faces, the largest central one first; with "all" perhaps none, which is no failure.

        Raises:
            RefusedPhotoError: the photo cannot be read, or under a policy has no face or too many; it is an
                `UnreadablePhotoError`, whose `reason` is for programs.
        """
        [found] = find_faces(self._finder.get(), [open_photo(photo, color)])
        found.require_readable()
        faces = found.faces if policy == "all" else (found.faces[chosen_face(found.faces, policy)],)
        return self._embedded(faces)

    def find_batch(
        self,
        photos: Iterable[PhotoLike],
        *,
        color: Color | None = None,
        policy: FacePolicy | Literal["all"] = "all",
        max_faces: int | None = None,
        formats: Sequence[str] | None = None,
    ) -> Iterator[PhotoFaces]:
        """Find, align and embed the faces of photos, which go through the networks together.

        Photos are taken as they are needed, so that there may be any number of them; a thread decodes the next ones in
        the meantime.

        Args:
            photos: see `PhotoLike`; or one array [photos, height, width, channels].
            color: order of the channels, where photos are arrays of them.
            policy: all faces, or which of several.
            max_faces: of a photo with more faces none is embedded, and the reason said; None for no bound.
            formats: Pillow's names of those that files may have, such as "JPEG"; None for all that it knows.

        Yields:
            What each photo shows, in their order; of one that cannot be read, or under a policy has no face or too
            many, or a face whose embedding says nothing, the reason.

        Raises:
            FacegmError: the embeddings of all of several faces that went through the network together say nothing.
            TypeError: one photo in place of several.
        """
        work = partial(self._look_at, policy=policy, max_faces=max_faces)
        return (photo for batch in self._in_batches(work, batches(opened(photos, color, formats))) for photo in batch)

    def find_groups(
        self, groups: Iterable[Sequence[PhotoLike]], *, policy: FacePolicy | Literal["all"] = "all"
    ) -> Iterator[PhotoFaces]:
        """Find, align and embed the faces of groups of photos, of which none shares a product with another group's.

        Products are rounded according to the sizes of their factors, so that a group's numbers do not depend on what
        is done before or after it; its first photos are decoded while the group before it is looked at.

        Args:
            groups: of photos, see `PhotoLike`.
            policy: all faces, or which of several.

        Yields:
            See `find_batch`; one photo after the other, across the groups.
        """
        work = partial(self._look_at, policy=policy, max_faces=None)
        cut = chain.from_iterable(batches(opened(group, None)) for group in groups)
        return (photo for batch in self._in_batches(work, cut) for photo in batch)

    @overload
    def embed(
        self,
        photos: Iterable[PhotoLike],
        *,
        color: Color | None = None,
        on_missing: Literal["raise", "center-crop"] = "raise",
    ) -> Float32[np.ndarray, "photos dim"]: ...

    @overload
    def embed(
        self, photos: Iterable[PhotoLike], *, color: Color | None = None, on_missing: Literal["skip"]
    ) -> tuple[Float32[np.ndarray, "found dim"], Bool[np.ndarray, " photos"]]: ...

    def embed(
        self, photos: Iterable[PhotoLike], *, color: Color | None = None, on_missing: OnMissing = "raise"
    ) -> Float32[np.ndarray, "photos dim"] | tuple[Float32[np.ndarray, "found dim"], Bool[np.ndarray, " photos"]]:
        """Embed the largest central face of each photo; the embeddings have unit L2 norm.

        Args:
            photos: see `PhotoLike`; or one array [photos, height, width, channels].
            color: order of the channels, where photos are arrays of them.
            on_missing: where no face is found, raise, embed the middle of the photo, or skip the photo. A photo that
                cannot be read, or whose embedding says nothing, is skipped or raised too.

        Returns:
            The embeddings; with "skip" those of the photos that have one, and of each photo whether it has.

        Raises:
            FacegmError: unreadable photos, or photos without a face or a usable embedding, all of them named; or the
                embeddings of all of several faces that went through the network together say nothing.
            TypeError: one photo in place of several.
        """
        if on_missing not in get_args(OnMissing):
            raise UsageError(f"on_missing {on_missing!r}: take one of {', '.join(get_args(OnMissing))}")
        work = partial(self._embed_subjects, is_to_crop=on_missing == "center-crop")
        parts, troubles = [np.empty((0, self.dim), np.float32)], list[str | None]()
        for embeddings, troubles_of_batch in self._in_batches(work, batches(opened(photos, color))):
            parts.append(embeddings)
            troubles += troubles_of_batch
        missing = [trouble for trouble in troubles if trouble is not None]
        if on_missing != "skip":
            if missing:
                raise FacegmError("\n".join(missing))
            return np.concatenate(parts)
        if missing:
            logger.info(f"{len(missing)} of {len(troubles)} photos are skipped, the first: {missing[0]}")
        return np.concatenate(parts), np.array([trouble is None for trouble in troubles], bool)

    def verify(
        self,
        photo_a: PhotoLike,
        photo_b: PhotoLike,
        *,
        color: Color | None = None,
        threshold: float | None = None,
        false_match_rate: float | None = None,
        prior: float = 0.5,
        policy: FacePolicy = "largest-central",
    ) -> Comparison:
        """Compare the faces of two photos.

        Args:
            photo_a: see `PhotoLike`.
            photo_b: the other.
            color: order of the channels, where photos are arrays of them.
            threshold: distance below which two photos count as the same person's.
            false_match_rate: in place of a threshold, one of the rates that the embedder's calibration has one for; see
                `compare` for what is taken with neither.
            prior: probability that two photos show one person, before they are looked at.
            policy: which of several faces is meant.

        Raises:
            RefusedPhotoError: an unreadable photo, one without a face, or under the policy with too many.
            FacegmError: see `compare`.
        """
        found = find_faces(self._finder.get(), [*opened([photo_a, photo_b], color)])
        chosen = chosen_faces(found, policy)
        a, b = self._embedded([photo.faces[number] for photo, number in zip(found, chosen, strict=True)])
        return self.compare(a, b, threshold=threshold, false_match_rate=false_match_rate, prior=prior)

    def compare(
        self,
        face_a: Face,
        face_b: Face,
        *,
        threshold: float | None = None,
        false_match_rate: float | None = None,
        prior: float = 0.5,
    ) -> Comparison:
        """Compare two faces that this embedder has found.

        Args:
            face_a: with its embedding.
            face_b: the other.
            threshold: distance below which two faces count as the same person's.
            false_match_rate: in place of a threshold, one of the rates that the embedder's calibration has one for.
                With neither, the calibration's threshold of a rate of 0.001 is taken, or of the smallest one measured.
            prior: probability that two faces are of one person, before they are looked at.

        Raises:
            FacegmError: a face without an embedding; a network that embeds all faces alike; a threshold and a
                false-match rate, or a rate that was not measured.
        """
        if face_a.embedding is None or face_b.embedding is None:
            raise FacegmError("a face without an embedding; compare those that find or find_batch give")
        distance = float(np.linalg.norm(face_a.embedding.astype(np.float64) - face_b.embedding))
        if distance <= SAME_TO_ROUNDING:
            self._require_difference(face_a.chip)
        return compared(
            distance, self._calibration, threshold=threshold, false_match_rate=false_match_rate, prior=prior
        )

    def _in_batches(
        self, work: Callable[[list[OpenedPhoto]], Value], photos: Iterator[list[OpenedPhoto]]
    ) -> Iterator[Value]:
        """What work gives for photos that go through the networks together; on a CPU, on as many threads as torch has.

        Its own threads are of little use to small networks: batches side by side, on one each, are done sooner.
        """
        all_threads = torch.get_num_threads()
        threads = min(all_threads, MAX_BATCHES) if self._network.device.type == "cpu" else 1
        begin = partial(compute_alone, all_threads)
        return done_together(work, decoded_ahead(photos), threads=threads, is_alone=is_alone, begin=begin)

    def _look_at(
        self, photos: list[OpenedPhoto], *, policy: FacePolicy | Literal["all"], max_faces: int | None
    ) -> list[PhotoFaces]:
        """What photos show that go through the networks together."""
        found = find_faces(self._finder.get(), photos)
        if max_faces is not None:
            found = [photo.at_most(max_faces) for photo in found]
        if policy != "all":
            found = [photo.chosen(policy) for photo in found]
        faces = [face for photo in found for face in photo.faces]
        raw = self.embed_aligned([face.chip for face in faces])
        usable = usable_embeddings(raw)
        some = iter(self._with_embeddings([*compress(faces, usable)], raw[usable]))
        embedded = (next(some) if is_usable else None for is_usable in usable)
        return [photo.with_embedded([*islice(embedded, len(photo.faces))]) for photo in found]

    def _embed_subjects(
        self, photos: list[OpenedPhoto], *, is_to_crop: bool
    ) -> tuple[Float32[np.ndarray, "found dim"], list[str | None]]:
        """Embeddings of the photos that have one, of unit L2 norm; and of each photo why it has none, or None."""
        found = find_faces(self._finder.get(), photos)
        chips = [_subject(*both, is_to_crop=is_to_crop) for both in zip(photos, found, strict=True)]
        raw = self.embed_aligned([chip for chip in chips if chip is not None])
        usable = usable_embeddings(raw)
        is_usable, troubles = iter(usable), list[str | None]()
        for photo, chip in zip(found, chips, strict=True):
            trouble = photo.message or _NO_FACE if chip is None else None if next(is_usable) else UNUSABLE
            troubles.append(None if trouble is None else f"{photo.name}: {trouble}")
        return with_unit_length(raw[usable])[0], troubles

    def _embedded(self, faces: Sequence[Face]) -> list[Face]:
        """The same faces with their embeddings.

        Raises:
            FacegmError: some say nothing.
        """
        return self._with_embeddings(faces, self.embed_aligned([face.chip for face in faces]))

    def _with_embeddings(self, faces: Sequence[Face], raw: Float32[np.ndarray, "faces dim"]) -> list[Face]:
        """The same faces with these embeddings, and with their likelihoods where there are any."""
        if not faces:
            return []
        embeddings, norms = with_unit_length(raw)
        embedded = [
            replace(face, embedding=embedding, norm=float(norm))
            for face, embedding, norm in zip(faces, embeddings, norms, strict=True)
        ]
        return with_likelihood(embedded, raw, self._likelihood, is_mirrored=self.is_mirrored)

    def _require_difference(self, chip: UInt8[np.ndarray, "128 128 3"]) -> None:
        """Raise FacegmError where a face and its negative are embedded alike."""
        a, b = with_unit_length(self.embed_aligned([chip, 255 - chip]))[0]
        if np.linalg.norm(a - b) <= SAME_TO_ROUNDING:
            raise FacegmError(
                "embeddings: all faces have the same one, so they say nothing about identity; the model is untrained "
                "or has collapsed"
            )

    def _begin(self) -> None:
        super()._begin()
        device = self._network.device
        is_on_gpu, gpu = device.type == "cuda", device.index or 0
        detector: Runtime = self._detector or ("cuda" if is_on_gpu else "cpu")
        self._finder = OncePerProcess(lambda: FaceFinder(FaceDetector(detector, gpu=gpu)), is_on_gpu=is_on_gpu)


def _subject(photo: OpenedPhoto, found: PhotoFaces, *, is_to_crop: bool) -> UInt8[np.ndarray, "128 128 3"] | None:
    """The face of a photo that is embedded, or where there is none perhaps the photo's middle."""
    if found.faces:
        return found.faces[0].chip
    return center_crop(photo.pixels) if is_to_crop and found.reason is None and photo.pixels is not None else None

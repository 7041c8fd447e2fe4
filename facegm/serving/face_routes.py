"""The HTTP interface: what each address takes and answers."""

import base64
import io
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Form, Query, UploadFile
from jaxtyping import UInt8
from PIL import Image
from starlette.concurrency import run_in_threadpool

from facegm.embedding.comparison import FacePolicy
from facegm.embedding.photo_faces import PhotoFaces
from facegm.embedding.reasons import Reason
from facegm.errors import FacegmError
from facegm.serving.answers import HealthAnswer, ModelAnswer, PhotoAnswer, VerifyAnswer, documented
from facegm.serving.errors import OF_PHOTOS, RequestError
from facegm.serving.service import FaceService

Photo = Annotated[UploadFile, File(description="JPEG, PNG, WebP, GIF, BMP, TIFF, or where installed HEIC and AVIF")]
Chips = Annotated[bool, Query(description="the aligned faces too, as PNG in a `data:` address")]
Policy = Annotated[
    FacePolicy,
    Form(description="which face of several: `largest-central`, `largest`, or `only`, which refuses several"),
]
Prior = Annotated[float, Form(gt=0, lt=1, description="that it is one person, before the photos are seen")]
FalseMatchRate = Annotated[
    float | None, Form(gt=0, lt=1, description="whose threshold decides: one of those that `/v1/model` lists")
]
OF_CHOICE = (Reason.NO_FACE.value, Reason.SEVERAL_FACES.value)


def face_routes(service: FaceService) -> APIRouter:
    """What is asked of the embedder alone."""
    router = APIRouter(prefix="/v1")

    @router.get("/health", responses=documented([]), summary="Whether the server is there; needs no key")
    async def health() -> HealthAnswer:
        return HealthAnswer(status="ok")

    @router.get("/model", response_model=ModelAnswer, responses=documented([]), summary="The model and the limits")
    async def model() -> dict[str, Any]:
        calibration = service.embedder.calibration
        return {
            "description": service.embedder.describe(),
            "contract": service.embedder.contract.to_json(),
            "calibration": None if calibration is None else calibration.to_json(),
            "gallery": service.has_gallery,
            "limits": service.limits.to_json(),
        }

    @router.post(
        "/detect",
        response_model=PhotoAnswer,
        response_model_exclude_unset=True,
        responses=documented(OF_PHOTOS),
        summary="All faces of a photo; none is a success",
    )
    async def detect(photo: Photo, chips: Chips = False) -> dict[str, Any]:
        return await described(await service.look(photo, "photo"), chips=chips)

    @router.post(
        "/embed",
        response_model=PhotoAnswer,
        response_model_exclude_unset=True,
        responses=documented(OF_PHOTOS),
        summary="All faces of a photo, with their embeddings",
    )
    async def embed(photo: Photo, chips: Chips = False) -> dict[str, Any]:
        return await described(await service.look(photo, "photo"), chips=chips, with_embedding=True)

    @router.post(
        "/verify",
        response_model=VerifyAnswer,
        response_model_exclude_unset=True,
        responses=documented([*OF_PHOTOS, *OF_CHOICE]),
        summary="Whether two photos show one person",
    )
    async def verify(
        photo_a: Photo,
        photo_b: Photo,
        policy: Policy = "largest-central",
        prior: Prior = 0.5,
        false_match_rate: FalseMatchRate = None,
        chips: Chips = False,
    ) -> dict[str, Any]:
        a, b = await service.look_at_two((photo_a, "photo_a"), (photo_b, "photo_b"))
        chosen_a, chosen_b = service.choose(a, policy, "photo_a"), service.choose(b, policy, "photo_b")
        try:
            comparison = service.embedder.compare(
                a.faces[chosen_a], b.faces[chosen_b], false_match_rate=false_match_rate, prior=prior
            )
        except FacegmError as error:
            raise RequestError("bad-request", str(error)) from error
        return {
            "distance": comparison.distance,
            "same": comparison.same,
            "threshold": comparison.threshold,
            "probability": comparison.probability,
            "a": await described(a, chips=chips) | {"chosen": chosen_a},
            "b": await described(b, chips=chips) | {"chosen": chosen_b},
        }

    return router


async def described(photo: PhotoFaces, *, chips: bool, with_embedding: bool = False) -> dict[str, Any]:
    """A photo's faces as the interface has them."""
    width, height = photo.size or (0, 0)
    faces = [face.to_json(with_embedding=with_embedding) for face in photo.faces]
    if chips:
        for described_face, face in zip(faces, photo.faces, strict=True):
            described_face["chip"] = await run_in_threadpool(_png, face.chip)
    return {"width": width, "height": height, "faces": faces}


def _png(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")

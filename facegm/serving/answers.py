"""What the server answers, as its OpenAPI description says it."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from facegm.serving.errors import OF_ALL, STATUSES
from facegm.serving.limits import Limits

_FACE = {
    "box": [73.1, 65.2, 171.9, 195.4],
    "landmarks": [[101.2, 112.5], [146.0, 111.8], [125.3, 139.9], [105.6, 164.0], [143.1, 163.2]],
    "probability": 0.99987,
    "quality": {"residual": 2.31, "profile": 0.08, "sharpness": 214.7, "contrast": 52.9},
    "norm": 21.4,
    "likelihood": None,
    "is_abnormal": None,
}
_PHOTO = {"width": 250, "height": 250, "faces": [_FACE]}
_THRESHOLD = "of the false-match rate that was asked for, or of 0.001; null where the model has none"
_CHIP = "the aligned face, 128x128 pixels, as a `data:` address of a PNG; with `chips=true`"


def _example(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class ErrorAnswer(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="a stable code", json_schema_extra={"enum": list(STATUSES)})
    message: str = Field(description="what is wrong with this request, and what to do")


class HealthAnswer(BaseModel):
    """That the server is there."""

    model_config = _example({"status": "ok"})
    status: str


class QualityAnswer(BaseModel):
    """Numbers by which a face can be judged."""

    residual: float = Field(description="pixels of the 128x128 chip by which the landmarks miss the template")
    profile: float = Field(description="how far the head is turned: 0 frontal, 1 full profile")
    sharpness: float = Field(description="variance of the Laplacian of the luminance; low is blurred")
    contrast: float = Field(description="standard deviation of the luminance, of 0 to 255")


class FaceAnswer(BaseModel):
    """A face in a photo."""

    model_config = _example(_FACE)
    box: list[float] = Field(description="left, top, right, bottom in pixels of the whole upright photo")
    landmarks: list[list[float]] = Field(description="eyes, nose and mouth corners as (x, y)")
    probability: float = Field(description="that it is a face, by the detector")
    quality: QualityAnswer
    norm: float | None = Field(description="L2 norm of the embedding before it was scaled to 1")
    likelihood: float | None = Field(description="log-likelihood under the model's classes; null where it has none")
    is_abnormal: bool | None = Field(description="whether the likelihood lies below the model's threshold")
    embedding: list[float] = Field([], description="of unit L2 norm; in the answers of `/v1/embed` alone")
    chip: str = Field("", description=_CHIP)


class PhotoAnswer(BaseModel):
    """The faces of a photo; none is a success."""

    model_config = _example(_PHOTO)
    width: int = Field(description="of the upright photo, in pixels")
    height: int
    faces: list[FaceAnswer] = Field(description="the largest central one first")


class ChosenAnswer(PhotoAnswer):
    """The faces of a photo, and which of them the request is about."""

    model_config = _example({**_PHOTO, "chosen": 0})
    chosen: int = Field(description="index into `faces`")


class VerifyAnswer(BaseModel):
    """Whether two photos show one person."""

    model_config = _example(
        {
            "distance": 0.83,
            "same": True,
            "threshold": 1.02,
            "probability": 0.996,
            "a": {**_PHOTO, "chosen": 0},
            "b": {**_PHOTO, "chosen": 0},
        }
    )
    distance: float = Field(description="L2 distance of the embeddings, 0 to 2")
    same: bool | None = Field(description="whether it lies below the threshold; null where the model has none")
    threshold: float | None = Field(description=_THRESHOLD)
    probability: float | None = Field(description="that it is one person, at `prior`; null if not calibrated")
    a: ChosenAnswer
    b: ChosenAnswer


class PersonAnswer(BaseModel):
    """A person of the gallery."""

    name: str
    samples: int = Field(description="number of enrolled photos")


class PeopleAnswer(BaseModel):
    """Who is in the gallery."""

    model_config = _example({"people": [{"name": "Ann", "samples": 3}]})
    people: list[PersonAnswer] = Field(description="by name")


class EnrolledAnswer(BaseModel):
    """What a photo was enrolled as."""

    model_config = _example({"name": "Ann", "sample": 17, "samples": 3})
    name: str
    sample: int = Field(description="number of the sample, by which it can be removed")
    samples: int = Field(description="the person's enrolled photos by now")


class RemovedAnswer(BaseModel):
    """What was removed."""

    model_config = _example({"name": "Ann", "removed": 1})
    name: str
    removed: int = Field(description="number of samples")


class MatchAnswer(BaseModel):
    """A person whom a face is like."""

    name: str
    distance: float = Field(description="L2 distance to the person's nearest sample")
    same: bool | None = Field(description="whether it lies below the threshold; null where the model has none")
    probability: float | None = Field(description="that it is this person, at `prior`; null if not calibrated")


class SearchAnswer(ChosenAnswer):
    """Whom a face is like."""

    model_config = _example(
        {
            **_PHOTO,
            "chosen": 0,
            "threshold": 1.02,
            "matches": [{"name": "Ann", "distance": 0.83, "same": True, "probability": 0.996}],
        }
    )
    threshold: float | None = Field(description=_THRESHOLD)
    matches: list[MatchAnswer] = Field(description="the nearest people, nearest first")


class ModelAnswer(BaseModel):
    """The model, and what the server takes."""

    model_config = _example(
        {
            "description": "MobileFaceNet, 1,063,488 parameters, 512 dimensions, 112x112 pixels of 128x128",
            "contract": {"weights": "5d41...", "preprocessing": "9f86...", "dim": 512},
            "calibration": None,
            "gallery": True,
            "limits": Limits().to_json(),
        }
    )
    description: str = Field(description="network, size and input in one line")
    contract: dict[str, Any] = Field(description="whose embeddings may be compared with these")
    calibration: dict[str, Any] | None = Field(
        description="what distances mean, as measured on a set of pairs, with thresholds by false-match rate and the "
        "histogram of distances; null where the model has not been calibrated"
    )
    gallery: bool = Field(description="whether people can be enrolled and searched")
    limits: dict[str, int] = Field(description="the most that the server takes, and seconds of a request")


def documented(codes: Iterable[str]) -> dict[int | str, dict[str, Any]]:
    """The errors of an operation as OpenAPI describes them: by status, with an example of each code."""
    answers: dict[int | str, dict[str, Any]] = {}
    for code in sorted({*OF_ALL, *codes}, key=lambda code: (STATUSES[code][0], code)):
        status, meaning = STATUSES[code]
        answer = answers.setdefault(status, {"description": "", "content": {"application/json": {"examples": {}}}})
        answer["description"] = "; ".join(filter(None, [answer["description"], f"`{code}`: {meaning}"]))
        example = {"summary": code, "value": {"error": code, "message": f"{meaning[0].upper()}{meaning[1:]}."}}
        answer["content"]["application/json"]["examples"][code] = example
    for answer in answers.values():
        answer["model"] = ErrorAnswer
    return answers

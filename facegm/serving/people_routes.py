"""The HTTP interface to the gallery: people enrolled, searched for and removed."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Form, Path
from starlette.concurrency import run_in_threadpool

from facegm.embedding.comparison import applied_threshold, compared, usual_threshold
from facegm.embedding.reasons import Reason
from facegm.errors import FacegmError
from facegm.gallery.enrolment import NewSample
from facegm.gallery.file import UnknownPersonError
from facegm.gallery.rules import person_name
from facegm.serving.answers import EnrolledAnswer, PeopleAnswer, RemovedAnswer, SearchAnswer, documented
from facegm.serving.errors import OF_PHOTOS, RequestError
from facegm.serving.face_routes import OF_CHOICE, FalseMatchRate, Photo, Policy, Prior, described
from facegm.serving.photos import digest_of_file
from facegm.serving.service import FaceService

Done = TypeVar("Done")
Name = Annotated[str, Path(description="the person's: 1 to 200 printable characters, no slash", examples=["Ann"])]
UNKNOWN = Reason.UNKNOWN_PERSON.value
OF_ENROLMENT = tuple(reason.value for reason in (Reason.ALREADY_ENROLLED, Reason.NEARER_TO_ANOTHER))
MOST_PEOPLE = 100
"""That a search answers with."""


def people_routes(service: FaceService) -> APIRouter:
    """What is asked of the gallery."""
    router = APIRouter(prefix="/v1")

    @router.get(
        "/people", response_model=PeopleAnswer, responses=documented(["no-gallery"]), summary="Who is in the gallery"
    )
    async def people() -> dict[str, Any]:
        found = await run_in_threadpool(lambda: service.gallery.people)
        return {"people": [{"name": name, "samples": samples} for name, samples in found.items()]}

    @router.post(
        "/people/{name}",
        response_model=EnrolledAnswer,
        responses=documented(["no-gallery", *OF_PHOTOS, *OF_CHOICE, *OF_ENROLMENT]),
        summary="Enrol the face of a photo; when the answer comes, it is on the disk",
    )
    async def enroll(
        name: Name,
        photo: Photo,
        policy: Policy = "largest-central",
        strict: Annotated[
            bool, Form(description="refuse a face that may well be another person's of the gallery")
        ] = True,
    ) -> dict[str, Any]:
        gallery, normal = service.gallery, _checked(name)
        found = await service.look(photo, "photo")
        face = found.faces[service.choose(found, policy, "photo")]
        assert face.embedding is not None
        digest = await run_in_threadpool(digest_of_file, photo.file)
        sample = NewSample(name=normal, embedding=face.embedding, digest=digest)
        threshold = usual_threshold(service.embedder.calibration)
        (enrolment,) = await run_in_threadpool(gallery.enroll_all, [sample], strict=strict, threshold=threshold)
        if enrolment.reason is not None:
            raise RequestError(enrolment.reason.value, f"photo: {enrolment.message}")
        samples = await run_in_threadpool(gallery.samples, normal)
        return {"name": normal, "sample": enrolment.sample_id, "samples": len(samples)}

    @router.delete(
        "/people/{name}",
        response_model=RemovedAnswer,
        responses=documented(["no-gallery", UNKNOWN]),
        summary="Remove a person with all samples",
    )
    async def remove_person(name: Name) -> dict[str, Any]:
        gallery, normal = service.gallery, _checked(name)

        def remove() -> int:
            samples = len(gallery.samples(normal))
            gallery.remove(normal)
            return samples

        return {"name": normal, "removed": await _known(remove)}

    @router.delete(
        "/people/{name}/samples/{sample}",
        response_model=RemovedAnswer,
        responses=documented(["no-gallery", UNKNOWN]),
        summary="Remove one sample of a person",
    )
    async def remove_sample(
        name: Name, sample: Annotated[int, Path(description="as its enrolment has told", ge=0, lt=2**63)]
    ) -> dict[str, Any]:
        gallery, normal = service.gallery, _checked(name)

        def remove() -> int:
            if sample not in {known.id for known in gallery.samples(normal)}:
                raise RequestError(UNKNOWN, f"{normal} has no sample {sample}")
            gallery.remove(sample)
            return 1

        return {"name": normal, "removed": await _known(remove)}

    @router.post(
        "/search",
        response_model=SearchAnswer,
        response_model_exclude_unset=True,
        responses=documented(["no-gallery", *OF_PHOTOS, *OF_CHOICE]),
        summary="Whom of the gallery the face of a photo is like",
    )
    async def search(
        photo: Photo,
        k: Annotated[int, Form(ge=1, le=MOST_PEOPLE, description="how many people")] = 5,
        policy: Policy = "largest-central",
        prior: Prior = 0.5,
        false_match_rate: FalseMatchRate = None,
    ) -> dict[str, Any]:
        gallery, calibration = service.gallery, service.embedder.calibration
        try:
            threshold = applied_threshold(calibration, false_match_rate=false_match_rate)
        except FacegmError as error:
            raise RequestError("bad-request", str(error)) from error
        found = await service.look(photo, "photo")
        chosen = service.choose(found, policy, "photo")
        embedding = found.faces[chosen].embedding
        assert embedding is not None
        (matches,) = await run_in_threadpool(gallery.search, embedding[None], k=k)
        people = []
        for match in matches:
            said = compared(match.distance, calibration, threshold=threshold, false_match_rate=None, prior=prior)
            person = {"distance": said.distance, "same": said.same, "probability": said.probability}
            people.append({"name": match.name, **person})
        return await described(found, chips=False) | {"chosen": chosen, "threshold": threshold, "matches": people}

    return router


def _checked(name: str) -> str:
    try:
        return person_name(name)
    except FacegmError as error:
        raise RequestError("bad-request", str(error)) from error


async def _known(way: Callable[[], Done]) -> Done:
    try:
        return await run_in_threadpool(way)
    except UnknownPersonError as error:
        raise RequestError(UNKNOWN, "nobody in the gallery has this name") from error

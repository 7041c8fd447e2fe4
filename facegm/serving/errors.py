"""What goes wrong with a request: a stable code, the HTTP status that belongs to it, and words that help."""

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from facegm.embedding.reasons import Reason

STATUSES: dict[str, tuple[int, str]] = {
    "bad-request": (400, "the request is no valid HTTP, form or value; the message says which"),
    "unauthorized": (401, "the API key is missing or wrong"),
    "foreign-site": (403, "the request comes from the page of another site"),
    "not-found": (404, "there is nothing at this address"),
    "no-gallery": (404, "the server was started without a gallery"),
    Reason.UNKNOWN_PERSON.value: (404, "the gallery has no such person, or no such sample of the person"),
    "method-not-allowed": (405, "this address takes another method"),
    "too-slow": (408, "the request did not arrive within the time limit"),
    Reason.ALREADY_ENROLLED.value: (409, "the gallery holds this very sample already"),
    Reason.NEARER_TO_ANOTHER.value: (409, "the face is nearer to another person of the gallery than to this one"),
    Reason.TOO_LARGE.value: (413, "the photo has more bytes or pixels than the server takes"),
    Reason.UNREADABLE.value: (422, "the upload is no photo that can be decoded"),
    "too-small": (422, "the photo is smaller than the smallest face that is looked for"),
    Reason.NO_FACE.value: (422, "no face was found in the photo"),
    Reason.SEVERAL_FACES.value: (422, "the photo shows several faces, and the policy takes only one"),
    Reason.TOO_MANY_FACES.value: (422, "the photo shows more faces than the server takes"),
    Reason.UNUSABLE_EMBEDDING.value: (422, "the model makes of the face numbers that say nothing about identity"),
    "headers-too-large": (431, "the request's headers are longer than the server reads"),
    "internal": (500, "the server failed; its log says of what"),
    "busy": (503, "too many requests are in progress; come again after the seconds in Retry-After"),
    "timeout": (503, "the answer was not ready within the time limit"),
}
"""Of each code the HTTP status, and what it means."""
OF_ALL = ("bad-request", "unauthorized", "foreign-site", "too-slow", "headers-too-large", "internal", "busy", "timeout")
"""The codes that any request can have."""
OF_PHOTOS = (
    Reason.TOO_LARGE.value,
    Reason.UNREADABLE.value,
    "too-small",
    Reason.TOO_MANY_FACES.value,
    Reason.UNUSABLE_EMBEDDING.value,
)
"""Those that any request with photos can have."""
RETRY_SECONDS = 1
"""After which a client may come again that found the server busy."""
_OF_STATUS = {400: "bad-request", 404: "not-found", 405: "method-not-allowed"}
"""The code of what FastAPI refuses itself."""


class RequestError(HTTPException):
    """Ends a request; the client is told the code and the message.

    Args:
        code: a key of `STATUSES`.
        message: what is wrong with this request, and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        status, _ = STATUSES[code]
        headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
        super().__init__(status, message, headers)
        self.code = code

    def response(self) -> JSONResponse:
        """The answer to the client."""
        return JSONResponse({"error": self.code, "message": self.detail}, self.status_code, self.headers)


def as_request_error(error: HTTPException) -> RequestError:
    """What FastAPI refuses itself, in our form."""
    if isinstance(error, RequestError):
        return error
    found = RequestError(_OF_STATUS.get(error.status_code, "bad-request"), str(error.detail))
    found.headers = {**(found.headers or {}), **(error.headers or {})}
    return found

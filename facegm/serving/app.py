"""The application: addresses, guard, page and documents."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from facegm import __version__
from facegm.serving.errors import RequestError, as_request_error
from facegm.serving.face_routes import face_routes
from facegm.serving.guard import KEY_HEADER, Guard
from facegm.serving.people_routes import people_routes
from facegm.serving.reference import reference
from facegm.serving.service import FaceService

PAGE = Path(str(files("facegm.serving") / "page"))
DESCRIPTION = """Finds, compares, enrols and searches faces in photos.

Photos are sent as file fields of a `multipart/form-data` request. Every error is `{"error": code, "message": text}`;
the codes are stable. Where the server was started with an API key, requests bring it in the header `X-API-Key`."""


class _Application(FastAPI):
    """FastAPI, whose document has our form of errors in place of its own, and the key."""

    has_key = False

    def openapi(self) -> dict[str, Any]:
        """The document, made when it is first asked for."""
        is_new = self.openapi_schema is None
        document = super().openapi()
        if is_new:
            for operations in document["paths"].values():
                for operation in operations.values():
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
            if self.has_key:
                scheme = {"type": "apiKey", "in": "header", "name": KEY_HEADER}
                document["components"]["securitySchemes"] = {"key": scheme}
                document["security"] = [{"key": []}]
        return document


def create_app(service: FaceService, *, key: str | None) -> FastAPI:
    """The application.

    Args:
        service: what requests ask for.
        key: that requests must bring; None: nobody is asked for one; see `Guard`.
    """

    @asynccontextmanager
    async def serving(_: FastAPI) -> AsyncIterator[None]:
        batches = asyncio.create_task(service.run())
        yield
        batches.cancel()
        with suppress(asyncio.CancelledError):
            await batches

    app = _Application(
        title="facegm",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=serving,
    )
    app.include_router(face_routes(service))
    app.include_router(people_routes(service))
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(Guard, limits=service.limits, key=key)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    def documents() -> Response:
        return reference(app.openapi())

    app.mount("/page", StaticFiles(directory=PAGE))
    app.has_key = key is not None
    return app


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return as_request_error(error).response()


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    troubles = [f"{'.'.join(map(str, trouble['loc']))}: {trouble['msg']}" for trouble in error.errors()]
    return RequestError("bad-request", "; ".join(troubles)).response()

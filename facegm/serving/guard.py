"""What stands before every request: key, number in progress, bytes and time; and behind it: headers and log."""

import asyncio
import hmac
import logging
import time
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facegm.embedding.reasons import Reason
from facegm.serving.errors import RequestError
from facegm.serving.limits import Limits

logger = logging.getLogger(__name__)

KEY_HEADER = "X-API-Key"
OPEN_ADDRESSES = frozenset({"/v1/health"})
"""Of those below `/v1/` the ones that need no key."""
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A page loads what this server gives, and nothing else."""
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
MAX_PHOTOS = 2
"""Of a request."""
FORM_BYTES = 2**16
"""Of a request, beside its photos: the form around them and its other fields."""
DIGITS = 18
"""Of a length that can be meant."""


class Guard:
    """Middleware around the application.

    Args:
        app: the application.
        limits: what a request may ask for.
        key: that a request must bring in `X-API-Key`; None: nobody is asked for one. A request must then name the
            server by its number or as localhost: else any web page could have its own name point here, and read the
            gallery.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, key: str | None) -> None:
        self._app, self._limits, self._key = app, limits, key
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        is_guarded = scope["path"].startswith("/v1/") and scope["path"] not in OPEN_ADDRESSES
        try:
            await (self._guarded if is_guarded else self._app)(scope, receive, send_with_headers)
        except Exception as error:
            if status:  # too late for another answer
                raise
            if not isinstance(error, RequestError):
                logger.exception("a request has failed")
                error = RequestError("internal", f"the server failed ({type(error).__name__}); its log says more")
            await error.response()(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "-")  # not the path itself, which can hold a person's name
            logger.info(f"{scope['method']} {route} {status} {1000 * (time.perf_counter() - began):.0f} ms")

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_sender(headers)
        if b"%2f" in scope["raw_path"].lower():  # decoded, it would part the address as any other slash
            raise RequestError("bad-request", "an address with an encoded slash; neither names nor numbers have one")
        body = _Body(receive, headers, MAX_PHOTOS * self._limits.max_bytes + FORM_BYTES)
        if self._requests >= self._limits.max_requests:
            raise RequestError("busy", f"{self._requests} requests are in progress; come again in a moment")
        self._requests += 1
        try:
            await asyncio.wait_for(self._app(scope, body.receive, send), self._limits.timeout)
        except asyncio.TimeoutError:
            code, what = ("timeout", "the answer was not ready") if body.is_whole else ("too-slow", "it did not arrive")
            raise RequestError(code, f"{what} within {self._limits.timeout} seconds") from None
        finally:
            self._requests -= 1

    def _check_sender(self, headers: Headers) -> None:
        # Browsers send Sec-Fetch-Site to https and loopback alone, and Origin to all, but where the page only reads.
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        is_foreign = origin is not None and origin.lower().partition("://")[2] != host
        if is_foreign or headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
            raise RequestError(
                "foreign-site",
                "the page of another site may not send requests here; a proxy must hand on the header Host as it came",
            )
        if self._key is not None:
            given = headers.get(KEY_HEADER, "")
            if not hmac.compare_digest(given.encode("latin-1"), self._key.encode("latin-1")):
                raise RequestError("unauthorized", f"send the server's API key as the header {KEY_HEADER}")
        elif not _is_number_or_local(host):
            raise RequestError(
                "foreign-site",
                "this server has no API key, and answers only to localhost and to IP addresses; set a key for names",
            )


def _is_number_or_local(host: str) -> bool:
    """Whether a `Host` is none that a stranger can have lead here."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ip_address(name))
    except ValueError:
        return False


class _Body:
    """A request's body on its way in, with a bound on its bytes.

    Args:
        receive: of the request.
        headers: of the request.
        max_bytes: that it may have.

    Raises:
        RequestError: it is stated to have more.
    """

    def __init__(self, receive: Receive, headers: Headers, max_bytes: int) -> None:
        self._receive, self._max_bytes, self._bytes = receive, max_bytes, 0
        stated = headers.get("content-length", "0")
        self.is_whole = stated == "0" and "transfer-encoding" not in headers
        if len(stated) > DIGITS or (stated.isdecimal() and int(stated) > max_bytes):
            raise self._too_large()

    async def receive(self) -> Message:
        """See ASGI.

        Raises:
            RequestError: more bytes have come than may.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self.is_whole = not message.get("more_body", False)
            if self._bytes > self._max_bytes:
                raise self._too_large()
        return message

    def _too_large(self) -> RequestError:
        return RequestError(Reason.TOO_LARGE.value, f"the request has more than {self._max_bytes:,} bytes")

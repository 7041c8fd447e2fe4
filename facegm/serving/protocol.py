"""HTTP/1.1 by uvicorn and h11, but what is no HTTP is refused like all else, and headers must come in time."""

import asyncio
import json
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from facegm.serving.errors import STATUSES

logger = logging.getLogger(__name__)

HEAD_BYTES = 2**16
"""Of the headers of a request."""
HEAD_SECONDS = 10
"""Within which a request's headers must have come, and what is left of a body after its answer."""


class Protocol(H11Protocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._drop_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._drop_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        is_long = len(self.conn.trailing_data[0]) > HEAD_BYTES
        code = "headers-too-large" if is_long else "bad-request"
        body = json.dumps({"error": code, "message": f"headers of more than {HEAD_BYTES:,} bytes" if is_long else msg})
        logger.info(f"no HTTP {STATUSES[code][0]}")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            head = self.conn.send(h11.Response(status_code=STATUSES[code][0], headers=headers))
            self.transport.write((head or b"") + body.encode())
        if self.cycle is not None:  # of a request whose body is broken off: nobody is left to answer
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

"""HTTP requests that no server should answer with success, nor fail on, drawn by a seed."""

import io
import json
import socket
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

BOUNDARY = "b0undary"
PHOTO_ADDRESSES = ("/v1/detect", "/v1/embed", "/v1/search", "/v1/people/Ann")


@dataclass(frozen=True)
class Part:
    """Of a form; without a file name it is a plain field."""

    name: str
    content: bytes
    file_name: str | None = "photo.jpg"


@dataclass(frozen=True)
class Answer:
    """What a server has sent back."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    def error(self) -> str:
        """The error's code; an answer of another form fails."""
        described = self.json()
        assert set(described) == {"error", "message"}
        assert described["message"]
        return str(described["error"])


def exchange(port: int, request: bytes, timeout: float = 30) -> Answer:
    """Send bytes, whatever they are, to a server of this machine, and read its first answer."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it has read all
            connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += _more(connection, received)
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        while len(body) < int(headers["content-length"]):
            body += _more(connection, body)
    return Answer(int(lines[0].split()[1]), headers, body)


def _more(connection: socket.socket, received: bytes) -> bytes:
    more = connection.recv(2**16)
    if not more:
        raise ConnectionError(f"the server has hung up after {received!r}")
    return more


def request(address: str, body: bytes = b"", *, method: str = "POST", headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A whole request; its length is stated unless headers do."""
    lines = [f"{method} {address} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers)]
    if not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def form(address: str, parts: Sequence[Part], *, boundary: str = BOUNDARY) -> bytes:
    """A request with a form."""
    return request(address, form_body(parts), headers=[("Content-Type", f"multipart/form-data; boundary={boundary}")])


def form_body(parts: Sequence[Part]) -> bytes:
    """A form as it is sent."""
    body = b""
    for part in parts:
        name = "" if part.file_name is None else f'; filename="{part.file_name}"'
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{part.name}"{name}\r\n\r\n'.encode("latin-1")
        body += part.content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def encoded(width: int, height: int, kind: str = "JPEG") -> bytes:
    """A plain grey photo."""
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(file, kind)
    return file.getvalue()


def png_bomb(side: int) -> bytes:
    """A PNG of a few bytes that states to be a huge square."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(2**16))) + chunk(b"IEND", b"")


def resized_jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose header states another size."""
    photo = encoded(64, 64)
    start = photo.index(b"\xff\xc0") + 5
    return photo[:start] + struct.pack(">HH", height, width) + photo[start + 4 :]


def webp_bomb() -> bytes:
    """A WebP whose canvas is as large as its header can state."""
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + b"\xff\x3f\x00" * 2
    animation = b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", 4 + len(canvas + animation)) + b"WEBP" + canvas + animation


def gif_bomb() -> bytes:
    """A GIF of 65,535 x 65,535 pixels, without any."""
    return b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\x00\x00" + bytes(6) + b";"


def of_two_formats(width: int, height: int) -> bytes:
    """A file that is a TIFF of 64 x 64 pixels, and at the same time an FLI animation of any size."""
    place = 0x1AF11  # a TIFF has here the place of its directory, where an FLI has its mark
    content = bytearray(b"II*\0" + struct.pack("<I4H", place, width, height, 8, 0))
    content += bytes(place - len(content))
    content[128:166] = struct.pack("<IHH8xIH16x", 38, 0xF1FA, 1, 22, 13)  # a frame that is black
    tags = [(256, 64), (257, 64), (258, 8), (259, 1), (262, 1), (273, 0), (277, 1), (278, 64), (279, 4096)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return bytes(content) + struct.pack("<H", len(tags)) + directory + bytes(4)


def _one_of(random: Random, ways: Sequence[Callable[[], bytes]]) -> bytes:
    return random.choice(ways)()


def _no_photo(random: Random) -> bytes:
    photo = encoded(64, 64)
    return _one_of(
        random,
        [
            lambda: b"",
            lambda: b"hello",
            lambda: b"<html>" * random.randint(1, 1000),
            lambda: random.randbytes(random.randint(1, 5000)),
            lambda: photo[: random.randint(1, len(photo) // 2)],
            lambda: encoded(64, 64, "PNG")[: random.randint(1, 60)],
            lambda: png_bomb(random.choice([9_000, 20_000, 50_000, 2**31 - 1])),
            lambda: resized_jpeg(8000, 6000),
            lambda: resized_jpeg(65_535, random.randint(20_000, 65_535)),
            webp_bomb,
            gif_bomb,
            lambda: encoded(1, 1, random.choice(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])),
            lambda: encoded(random.randint(1, 19), 64),
            lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n",
            lambda: b"\x00" * random.randint(1, 5000),
        ],
    )


def _photo(random: Random) -> bytes:
    return form(random.choice(PHOTO_ADDRESSES), [Part("photo", _no_photo(random))])


def _second_photo(random: Random) -> bytes:
    parts = [Part("photo_a", encoded(64, 64)), Part("photo_b", _no_photo(random))]
    random.shuffle(parts)
    return form("/v1/verify", parts)


def _torn_form(random: Random) -> bytes:
    body = form_body([Part("photo", encoded(64, 64))])
    torn = body[: random.randint(0, len(body) - 6)]  # a form without its last line end is still one
    return request(
        random.choice(PHOTO_ADDRESSES), torn, headers=[("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")]
    )


def _damaged_form(random: Random) -> bytes:
    """A form of which the head of a part, or its content type, is not right."""
    body = form_body([Part("photo", encoded(64, 64))])
    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    match random.randrange(5):
        case 0:
            content_type = random.choice(
                [
                    "multipart/form-data",
                    "multipart/form-data; boundary=",
                    "multipart/form-data; boundary=" + "x" * 300,
                    "multipart/form-data; boundary=other",
                    "application/json",
                    "application/x-www-form-urlencoded",
                    "text/plain",
                    "image/jpeg",
                    ";;;",
                ]
            )
        case 1:
            body = body.replace(b"name=", b"nam=", 1)
        case 2:
            body = body.replace(b"Content-Disposition", random.randbytes(8), 1)
        case 3:
            body = body.replace(b"Content-Disposition", b"X" * random.randint(20_000, 200_000), 1)
        case _:
            body = body.replace(b"\r\n\r\n", b"", 1)
    return request(random.choice(PHOTO_ADDRESSES), body, headers=[("Content-Type", content_type)])


def _wrong_fields(random: Random) -> bytes:
    photo = encoded(64, 64)
    return _one_of(
        random,
        [
            lambda: form("/v1/detect", []),
            lambda: form("/v1/detect", [Part("image", photo)]),
            lambda: form("/v1/detect", [Part("photo", b"a text", None)]),
            lambda: form("/v1/detect", [Part("photo", b"")]),
            lambda: form("/v1/detect", [Part("\x00photo", photo)]),
            lambda: form("/v1/detect?chips=perhaps", [Part("photo", photo)]),
            lambda: form("/v1/verify", [Part("photo_a", photo)]),
            lambda: form("/v1/verify", [Part("photo", photo), Part("photo", photo)]),
            lambda: form("/v1/verify", [_value("prior", random), Part("photo_a", photo), Part("photo_b", photo)]),
            lambda: form("/v1/verify", [_value("policy", random), Part("photo_a", photo), Part("photo_b", photo)]),
            lambda: form(
                "/v1/verify", [_value("false_match_rate", random), Part("photo_a", photo), Part("photo_b", photo)]
            ),
            lambda: form("/v1/search", [_value("k", random), Part("photo", photo)]),
            lambda: form("/v1/search", [_value("policy", random), Part("photo", photo)]),
            lambda: form("/v1/detect", [Part(f"field{number}", b"1", None) for number in range(1100)]),
            lambda: form("/v1/detect", [Part("note", bytes(2**20 + 1), None), Part("photo", photo)]),
        ],
    )


def _value(name: str, random: Random) -> Part:
    values = ["nan", "-1", "inf", "1e400", "0", "9" * 5000, "none", "\x00", "[]", "1,5", "ä", " ", "2.5"]
    return Part(name, random.choice(values).encode(), None)


def _wrong_person(random: Random) -> bytes:
    names = [
        "x" * random.randint(300, 10_000),
        "..",
        "../../etc/passwd",
        "a/b",
        "\x00",
        "Ann\x00",
        "Ann\n",
        "\u202eAnn",
        " ",
        "",
    ]
    address = "/v1/people/" + quote(random.choice(names), safe="")
    match random.randrange(5):
        case 0:
            return request(address, method="DELETE")
        case 1:
            return request(f"{address}/samples/{random.choice(['x', '-1', '9' * 40, '1.5', '%00'])}", method="DELETE")
        case 2:
            return request(f"/v1/people/{quote(random.randbytes(5))}", method="DELETE")
        case 3:
            return request(f"/v1/people/{random.randbytes(5).hex()}", method="DELETE")
        case _:
            return form(address, [Part("photo", encoded(64, 64))])


def _wrong_address(random: Random) -> bytes:
    return _one_of(
        random,
        [
            lambda: request("/v1/nothing", method="GET"),
            lambda: request("/" + quote(random.randbytes(random.randint(1, 500))), method="GET"),
            lambda: request("/v1/detect", method=random.choice(["GET", "PUT", "PATCH", "DELETE", "BREW"])),
            lambda: request("/page/..%2f..%2fserver.py", method="GET"),
            lambda: request("/page/%00", method="GET"),
            lambda: request("/v1/people", b"{}"),
        ],
    )


def _no_http(random: Random) -> bytes:
    return _one_of(
        random,
        [
            lambda: b"\r\n".join([b"GET / HTTP/1.1", b"X: " + b"y" * random.randint(70_000, 300_000), b"", b""]),
            lambda: b"GET /" + b"x" * random.randint(70_000, 300_000) + b" HTTP/1.1\r\n\r\n",
            lambda: b"GET / HTTP/1.1\r\n" + b"X-Name: value\r\n" * 20_000 + b"\r\n",
            lambda: random.randbytes(50) + b"\r\n\r\n",
            lambda: b"GET / HTTP/1.1\r\n\r\n",
            lambda: b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            lambda: b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
            lambda: b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            lambda: b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 18 + b"\r\n\r\n",
            lambda: b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 60 + b"\r\n\r\n",
            lambda: b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
            lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\nX\x00Y: 1\r\n\r\n",
            lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(200) + b"\r\n\r\n",
        ],
    )


KINDS: Mapping[str, Callable[[Random], bytes]] = {
    "no photo": _photo,
    "no second photo": _second_photo,
    "torn form": _torn_form,
    "damaged form": _damaged_form,
    "wrong fields": _wrong_fields,
    "wrong person": _wrong_person,
    "wrong address": _wrong_address,
    "no HTTP": _no_http,
}
"""Each makes a request that is wrong in its way."""

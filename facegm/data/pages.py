"""HTML pages that stand alone: one look, pictures inside, and text that cannot break them."""

import base64
from importlib.resources import files

import numpy as np
from jaxtyping import UInt8

from facegm.data.names import printable


def render_page(template: str, /, **values: object) -> str:
    """Render a Jinja template; all values are escaped, and one that the template misses is an error.

    Args:
        template: package and file, such as `facegm.eval.reports/report.html.jinja`; it may extend
            `facegm.data/page.html.jinja`, the look that the pages share.
        values: what the template speaks of.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value, digits=2: f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"
    environment.filters["printable"] = printable
    return environment.get_template(template).render(**values)


def jpeg_uri(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    """An RGB picture, 0 to 255, as a `data:` address that holds it."""
    import cv2

    _, jpeg = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])  # cv2 wants BGR
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode("ascii")


def enlarged(picture: UInt8[np.ndarray, "side width 3"], side: int = 128) -> UInt8[np.ndarray, "larger wider 3"]:
    """A small picture with each pixel repeated, up to about so many pixels, so that JPEG leaves it sharp."""
    times = max(1, side // len(picture))
    return np.ascontiguousarray(picture.repeat(times, axis=0).repeat(times, axis=1))


def _source(template: str) -> str:
    package, _, name = template.partition("/")
    return (files(package) / name).read_text(encoding="utf-8")

"""facegm: face verification trained with the Gaussian mixture (GM) loss."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facegm.align.found_face import Face as Face
    from facegm.embedding.embedder import FaceEmbedder as FaceEmbedder
    from facegm.losses.gm import gm_loss as gm_loss
    from facegm.losses.gm_module import GMLoss as GMLoss
    from facegm.losses.gm_module import GMLossConfig as GMLossConfig

__version__ = version("facegm")
__all__ = ["Face", "FaceEmbedder", "GMLoss", "GMLossConfig", "__version__", "gm_loss"]

_HOMES = {
    "Face": "facegm.align.found_face",
    "FaceEmbedder": "facegm.embedding.embedder",
    "GMLoss": "facegm.losses.gm_module",
    "GMLossConfig": "facegm.losses.gm_module",
    "gm_loss": "facegm.losses.gm",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import facegm` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'facegm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

"""What the names of photos tell: which files are photos, and whose faces they show."""

import os
from collections.abc import Sequence

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def is_photo_name(path: str) -> bool:
    """Whether a file is taken for a photo: by its suffix, and not hidden."""
    name = path.rpartition("/")[2]
    return os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES and not name.startswith(".")


def identities_by_folder(paths: Sequence[str]) -> list[str | None]:
    """Whose photos these are, by the first folder that tells them apart.

    Archives often hold a set below folders of its own, as in `lfw/lfw-deepfunneled/Ann_Lee/Ann_Lee_0001.jpg`. Leading
    folders that all photos share are passed over as long as all photos lie in a folder below.

    Args:
        paths: relative POSIX paths of all photos of a set.

    Returns:
        The identity of each photo; None for one that lies in no folder.
    """
    folders = [path.split("/")[:-1] for path in paths]
    leading = os.path.commonpath(["/" + "/".join(parts[:-1]) for parts in folders]) if folders else ""
    passed_over = len([part for part in leading.split("/") if part])
    return [parts[passed_over] if parts else None for parts in folders]

"""Which files are photos, by their names or by how they begin, and what is said of those that are none."""

import os
import stat
from collections import Counter

from PIL import Image

from facegm.data.decoding import register_formats

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
START = 64
"""Bytes of a file by which pictures are recognized."""

_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "JPEG2000")
"""Those that Pillow's own tests of a file's first bytes tell from anything else."""
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_RAW_SUFFIXES = frozenset({".arw", ".cr2", ".dng", ".nef", ".nrw", ".orf", ".pef", ".rw2", ".srw"})
"""Cameras' own formats are TIFF files by their first bytes, of which Pillow would decode a thumbnail."""
_HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_ARCHIVE_SUFFIXES = frozenset({".zip", ".rar", ".7z", ".gz", ".tgz", ".bz2", ".xz", ".zst"})
_SHOWN_SUFFIXES = 8


def is_photo_name(path: str) -> bool:
    """Whether a file is taken for a photo unseen: by its suffix, and not hidden."""
    name = path.rpartition("/")[2]
    return os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES and not name.startswith(".")


def is_picture(start: bytes, name: str = "") -> bool:
    """Whether Pillow decodes what begins so.

    Args:
        start: the first `START` bytes.
        name: of the file; its suffix tells cameras' raw formats from pictures.
    """
    if os.path.splitext(name)[1].lower() in _RAW_SUFFIXES:
        return False
    register_formats()
    if start[4:8] == b"ftyp":
        brands = start[8 : int.from_bytes(start[:4], "big")]
        if any(brand in brands for brand in _AVIF_BRANDS):
            return _accepts("AVIF", start[:8] + b"avif")
        return "HEIF" in Image.OPEN and any(brand in brands for brand in _HEIF_BRANDS)
    if start.startswith(b"BM"):
        return start[6:10] == bytes(4)  # reserved; many a text begins with BM
    if start.startswith(b"P"):
        return start[1:2] in b"123456" and start[2:3].isspace()
    return any(_accepts(name, start) for name in _FORMATS)


def is_picture_file(path: str) -> bool:
    """Whether a file that is no photo by its name is one by its first bytes; what cannot be read is none."""
    try:
        # A pipe or a device must not even be opened: that may wait for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb", buffering=0) as file:
            return is_picture(file.read(START), path)
    except OSError:
        return False


def passed_over(names: Counter[str]) -> str:
    """Say how many files of which suffixes are passed over, and what to do to have them read.

    Args:
        names: how many files there are of each suffix, as `suffix_of` tells it; at least one.
    """
    frequent = sorted(names.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_SUFFIXES]
    suffixes = [f"{count:,} {suffix or 'without suffix'}" for suffix, count in frequent]
    if len(names) > _SHOWN_SUFFIXES:
        suffixes.append(f"{len(names) - _SHOWN_SUFFIXES} suffixes more")
    total = names.total()
    remark = f"{total:,} {'file that is no photo is' if total == 1 else 'files that are no photos are'} passed over: "
    remark += ", ".join(suffixes)
    if _HEIC_SUFFIXES & names.keys() and "HEIF" not in Image.OPEN:
        remark += '; to have HEIC photos read: pip install "facegm[heic]"'
    if _ARCHIVE_SUFFIXES & names.keys():
        remark += "; unpack the archives if photos are in them"
    if _RAW_SUFFIXES & names.keys():
        remark += "; convert cameras' raw files to JPEG"
    return remark


def suffix_of(name: str) -> str:
    """The suffix by which a file is counted, in small letters."""
    return os.path.splitext(name)[1].lower()


def _accepts(name: str, start: bytes) -> bool:
    if name not in Image.OPEN:
        return False
    accept = Image.OPEN[name][1]
    # A text in place of True says that this build of Pillow lacks the decoder.
    return accept is not None and accept(start) is True

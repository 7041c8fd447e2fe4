"""`facegm search`: photos to the names of the people of a gallery."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facegm.cli.options import add_device, add_gallery, add_json, print_json, real_number, whole_number
from facegm.data.names import printable
from facegm.errors import FacegmError

if TYPE_CHECKING:
    from facegm.gallery.search_photos import FaceMatches


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm search",
        description="Say of each face of the photos which people of a gallery it is most like, by the nearest sample "
        "of each: distance, probability that both are one person, and whether the nearest is below the threshold.",
        allow_abbrev=False,
    )
    options.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="a photo")
    add_gallery(options, required=True, what="the gallery that `facegm enroll` made")
    options.add_argument("--model", type=Path, required=True, help="the model that enrolled: run folder or its file")
    options.add_argument(
        "--k", type=whole_number(minimum=1), default=5, help="people named for each face (default: %(default)s)"
    )
    options.add_argument(
        "--policy",
        choices=("all", "largest-central", "largest", "only"),
        default="all",
        help="which of several faces: all (default), the largest central one, the largest one, or none of a photo that "
        "does not show one face only",
    )
    limit = options.add_mutually_exclusive_group()
    limit.add_argument(
        "--threshold",
        type=real_number("above 0, at most 2", lambda distance: 0 < distance <= 2),
        metavar="DISTANCE",
        help="L2 distance below which a face is the person's (default: the model's own, of a false-match rate of 0.001 "
        "or the smallest that was measured)",
    )
    limit.add_argument(
        "--false-match-rate",
        type=real_number("above 0, below 1", lambda rate: 0 < rate < 1),
        metavar="RATE",
        help="in its place, a rate of two photos that the model's calibration has a threshold of",
    )
    options.add_argument(
        "--prior",
        type=real_number("above 0, below 1", lambda share: 0 < share < 1),
        default=0.5,
        metavar="P",
        help="probability that a face is that of the person it is compared with, before they are looked at: in a "
        "gallery of a hundred people that is at most 0.01 (default: %(default)s)",
    )
    add_device(options)
    add_json(options)
    return options


def run(arguments: Sequence[str]) -> None:
    """Search, and print whom each face is like."""
    options = parser().parse_args(arguments)
    from facegm.embedding.embedder import FaceEmbedder
    from facegm.gallery.gallery import Gallery
    from facegm.gallery.search_photos import SearchConfig, search_photos

    config = SearchConfig(
        k=options.k,
        policy=options.policy,
        threshold=options.threshold,
        false_match_rate=options.false_match_rate,
        prior=options.prior,
    )
    embedder = FaceEmbedder.load(options.model, device=options.device)
    with Gallery.open(options.gallery, embedder.contract, index=options.index) as gallery:
        found = list(search_photos(options.photos, gallery, embedder, config))
    if options.json:
        print_json({"gallery": options.gallery, "photos": [photo.to_json() for photo in found]})
    else:
        for photo in found:
            print(f"{printable(photo.photo)}: {photo.reason or _counted(len(photo.faces))}")
            if photo.reason is not None:
                print(f"  {photo.message}")
            for number, face in enumerate(photo.faces, start=1):
                print("\n".join(f"  {line}" for line in _lines(number, face)))
    if all(photo.reason is not None for photo in found):
        raise FacegmError("no photo could be searched for")


def _counted(faces: int) -> str:
    return "1 face" if faces == 1 else f"{faces or 'no'} faces"


def _lines(number: int, found: "FaceMatches") -> list[str]:
    left, top, right, bottom = found.face.box.round().astype(int)
    place = f"face {number}, {right - left}x{bottom - top} pixels at {left},{top}"
    if not found.matches:
        return [f"{place}: the gallery is empty"]
    threshold = found.matches[0][1].threshold
    verdict = "the model has not been calibrated; give --threshold DISTANCE for a verdict"
    if threshold is not None:
        verdict = f"{printable(found.name or 'nobody')} at the threshold {threshold:.3f}"
    people = [
        f"  {printable(match.name)}: distance {match.distance:.3f}"
        + ("" if comparison.probability is None else f", probability {comparison.probability:.3g}")
        for match, comparison in found.matches
    ]
    return [f"{place}: {verdict}", *people]

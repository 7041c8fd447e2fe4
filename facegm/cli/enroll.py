"""`facegm enroll`: photos of named people into a gallery."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.options import add_device, add_gallery, add_json, add_model, print_json, whole_number
from facegm.data.names import printable
from facegm.errors import FacegmError


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm enroll",
        description="Find the face of each photo, embed it, and keep the embedding in a gallery under the person's "
        "name; neither photo nor face is kept. What is said to be enrolled is on the disk. Run again, it passes over "
        "photos that are there already.",
        allow_abbrev=False,
    )
    options.add_argument(
        "photos",
        type=Path,
        nargs="+",
        help="folder tree person/photo.jpg, or whatever else `facegm align` takes; with --name photos, or folders of "
        "them, of one person",
    )
    add_gallery(options, required=True, what="the gallery, which is made where missing")
    add_model(options)
    options.add_argument("--name", help="whom all photos show (default: the folder of each says it)")
    options.add_argument(
        "--policy",
        choices=("largest-central", "largest", "only"),
        default="largest-central",
        help="which of several faces of a photo: the largest central one (default), the largest one, or none of a "
        "photo that does not show one face only",
    )
    options.add_argument(
        "--no-strict",
        action="store_true",
        help="also enrol a face that is nearer to another person of the gallery than to its own",
    )
    options.add_argument(
        "--identity-level",
        type=whole_number(minimum=1),
        default=1,
        metavar="N",
        help="which folder of a photo names the person, counted up from the photo (default: 1, the one it lies in)",
    )
    add_device(options)
    add_json(options)
    return options


def run(arguments: Sequence[str]) -> None:
    """Enrol, and print what became of the photos."""
    options = parser().parse_args(arguments)
    from facegm.embedding.embedder import FaceEmbedder
    from facegm.embedding.reasons import Reason
    from facegm.gallery.enroll_photos import enroll_photos, named_photos
    from facegm.gallery.gallery import Gallery

    source = named_photos(options.photos, options.name, identity_level=options.identity_level)
    embedder = FaceEmbedder.load(options.model, device=options.device)
    with Gallery.create(options.gallery, embedder.contract, index=options.index) as gallery:
        strict = not options.no_strict
        outcomes = list(enroll_photos(source.photos, gallery, embedder, policy=options.policy, strict=strict))
        people = gallery.people
    enrolled = sum(outcome.reason is None for outcome in outcomes)
    already = sum(outcome.reason is Reason.ALREADY_ENROLLED for outcome in outcomes)
    refused = [outcome for outcome in outcomes if outcome.reason not in (None, Reason.ALREADY_ENROLLED)]
    numbers = {"people": len(people), "samples": sum(people.values()), "enrolled": enrolled, "already": already}
    if options.json:
        numbers |= {"refused": len(refused)}
        photos = [outcome.to_json() for outcome in outcomes]
        print_json({"gallery": options.gallery, **numbers, "photos": photos, "remarks": source.remarks})
    else:
        print(
            f"{printable(options.gallery)}: {enrolled:,} photos enrolled, {already:,} there already, "
            f"{len(refused):,} refused; now {numbers['people']:,} people, {numbers['samples']:,} samples"
        )
        for outcome in refused:
            print(f"  {printable(outcome.photo)}: {outcome.reason}: {outcome.message}")
        for remark in source.remarks:
            print(f"  {printable(remark)}")
    if not enrolled + already:
        raise FacegmError("no photo was enrolled")

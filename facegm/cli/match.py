"""`facegm match`: two photos to a distance, a probability and a verdict."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from facegm.cli.options import add_device, add_json, add_model, print_json, real_number
from facegm.data.names import printable
from facegm.errors import UsageError


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm match",
        description="Compare the faces of two photos: the distance of their embeddings, the probability that both show "
        "one person, and the verdict by the threshold that `facegm verify --calibrate` has put into the model. The "
        "exit code is 0 whatever the verdict.",
        allow_abbrev=False,
    )
    options.add_argument("photo_a", type=Path, help="a photo")
    options.add_argument("photo_b", type=Path, help="the other")
    add_model(options)
    options.add_argument(
        "--policy",
        choices=("largest-central", "largest", "only"),
        default="largest-central",
        help="which of several faces of a photo is compared: the largest central one (default), the largest one, or "
        "refuse a photo with several",
    )
    options.add_argument(
        "--threshold",
        type=real_number("from 0 to 2", lambda distance: 0 <= distance <= 2),
        metavar="DISTANCE",
        help="distance below which two photos count as one person's (default: the model's own)",
    )
    options.add_argument(
        "--false-match-rate",
        type=real_number("above 0 and below 1", lambda rate: 0 < rate < 1),
        metavar="RATE",
        help="in place of --threshold: take the model's threshold of this rate, one of those that it was calibrated "
        "for (default: 0.001)",
    )
    options.add_argument(
        "--prior",
        type=real_number("above 0 and below 1", lambda prior: 0 < prior < 1),
        default=0.5,
        metavar="P",
        help="probability that two photos show one person before they are looked at (default: %(default)s)",
    )
    options.add_argument(
        "--output", type=Path, metavar="PAGE", help="an HTML page that shows photos, faces and verdict"
    )
    add_device(options)
    add_json(options)
    return options


def run(arguments: Sequence[str]) -> None:
    """Compare, write the page and print the verdict."""
    options = parser().parse_args(arguments)
    if options.threshold is not None and options.false_match_rate is not None:
        raise UsageError("give --threshold or --false-match-rate, not both")
    if options.output is not None and options.output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{options.output}: the page is HTML; give an --output that ends in .html")
    from facegm.data.files import replace_atomically
    from facegm.embedding.embedder import FaceEmbedder
    from facegm.embedding.match import match_photos
    from facegm.embedding.match_page import match_page

    match = match_photos(
        FaceEmbedder.load(options.model, device=options.device),
        options.photo_a,
        options.photo_b,
        policy=options.policy,
        threshold=options.threshold,
        false_match_rate=options.false_match_rate,
        prior=options.prior,
    )
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(options.output, match_page(match).encode())
    if options.json:
        print_json(match.to_json())
        return
    print(f"{match.verdict}")
    for line in match.lines():
        print(f"  {printable(line)}")
    if options.output is not None:
        print(f"page: {printable(str(options.output))}")

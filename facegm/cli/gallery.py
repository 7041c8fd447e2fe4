"""`facegm gallery`: who is in a gallery; people and samples removed, renamed, merged, and taken from another one."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from facegm.cli.options import GALLERY_ADDRESS, add_json, print_json, whole_number
from facegm.data.names import printable
from facegm.errors import FacegmError

if TYPE_CHECKING:
    from facegm.gallery.gallery import Gallery


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm gallery",
        description="List and change the people of a gallery. What is said to be done is on the disk.",
        allow_abbrev=False,
    )
    options.add_argument("gallery", help=f"what `facegm enroll` made: {GALLERY_ADDRESS}")
    actions = options.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="name all people and how many samples each has, or the samples of one")
    listing.add_argument("name", nargs="?", help="whose samples")
    removal = actions.add_parser("remove", help="remove a person with all samples, or one sample")
    who = removal.add_mutually_exclusive_group(required=True)
    who.add_argument("name", nargs="?", help="the person")
    who.add_argument("--sample", type=whole_number(minimum=1), metavar="ID", help="the sample, as `list NAME` has it")
    renaming = actions.add_parser("rename", help="give a person a name that nobody has")
    renaming.add_argument("name")
    renaming.add_argument("new_name")
    merging = actions.add_parser("merge", help="give a person's samples to another one, who is the same")
    merging.add_argument("name")
    merging.add_argument("into")
    adding = actions.add_parser("add", help="enrol everybody of another gallery; people of one name become one")
    adding.add_argument("other", help=f"which stays as it is: {GALLERY_ADDRESS}")
    for action in (listing, removal, renaming, merging, adding):
        add_json(action)
    return options


def run(arguments: Sequence[str]) -> None:
    """Do it, and print who is in the gallery or what has changed."""
    options = parser().parse_args(arguments)
    from facegm.gallery.gallery import Gallery

    with Gallery.open(options.gallery) as gallery:
        if options.action == "list":
            listed = _listed(gallery, options.name)
            if options.json:
                print_json({"gallery": options.gallery, **listed})
            else:
                print("\n".join(_lines(listed)))
            return
        done = _change(gallery, options)
        people = gallery.people
    if options.json:
        counts = {"people": len(people), "samples": sum(people.values())}
        print_json({"gallery": options.gallery, "done": done, **counts})
    else:
        print(f"{done}; now {len(people):,} people, {sum(people.values()):,} samples")


def _listed(gallery: "Gallery", name: str | None) -> dict[str, Any]:
    if name is None:
        return {"people": [{"name": known, "samples": samples} for known, samples in gallery.people.items()]}
    from facegm.gallery.rules import person_name

    samples = gallery.samples(name)
    if not samples:
        raise FacegmError(f"nobody is called {printable(name)}")
    return {"name": person_name(name), "samples": [asdict(sample) for sample in samples]}


def _lines(listed: dict[str, Any]) -> list[str]:
    if "people" in listed:
        return [f"{person['samples']:>6,}  {printable(person['name'])}" for person in listed["people"]] or ["nobody"]
    return [
        f"{sample['id']:>6}  {sample['enrolled']}  {printable(sample['source'] or 'source not known')}"
        for sample in listed["samples"]
    ]


def _change(gallery: "Gallery", options: Namespace) -> str:
    """Change the gallery; what was done, in words."""
    if options.action == "remove":
        gallery.remove(options.sample or options.name)
        return f"removed {f'sample {options.sample}' if options.sample else printable(options.name)}"
    if options.action == "rename":
        gallery.rename(options.name, options.new_name)
        return f"renamed {printable(options.name)} to {printable(options.new_name)}"
    if options.action == "merge":
        gallery.merge(options.name, options.into)
        return f"merged {printable(options.name)} into {printable(options.into)}"
    enrolments = gallery.enroll_gallery(options.other)
    enrolled = sum(enrolment.reason is None for enrolment in enrolments)
    return f"{enrolled:,} samples enrolled, {len(enrolments) - enrolled:,} there already"

"""The command line: a verb, and what it needs."""

import importlib
import logging
import sys
from collections.abc import Sequence

from facegm import __version__
from facegm.errors import FacegmError, StoppedError, UsageError

VERBS = {
    "align": "find and align the faces of a data set of photos",
    "inspect": "count and show what a store of aligned faces holds: failures, poor faces, duplicates",
    "convert": "bring a store that a version before has made up to date",
    "train": "train a face network or a classifier with the GM loss, or with one of those it is compared with",
    "doctor": "say what this machine has, how fast it would train, and what limits that",
    "overfit": "learn one batch by heart: a minute's check that network, loss and optimiser work",
    "evaluate": "classify the images of a classifier's run, or your own, and write a report",
    "attack": "change images so that a classifier is mistaken, see whether detectors notice, and write a report",
    "detect": "tell which images look manipulated to a classifier, and write a report",
    "verify": "verify the pairs of any set, by a model or by ready embeddings, and write a report",
    "verify-lfw": "verify the pairs of LFW, or of a set laid out like it, and write a report",
    "embed": "find, align and embed the faces of photos into a file",
    "match": "compare the faces of two photos: distance, probability, verdict, and a page that shows them",
    "enroll": "put named people into a gallery, by photos of them",
    "search": "say whom of a gallery the faces of photos are like",
    "gallery": "list, remove, rename and merge the people of a gallery",
    "quality": "try a face network's likelihood and other scores as the quality of faces, and write a report",
    "export": "write a face network as an ONNX file, or describe one of another program, with a model card",
    "compare": "compare training recipes by verified runs, with seeds as replicates",
    "identify": "look for people in a gallery, by a model or by ready embeddings, and write a report",
    "serve": "find, compare, enrol and search faces over HTTP, with a page on it",
    "reproduce": "make a table or figure of the paper again, by a grid of runs",
    "demo": "walk the whole road on synthetic identities: align, train, verify",
}
DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, FacegmError.exit_code, UsageError.exit_code, StoppedError.exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given:
        print(_usage(), file=sys.stderr)
        return WRONG_USAGE
    verb, rest = given[0], given[1:]
    if verb in ("-h", "--help"):
        print(_usage())
        return DONE
    if verb == "--version":
        print(__version__)
        return DONE
    if verb not in VERBS:
        print(f"facegm: no such command: {verb}\n\n{_usage()}", file=sys.stderr)
        return WRONG_USAGE
    stream = sys.stderr if "--json" in rest else sys.stdout
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=stream)
    try:
        importlib.import_module(f"facegm.cli.{verb.replace('-', '_')}").run(rest)
    except FacegmError as error:
        print(f"facegm {verb}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written: the message names the file
        print(f"facegm {verb}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"facegm {verb}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as stop:  # --help, or an option that the parser refused
        return stop.code if isinstance(stop.code, int) else FAILED
    return DONE


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {purpose}" for verb, purpose in VERBS.items())
    return (
        f"usage: facegm COMMAND [OPTION ...]\n\ncommands:\n{verbs}\n\n"
        "`facegm COMMAND --help` shows a command's options."
    )

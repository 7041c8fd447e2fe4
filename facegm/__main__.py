"""`python -m facegm`: the command line, as `torchrun -m facegm` needs it."""

import importlib.util
import sys

from facegm.cli import main

if __name__ == "__main__":
    if importlib.util.find_spec("facegm.align") is None:
        sys.exit(
            "facegm: in a checkout's root, Python finds this folder before the installed package; "
            "run elsewhere, or install by `pip install -e .`"
        )
    sys.exit(main())

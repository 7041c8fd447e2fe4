"""`python -m facegm`: the command line, as `torchrun -m facegm` needs it."""

import sys

from facegm.cli import main

if __name__ == "__main__":
    sys.exit(main())

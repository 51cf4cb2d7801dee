"""`python -m pytwin.sweep`, the same as `pytwin sweep`."""

import sys

from pytwin.cli import run

if __name__ == "__main__":
    sys.exit(run(["sweep", *sys.argv[1:]]))

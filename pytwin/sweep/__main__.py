"""`python -m pytwin.sweep`, the same as `pytwin sweep`."""

import sys

from pytwin.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))

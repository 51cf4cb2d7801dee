"""`python -m pytwin.cli` is `pytwin`."""

from pytwin.cli import main

main()

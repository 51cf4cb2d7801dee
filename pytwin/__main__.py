"""`python -m pytwin` is `pytwin`."""

from pytwin.cli import main

main()

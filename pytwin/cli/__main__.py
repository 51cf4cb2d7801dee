"""`python -m pytwin.cli` is `pytwin`."""

import sys

from pytwin.cli import main

sys.exit(main())

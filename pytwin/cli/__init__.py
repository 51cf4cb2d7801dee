"""The command line: `pytwin VERB`; results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pytwin.errors import PytwinError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error becomes one line on stderr.

    Entry point of the console script `pytwin`, which exits with what this returns.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from pytwin.cli.app import dispatch

        code = dispatch(tokens)
        sys.stdout.flush()
    except PytwinError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        print("pytwin: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has gone (`pytwin ... | head`): nothing is wrong, and nothing more
        # can be said there; Python must not complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}: free space or choose another path")
    return code


def _complain(message: str) -> int:
    line = " ".join(message.split())
    print(f"pytwin: error: {line}", file=sys.stderr)
    return EXIT_USAGE

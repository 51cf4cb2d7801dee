"""`python -m pytwin.conformance.reference`: materialised cases in, traces out.

One case a line on stdin; on stdout its trace, whose last line has type "summary", or "error" when
vLLM's own code raised on the case.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main() -> int:
    """Serves cases until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m pytwin.conformance.reference")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--engine-version", help="0.8.5 or 0.32: its wheel's files, fetched by pip")
    source.add_argument("--sources", type=Path, help="directory that holds vLLM's files (vllm/)")
    arguments = parser.parse_args()
    if arguments.sources is None:
        from pytwin.conformance.versions import engine_version
        from pytwin.conformance.wheels import vllm_sources

        root = vllm_sources(engine_version(arguments.engine_version).wheel)
    else:
        root = arguments.sources

    from .engine import Engine
    from .release import load_release

    release = load_release(root)
    print(json.dumps({"type": "ready", "vllm": release.version}), flush=True)
    for line in sys.stdin:
        try:
            for record in Engine(json.loads(line), release).trace():
                sys.stdout.write(json.dumps(record, separators=(",", ":")) + "\n")
        except Exception as error:  # an assertion of vLLM's is an answer, not a crash of ours
            reason = f"{type(error).__name__}: {error}"
            sys.stdout.write(json.dumps({"type": "error", "error": reason}) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

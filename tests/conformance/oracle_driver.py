"""Runs the shared oracle on its own random cases, in a process of its own.

`python oracle_driver.py ORACLE_DIR PRESETS CASES`: one JSON line {preset, case, trace} per case.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(directory: str, presets: str, count: int) -> None:
    sys.path.insert(0, directory)
    import oracle  # type: ignore[import-not-found]

    release = oracle.load_vllm()  # the files named by ORACLE_LITE
    for preset in presets.split(","):
        for seed in range(count):
            case: dict[str, Any] = oracle.random_workload(seed, preset)
            trace = [json.dumps(record) for record in oracle.Oracle(case, release).run()]
            print(json.dumps({"preset": preset, "case": case, "trace": trace}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

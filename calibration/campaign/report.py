"""A campaign's tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .plan import Run, total_s

BEGIN, END = "<!-- campaign -->", "<!-- /campaign -->"
Json = dict[str, Any]

# What is shown of a comparison; the whole of it is in report.json.
_SHOWN = (
    "completed", "output_throughput", "total_token_throughput", "mean_ttft_ms", "median_ttft_ms",
    "p99_ttft_ms", "mean_tpot_ms", "median_tpot_ms", "mean_itl_ms", "median_itl_ms",
    "mean_e2el_ms", "mean_running", "mean_waiting", "preemptions", "lora_loads_disk",
    "lora_loads_memory",
)  # fmt: skip

_ON_OFF = (
    "The same load with and without it, as the client saw it (one run each; the machine's own "
    "spread is in it):"
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; columns in the order of their first appearance."""
    if not rows:
        return "(nothing)\n"
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value).replace("|", "\\|")


def plan_table(plan: Sequence[Run], start_s: float) -> str:
    """The plan, and how long it takes."""
    rows = [
        {
            "run": run.name,
            "minutes": round(run.load_s / 60, 1),
            "max_loras": run.max_loras,
            "max_lora_rank": run.max_lora_rank if run.max_loras else None,
            "adapters": run.adapters,
            "requests": len(run.requests()),
            "tells": run.tells,
        }
        for run in plan
    ]
    total = total_s(plan, start_s) / 3600
    return table(rows) + f"\n{total:.1f} hours, {start_s:.0f} s per server start included\n"


def markdown(found: Json, caption: str) -> str:
    """The whole report."""
    parts = [
        caption,
        "### Runs",
        table(found["runs"]),
        "### Decisions: every recorded run replayed in the twin",
        table(found["replay"]),
        "### Step time: the fit, and the stretches of time that it did not see",
        table(_errors(found["profile"].get("step_time", {}))),
    ]
    if found["profile"].get("load_time"):
        parts += ["### Adapter loads", table(_errors(found["profile"]["load_time"]))]
    for name, check in found["checks"].items():
        parts += [
            f"### {name}: a run that was not fitted on, its arrivals simulated",
            table(_end_to_end(check, found["server_checks"][name])),
            table([row for row in check["steps"] if row["steps"] in ("all", "decode", "prefill")]),
        ]
    parts += ["### What the recorder costs", table(found["recorder"])]
    if found["on_off"]:
        parts += [
            _ON_OFF,
            table(found["on_off"]),
        ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _end_to_end(client: Json, server: Json) -> list[Json]:
    """Measured and simulated, as the client saw the tokens and as the API server did."""
    by_metric = [{row["metric"]: row for row in check["end_to_end"]} for check in (client, server)]
    rows = []
    for metric in _SHOWN:
        row: Json = {"metric": metric}
        for who, known in zip(("client", "API server"), by_metric, strict=True):
            told = known.get(metric, {})
            row |= {
                who: told.get("measured"),
                f"twin ({who})": told.get("simulated"),
                f"error % ({who})": told.get("error_percent"),
            }
        rows.append(row)
    return rows


def _errors(kinds: Mapping[str, Mapping[str, Any]]) -> list[Json]:
    return [{"kind": kind, **row} for kind, row in kinds.items()]


def update(path: Path, text: str) -> None:
    """Puts the text between the document's marks.

    Raises:
        ValueError: the document has no such marks.
    """
    document = path.read_text()
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no marks: {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")

"""`pytwin simulate --interval`: an estimate and how sure it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytwin.cli.output import note, print_csv, print_json, print_table, shown_percent
from pytwin.errors import PytwinError

if TYPE_CHECKING:
    from pytwin.cli.flags import Format
    from pytwin.uncertainty import Prediction

# Beside the four metrics of which profiles state the unexplained spread.
_ALSO = ("median_ttft_ms", "p99_ttft_ms", "p99_tpot_ms", "request_throughput")


def check_targets(targets: dict[str, str]) -> None:
    """Only the adapters' frame exists of a prediction."""
    for name, path in targets.items():
        if name != "adapters":
            raise PytwinError(f"save_{name} ({path}) is of one simulation: leave interval out")


def print_prediction(prediction: Prediction, format: Format) -> None:  # noqa: A002
    """On stdout in the wanted form; what to beware of on stderr."""
    for reason in prediction.extrapolated:
        note(f"extrapolated: {reason}")
    for reason in prediction.near_critical:
        note(f"near-critical: {reason}")
    result = prediction.to_dict()
    if format == "json":
        print_json(result)
    elif prediction.status != "ok":
        row = {"status": prediction.status, "why": prediction.error}
        print_csv([row]) if format == "csv" else print_table([row])
    elif format == "csv":
        print_csv(_rows(prediction))
    else:
        level = f"{100 * prediction.level:g} %"
        print_table(_rows(prediction), title=f"{result['profile']}, {level} intervals")
        verdict = {
            "starved_probability_percent": 100 * (prediction.starved_probability or 0.0),
            "near_critical": bool(prediction.near_critical),
        }
        verdict |= {
            f"steps 3 % longer: {name}": change for name, change in prediction.sensitivity.items()
        }
        rows = [{"figure": name, "value": value} for name, value in verdict.items()]
        print_table(rows, show=shown_percent)


def _rows(prediction: Prediction) -> list[dict[str, Any]]:
    rows = []
    for name in (*prediction.intervals, *_ALSO):
        if name in prediction.metrics:
            low, high = prediction.interval(name)
            estimate = prediction.metrics[name]
            rows.append({"metric": name, "estimate": estimate, "low": low, "high": high})
    return rows

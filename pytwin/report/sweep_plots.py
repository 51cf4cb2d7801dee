"""Throughput against served adapters, by slots: where the server saturates, where it starves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytwin.sweep.best import best_settings, settings

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#2b2b2b"
_GREY = "#9a9a9a"
_BEST = "#d1495b"


@dataclass(frozen=True)
class Measured:
    """A measured optimum, to stand beside the simulated one. Throughput in tokens/s."""

    served_adapters: int
    max_loras: int
    total_throughput: float


def throughput_panel(
    axes: Axes,
    frame: pl.DataFrame,
    *,
    title: str,
    slot_colours: Mapping[int, Any],
    measured: Measured | None = None,
) -> None:
    """One mix: a line per slot count, hollow where requests starve, a star at the best.

    Parameters
    ----------
    axes: to draw on.
    frame: a sweep's result for one mix (columns as `pytwin.sweep.best.settings` wants them).
    slot_colours: colour of each max_loras.
    measured: the best measured setting, drawn as a diamond.
    """
    import polars as pl

    points = settings(frame, [])
    offered = points.group_by("served_adapters").agg(pl.col("offered_token_throughput").mean())
    offered = offered.sort("served_adapters")
    highest = float(points["total_throughput"].max() or 1.0)  # type: ignore[arg-type]
    axes.plot(
        offered["served_adapters"],
        offered["offered_token_throughput"] / 1e3,
        color=_GREY,
        linestyle=(0, (4, 3)),
        linewidth=1.0,
        zorder=1,
    )
    for (slots,), line in points.group_by("max_loras", maintain_order=True):
        colour = slot_colours[slots]
        throughput = line["total_throughput"] / 1e3
        axes.plot(line["served_adapters"], throughput, color=colour, linewidth=1.3, zorder=2)
        faces = ["white" if starved else colour for starved in line["starved"]]
        axes.scatter(
            line["served_adapters"],
            throughput,
            s=22,
            facecolors=faces,
            edgecolors=[colour],
            linewidths=1.2,
            zorder=3,
        )
    for row in best_settings(frame, []).iter_rows(named=True):
        axes.scatter(
            row["served_adapters"],
            row["total_throughput"] / 1e3,
            marker="*",
            s=190,
            color=_BEST,
            edgecolors="white",
            linewidths=0.8,
            zorder=5,
        )
    if measured is not None:
        axes.scatter(
            measured.served_adapters,
            measured.total_throughput / 1e3,
            marker="D",
            s=64,
            facecolors="none",
            edgecolors=_INK,
            linewidths=1.3,
            zorder=6,
        )
    top = max(highest, measured.total_throughput if measured else 0.0)
    axes.set_ylim(0, top / 1e3 * 1.12)
    axes.set_xlim(left=0)
    axes.set_title(title, fontsize=9, loc="left", color=_INK)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK)


def throughput_overview(
    panels: Sequence[tuple[str, pl.DataFrame, Measured | None]],
    *,
    title: str,
    columns: int = 4,
) -> Figure:
    """A figure of panels, each (title, frame of one mix, measured best or None)."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    slots = sorted({value for _, frame, _ in panels for value in frame["max_loras"].to_list()})
    shades = colormaps["viridis"]
    colours = {
        value: shades(0.92 * place / max(len(slots) - 1, 1)) for place, value in enumerate(slots)
    }
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.5 * columns, 2.6 * rows + 1.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        name, frame, measured = panels[place]
        throughput_panel(axes, frame, title=name, slot_colours=colours, measured=measured)
        if place % columns == 0:
            axes.set_ylabel("throughput (1000 tokens/s)", fontsize=8, color=_INK)
        if place + columns >= len(panels):
            axes.set_xlabel("served adapters", fontsize=8, color=_INK)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left", color=_INK)
    _legend(figure, colours)
    return figure


def _legend(figure: Figure, colours: Mapping[int, Any]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="o", markersize=4.5, linewidth=1.3, label=f"{slots}")
        for slots, colour in colours.items()
    ]
    handles += [
        Line2D([], [], color=_GREY, linestyle=(0, (4, 3)), linewidth=1.0, label="offered"),
        Line2D(
            [],
            [],
            color=_INK,
            marker="o",
            markerfacecolor="white",
            linewidth=0,
            markersize=5,
            label="starved (served <= 0.9 of offered)",
        ),
        Line2D([], [], color=_BEST, marker="*", linewidth=0, markersize=11, label="best, twin"),
        Line2D(
            [],
            [],
            color=_INK,
            marker="D",
            markerfacecolor="none",
            linewidth=0,
            markersize=5,
            label="best measured",
        ),
    ]
    figure.legend(
        handles=handles,
        title="slots (max_loras)",
        title_fontsize=8,
        fontsize=8,
        ncols=len(handles),
        loc="outside lower left",
        frameon=False,
        alignment="left",
        columnspacing=1.2,
        handlelength=1.6,
    )

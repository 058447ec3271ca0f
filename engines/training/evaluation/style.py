"""How figures look: one palette that colour-blind readers can tell apart, a light grid, titles that ask."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK, MUTED, GRID = "#1f2933", "#66717f", "#e4e7eb"
BLUE, ORANGE, GREEN, PINK, AMBER, SKY, BROWN = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31"
PALETTE = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, BROWN)
"""Okabe and Ito, "Color Universal Design", 2008, in the order of use; brown is ours."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1)))
DPI = 150
POINTS_PER_INCH = 72
TITLE_LETTER, NOTE_LETTER = 7.4, 4.55
"""How wide a letter of titles and notes is, in points, so that lines are broken before the edge."""
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#b8c0ca",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": True,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def drawing(width: float, height: float, title: str, note: str = "") -> Iterator[Figure]:
    """A figure of ``width`` by ``height`` inches in the house style, under its title and a line of explanation."""
    titled = textwrap.wrap(title, int(width * POINTS_PER_INCH / TITLE_LETTER))
    noted = textwrap.wrap(note, int(width * POINTS_PER_INCH / NOTE_LETTER))
    top = 0.12 + 0.22 * len(titled) + 0.16 * len(noted) + 0.04
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06, rect=(0, 0, 1, 1 - top / height))
        figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
        FigureCanvasAgg(figure)
        figure.text(0.1 / width, 1 - 0.1 / height, "\n".join(titled), weight="bold", size=11.5, va="top")
        if noted:
            below = 1 - (0.14 + 0.22 * len(titled)) / height
            figure.text(0.1 / width, below, "\n".join(noted), size=8.5, color=MUTED, va="top")
        yield figure


def png_from_figure(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes (no date in it)."""
    with io.BytesIO() as held, matplotlib.rc_context(STYLE):
        figure.savefig(held, format="png", dpi=DPI, metadata={"Software": None})
        return held.getvalue()


def colour_of(place: int) -> str:
    """The colour of the n-th line."""
    return PALETTE[place % len(PALETTE)]


def whiskers(
    axes: Any, at: float, low: float, high: float, *, vertical: bool = False, colour: str = INK, width: float = 1.3
) -> None:
    """An interval as a thin line without caps."""
    (axes.vlines if vertical else axes.hlines)(at, low, high, color=colour, linewidth=width, zorder=4)


def only_grid(axes: Any, which: str) -> None:
    """Grid lines across one axis alone."""
    axes.grid(False)
    axes.grid(True, axis=which)

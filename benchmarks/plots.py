"""Pictures of latencies: how many took longer than so long, both axes logarithmic, so that the tail is seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOUR_OF = {
    "Chiasm": "#d1495b",
    "Chiasm on Ray": "#d1495b",
    "Chiasm inline": "#f08a4b",
    "bare loop": "#222222",
    "raw iceoryx2": "#222222",
}
OTHERS = ("#3a86ff", "#2a9d8f", "#7c4dff", "#6a994e", "#8d99ae", "#b5838d", "#118ab2")
OURS = "Chiasm"


def draw_tails(path: Path, panels: Mapping[str, Mapping[str, NDArray[Any]]], *, unit: str, title: str) -> None:
    """One panel each of contenders (title to values in ``unit``): the share of values beyond each value."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    free = iter(OTHERS * (1 + len(names) // len(OTHERS)))
    colour = {name: COLOUR_OF.get(name) or next(free) for name in names}
    figure, axes = plt.subplots(1, len(panels), figsize=(1.2 + 4.6 * len(panels), 4.2), squeeze=False, sharey=True)
    for axis, (heading, contenders) in zip(axes[0], panels.items(), strict=True):
        for name, values in contenders.items():
            ordered = np.sort(np.asarray(values, dtype=np.float64))
            beyond = 1 - np.arange(len(ordered)) / len(ordered)
            ours = name.startswith(OURS)
            axis.step(
                ordered, beyond, where="post", label=name, color=colour[name], lw=2.4 if ours else 1.3, zorder=3 if ours else 2
            )
        axis.set(xscale="log", yscale="log", xlabel=unit, title=heading)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(True, which="both", alpha=0.25)
        for share, label in ((0.5, "p50"), (0.1, "p90"), (0.01, "p99")):
            axis.axhline(share, color="#999999", lw=0.7, ls=":")
            axis.annotate(
                label, (1, share), xycoords=("axes fraction", "data"), fontsize=8, ha="right", va="bottom", color="#666666"
            )
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("share that took longer")
    handles = {h.get_label(): h for axis in axes[0] for h in axis.get_lines() if not str(h.get_label()).startswith("_")}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=min(len(handles), 5), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    rows = -(-len(handles) // 5)
    figure.tight_layout(rect=(0, 0.06 * rows, 1, 0.98))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_growth(path: Path, lines: Mapping[str, tuple[list[int], list[float]]], *, x: str, y: str, title: str) -> None:
    """Lines over a number of streams, each beside what would be linear from its first point."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    for k, (name, (counts, values)) in enumerate(lines.items()):
        axis.plot(counts, values, "o-", color=OTHERS[k], label=name)
        axis.plot(counts, [values[0] * n / counts[0] for n in counts], ":", color=OTHERS[k], lw=1, label=f"{name}, if linear")
    axis.set(xlabel=x, ylabel=y, title=title)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.grid(True, alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)

"""How every figure of the report is drawn: one style; a colour, marker and line a rule; SVG that reads anywhere."""

from __future__ import annotations

import io
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .names import BACKPROP, LINEAR, PRINTED, rule_name

Style = dict[str, Any]
"""How a line is drawn, as matplotlib's `plot` takes it."""

# Apart for the colour-blind (hues of Okabe and Ito), and 3:1 at least against both white and near-black.
BLUE: Style = {"color": "#2f86d1", "marker": "o"}
ORANGE: Style = {"color": "#d9601a", "marker": "s"}
GREEN: Style = {"color": "#159a76", "marker": "^"}
PURPLE: Style = {"color": "#a663cc", "marker": "D"}
GREY: Style = {"color": "#808080", "marker": "v"}
YELLOW: Style = {"color": "#b58900", "marker": "o"}
RULE_STYLES: dict[str, Style] = {
    BACKPROP: {**BLUE, "linestyle": "-"},
    LINEAR: {**ORANGE, "linestyle": (0, (4, 1.5))},
    PRINTED: {**GREEN, "linestyle": (0, (1, 1.2))},
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY["color"],
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


def rule_line(rule: str) -> Style:
    """How a rule's line is drawn, and its label."""
    return {**RULE_STYLES[rule], "label": rule_name(rule)}


@contextmanager
def axes(width: float = 4.6, height: float = 3.1) -> Generator[Axes, None, None]:
    """Axes of `width` x `height` inches in the report's style; at 4.6 the text is legible on a phone."""
    with mpl.rc_context(_STYLE):
        yield Canvas(figsize=(width, height), layout="constrained").add_subplot()


@contextmanager
def panels(titles: Sequence[str], width: float = 4.6, height: float = 2.4) -> Generator[list[Axes], None, None]:
    """Axes above one another, one a title, each `width` x `height` inches, in the report's style."""
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(width, height * len(titles)), layout="constrained")
        drawn = list(canvas.subplots(len(titles), squeeze=False)[:, 0])
        for panel, title in zip(drawn, titles, strict=True):
            panel.set_title(title, loc="left", fontsize="medium")
        yield drawn


def legend_above(drawn: Axes, handles: Sequence[Artist]) -> None:
    """A legend above all panels of the figure, off the data, two names a row.

    Args:
        drawn: Any axes of the figure.
        handles: Labelled.
    """
    canvas = drawn.get_figure(root=True)
    assert canvas is not None
    canvas.legend(handles=handles, loc="outside upper left", ncols=2, fontsize="small", handlelength=3)


def label_ends(drawn: Axes, *, apart: float = 0.085) -> None:
    """Write each labelled line's name at its right end, in its colour, in place of a legend.

    Args:
        drawn: Its scales and limits are set already; the lines have labels.
        apart: The least distance of two names, as a share of the axes' height.
    """
    drawn.autoscale_view()
    ends: list[tuple[float, Line2D]] = []
    for line in drawn.get_lines():
        points = np.asarray(line.get_xydata(), dtype=float)
        points = points[np.isfinite(points).all(axis=1)]
        if not str(line.get_label()).startswith("_") and len(points):
            ends.append((float(drawn.transAxes.inverted().transform(drawn.transData.transform(points[-1]))[1]), line))
    ends.sort(key=lambda end: end[0])
    heights = _spread([height for height, _ in ends], apart)
    for height, (_, line) in zip(heights, ends, strict=True):
        drawn.annotate(
            str(line.get_label()),
            (1, height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=line.get_color(),
            annotation_clip=False,
        )


def _spread(heights: Sequence[float], apart: float) -> list[float]:
    """The heights, ascending, moved as little as keeps them apart: least squares, by pooling those that collide."""
    pools: list[list[float]] = []
    for place, height in enumerate(heights):
        pools.append([height - place * apart])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    moved = [fmean(pool) + place * apart for place, pool in enumerate(pool for pool in pools for _ in pool)]
    # Within the axes: what lies above and below them belongs to others.
    outside = max(0.0, moved[-1] - 1) if moved else 0.0
    return [height - outside for height in moved]


def as_share(drawn: Axes, what: str) -> None:
    """Label axes that show a share over whole numbers: epochs, steps, layers."""
    drawn.set_ylabel(what)
    drawn.xaxis.set_major_locator(MaxNLocator(integer=True))
    in_percent(drawn.yaxis)
    drawn.set_ylim(bottom=0)


def in_percent(axis: Axis) -> None:
    """Show shares as whole percentages."""
    axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))


def to_svg(drawn: Axes, salt: str) -> str:
    """The drawing from `<svg` to `</svg>`, transparent, the same bytes for the same records.

    Args:
        drawn: Any axes of the figure.
        salt: Different for every figure of a page; the names inside the SVG are derived from it.
    """
    buffer = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        canvas = drawn.get_figure(root=True)
        assert canvas is not None
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") : text.rindex("</svg>") + len("</svg>")]

"""A matplotlib drawing as SVG that stands inside a page: its colours are the page's, in light and in dark."""

from __future__ import annotations

import io
import itertools
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

# Placeholders that matplotlib draws with, and the style sheet's names that replace them.
INK, LINE = "#010203", "#040506"
SERIES = tuple(f"#0a000{i}" for i in range(1, 9))
_VARIABLES = {INK: "var(--ink)", LINE: "var(--line)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, start=1)
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One a series: who cannot tell the colours apart tells the marks."""
_WIDTH = 4.6  # inches; 331 units wide, so that a phone shows type at about its size
_POINTS = 240  # points of a curve that are drawn; more are averaged


@dataclass(frozen=True)
class Figure:
    """An SVG element, and what someone reads who cannot see it."""

    title: str
    svg: str
    alt: str


def thinned(x: Sequence[float], y: Sequence[float], points: int = _POINTS) -> tuple[list[float], list[float]]:
    """At most `points` points: means over runs of neighbours of (nearly) equal length, the ends kept in place."""
    if len(x) <= points:
        return list(x), list(y)
    edges = [round(i * len(x) / points) for i in range(points + 1)]
    means = [[sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)] for values in (x, y)]
    means[0][0], means[0][-1] = x[0], x[-1]
    return means[0], means[1]


def drawn(title: str, alt: str, draw: Callable[[Any], None], height: float = 2.9) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import EngFormatter

    style: Any = {
        "svg.fonttype": "none",  # text stays text: it is found, read aloud, and set in the page's font
        "svg.hashsalt": title,
        "font.size": 11,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": LINE,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.grid": True,
        "grid.color": LINE,
        "grid.linewidth": 0.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "lines.linewidth": 1.6,
    }
    with matplotlib.rc_context(style):
        canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
        axes = canvas.add_subplot()
        draw(axes)
        if axes.get_xlabel() == "tokens":
            axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg")
    return Figure(title, _inline(buffer.getvalue(), title, alt), alt)


def _inline(svg: str, title: str, alt: str) -> str:
    """The SVG element alone: no prolog, no metadata, no size of its own, ids that no other figure of the page has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    for size in ("height", "width"):
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    # Ids have to be unique in a page; the alternative text says which figure this is.
    prefix = re.sub(r"\W+", "-", f"{title}-{zlib.crc32(alt.encode()):x}")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-")
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt, quote=True)}"', 1)

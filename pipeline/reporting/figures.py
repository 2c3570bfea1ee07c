"""Curves and intervals as SVG that stands inside the page: its colours are the page's, in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.run_folder import Run, Stage
from pipeline.reporting.table import count, percent

# Placeholders that matplotlib draws with, and the style sheet's names that replace them.
_INK, _LINE = "#010203", "#040506"
_SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005")
_VARIABLES = {_INK: "var(--ink)", _LINE: "var(--line)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(_SERIES, start=1)
}
_WIDTH = 4.6  # inches; 331 units wide, so that a phone shows type at about its size
_POINTS = 240  # points of a curve that are drawn; more are averaged


@dataclass(frozen=True)
class Figure:
    """An SVG element, and what someone reads who cannot see it."""

    title: str
    svg: str
    alt: str


def stage_figures(stage: Stage) -> list[Figure]:
    """The curves of one training stage, as far as it logged them."""
    drawn = [_loss(stage), _reward(stage)]
    if stage.series("reward")[1]:
        drawn += [
            _curve(stage, "completions/mean_length", "completion length", "tokens"),
            _curve(stage, "entropy", "entropy of the policy", "nats per token"),
        ]
    return [figure for figure in drawn if figure is not None]


def evaluation_figure(run: Run, name: str) -> Figure | None:
    """Each checkpoint's rate with its interval."""
    having = [stage for stage in run.models if "rate" in (stage.evaluations.get(name) or {})]
    if not having:
        return None

    def draw(axes: Any) -> None:
        for row, stage in enumerate(having):
            result, colour = stage.evaluations[name], _SERIES[0]
            axes.plot([100 * result["low"], 100 * result["high"]], [row, row], color=colour, linewidth=5, alpha=0.35)
            axes.plot([100 * result["rate"]], [row], "o", color=colour, markersize=6)
            beside = 100 * result["high"] + 2 if result["high"] < 0.8 else 100 * result["low"] - 2
            axes.text(
                beside,
                row,
                percent(result["rate"]),
                va="center",
                ha="left" if result["high"] < 0.8 else "right",
                color=_INK,
            )
        axes.set_yticks(range(len(having)), [stage.name for stage in having])
        axes.set_ylim(len(having) - 0.5, -0.5)
        axes.set_xlim(-1, 101)
        axes.set_xlabel("% of questions")

    parts = [f"{stage.name} {percent(stage.evaluations[name]['rate'])}" for stage in having]
    alt = f"{name}: rate of right answers with 95 % intervals: {', '.join(parts)}"
    return _figure(name, alt, draw, height=0.8 + 0.36 * len(having))


def bars(title: str, alt: str, labels: Sequence[str], values: Sequence[float], texts: Sequence[str]) -> Figure:
    """Horizontal bars from top to bottom, each with its text behind it."""

    def draw(axes: Any) -> None:
        rows = range(len(values))
        axes.barh(rows, values, color=_SERIES[0], alpha=0.75, height=0.7)
        most = max(values) or 1
        for row, value, text in zip(rows, values, texts, strict=True):
            axes.text(value + most / 60, row, text, va="center", color=_INK)
        axes.set_yticks(rows, labels)
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_xlim(0, 1.35 * most)
        axes.set_xticks([])
        axes.grid(False)

    return _figure(title, alt, draw, height=0.4 + 0.3 * len(values))


def _loss(stage: Stage) -> Figure | None:
    axis, label = _axis(stage)
    steps, losses = stage.series("loss", axis)
    held_out = stage.series("eval_loss", axis)
    # A policy gradient's loss says nothing about progress: its reward is drawn instead.
    if not losses or stage.series("reward")[1]:
        return None

    def draw(axes: Any) -> None:
        axes.plot(*thinned(steps, losses), color=_SERIES[0], label="training")
        if held_out[1]:
            axes.plot(*thinned(*held_out), "o-", color=_SERIES[1], markersize=3, label="validation")
            axes.legend()
        axes.set_xlabel(label)
        axes.set_ylabel("nats per token")

    alt = (
        f"loss of {stage.name}: from {losses[0]:.3f} to {losses[-1]:.3f} nats per token over {count(steps[-1])} {label}"
    )
    if held_out[1]:
        alt += f"; validation {held_out[1][-1]:.3f} at the end"
        bits = stage.last("eval_bits_per_byte")
        alt += "" if bits is None else f", {bits:.3f} bits per byte"
    return _figure("loss", alt, draw)


def _reward(stage: Stage) -> Figure | None:
    steps, rewards = stage.series("reward")
    if not rewards:
        return None
    parts = {
        key.removeprefix("rewards/").removesuffix("/mean"): stage.series(key)
        for key in sorted({key for line in stage.metrics for key in line})
        if key.startswith("rewards/") and key.endswith("/mean")
    }

    def draw(axes: Any) -> None:
        axes.plot(steps, rewards, color=_SERIES[0], linewidth=0.8, alpha=0.4)
        axes.plot(*thinned(steps, rewards, points=20), color=_SERIES[0], linewidth=2, label="reward, all weighted")
        for colour, (name, series) in zip(_SERIES[1:], parts.items(), strict=False):
            axes.plot(*thinned(*series, points=20), color=colour, label=name)
        axes.set_xlabel("step")
        axes.set_ylabel("mean reward")
        axes.legend()

    first, last = (sum(part) / len(part) for part in (rewards[:5], rewards[-5:]))
    alt = f"reward of {stage.name}: mean {first:.3f} over the first five logged steps, {last:.3f} over the last five"
    return _figure("reward", alt, draw)


def _curve(stage: Stage, key: str, title: str, unit: str) -> Figure | None:
    steps, values = stage.series(key)
    if not values:
        return None

    def draw(axes: Any) -> None:
        axes.plot(steps, values, color=_SERIES[0], linewidth=0.8, alpha=0.4)
        axes.plot(*thinned(steps, values, points=20), color=_SERIES[0], linewidth=2)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)

    return _figure(title, f"{title} of {stage.name}: from {values[0]:.3g} to {values[-1]:.3g} {unit}", draw)


def _axis(stage: Stage) -> tuple[str, str]:
    return ("tokens", "tokens") if stage.series("tokens")[1] else ("step", "steps")


def thinned(x: Sequence[float], y: Sequence[float], points: int = _POINTS) -> tuple[list[float], list[float]]:
    """At most `points` points: means over runs of neighbours of (nearly) equal length, the ends kept in place."""
    if len(x) <= points:
        return list(x), list(y)
    edges = [round(i * len(x) / points) for i in range(points + 1)]
    runs = list(zip(edges, edges[1:], strict=False))
    means = [[sum(values[a:b]) / (b - a) for a, b in runs] for values in (x, y)]
    means[0][0], means[0][-1] = x[0], x[-1]
    return means[0], means[1]


def _figure(title: str, alt: str, draw: Callable[[Any], None], height: float = 2.9) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import EngFormatter

    style: Any = {
        "svg.fonttype": "none",  # text stays text: it is found, read aloud, and set in the page's font
        "svg.hashsalt": title,
        "font.size": 11,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _LINE,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.grid": True,
        "grid.color": _LINE,
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
    from html import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    # Ids have to be unique in a page; the alternative text says which figure this is.
    prefix = re.sub(r"\W+", "-", f"{title}-{abs(hash_of(alt)):x}")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-")
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt, quote=True)}"', 1)


def hash_of(text: str) -> int:
    """A short hash that is the same in every process."""
    import zlib

    return zlib.crc32(text.encode())

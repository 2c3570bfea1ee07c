"""What a report draws: curves of a stage with all its seeds, a chapter's picture, bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.reporting.chapters import Chapter
from pipeline.reporting.drawing import INK, MARKERS, SERIES, Figure, drawn, thinned
from pipeline.reporting.run_folder import Stage
from pipeline.reporting.table import count, percent

_SPREAD = 30  # from this ratio of its ends on, an axis of numbers such as mentions is drawn in powers


def stage_figures(stage: Stage, others: Sequence[Stage] = ()) -> list[Figure]:
    """The curves of one training stage, as far as it logged them; `others` are the same stage with other seeds."""
    figures: list[Figure | None] = [_loss(stage, others)]
    if stage.series("reward")[1]:
        figures = [  # in the place of a policy gradient's loss, which says nothing about progress
            _reward(stage, others),
            _curve(stage, others, "completions/mean_length", "completion length", "tokens"),
            _curve(stage, others, "entropy", "entropy of the policy", "nats per token"),
        ]
    return [figure for figure in figures if figure is not None]


def chapter_figure(chapter: Chapter) -> Figure | None:
    """The picture of a chapter: lines where its series stand over numbers, else a row of dots for each name, those of other
    seeds hollow. Series have equally long `x`, `y` and, where known, `low` and `high`."""
    if not chapter.series:
        return None
    over_numbers = all(isinstance(x, int | float) for one in chapter.series for x in one["x"])
    shares = all(
        0 <= value <= 1 for one in chapter.series for key in ("y", "low", "high") for value in one.get(key, ())
    )
    drawing = _lines if over_numbers else _rows
    return drawing(chapter, 100.0 if shares else 1.0)


def bars(title: str, alt: str, labels: Sequence[str], values: Sequence[float], texts: Sequence[str]) -> Figure:
    """Horizontal bars from top to bottom, each with its text behind it."""

    def draw(axes: Any) -> None:
        rows = range(len(values))
        axes.barh(rows, values, color=SERIES[0], alpha=0.75, height=0.7)
        most = max(values) or 1
        for row, value, text in zip(rows, values, texts, strict=True):
            axes.text(value + most / 60, row, text, va="center", color=INK)
        axes.set_yticks(rows, labels)
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_xlim(0, 1.35 * most)
        axes.set_xticks([])
        axes.grid(False)

    return drawn(title, alt, draw, height=0.4 + 0.3 * len(values))


def _lines(chapter: Chapter, scale: float) -> Figure:
    def draw(axes: Any) -> None:
        places = sorted({x for one in chapter.series for x in one["x"]})
        for i, one in enumerate(chapter.series):
            colour, y = SERIES[i % len(SERIES)], [scale * value for value in one["y"]]
            axes.plot(one["x"], y, color=colour, marker=MARKERS[i % len(MARKERS)], markersize=5, label=one["name"])
            if one.get("low") and one.get("high"):
                edges = ([scale * value for value in one[edge]] for edge in ("low", "high"))
                axes.fill_between(one["x"], *edges, color=colour, alpha=0.14, linewidth=0)
        if len(places) > 2 and places[0] >= 0 and places[-1] > _SPREAD * max(min(x for x in places if x > 0), 1):
            import numpy as np

            axes.set_xscale("function", functions=(np.log1p, np.expm1))  # keeps 0 mentions on the axis
            axes.set_xticks(places, [f"{x:g}" for x in places])
            axes.minorticks_off()
        axes.set_xlabel(chapter.x_label)
        axes.set_ylabel(_unit(chapter.y_label, scale))
        if scale == 100:
            axes.set_ylim(-3, 103)
        if len(chapter.series) > 1:
            axes.figure.legend(loc="outside upper left", ncols=2, fontsize=10)

    parts = [
        f"{one['name']} from {_amount(one['y'][0], scale)} at {one['x'][0]:g} to {_amount(one['y'][-1], scale)} at "
        f"{one['x'][-1]:g}"
        for one in chapter.series
    ]
    alt = f"{chapter.title}: {chapter.y_label or 'values'} over {chapter.x_label or 'x'}: {'; '.join(parts)}"
    return drawn(chapter.title, alt, draw, height=2.7 + 0.12 * len(chapter.series))


def _rows(chapter: Chapter, scale: float) -> Figure:
    others = chapter.others
    rows = list(dict.fromkeys(str(x) for one in chapter.series for x in one["x"]))
    several = len(chapter.series) > 1

    def draw(axes: Any) -> None:
        for i, one in enumerate(chapter.series):
            colour, shift = SERIES[i % len(SERIES)], (i - (len(chapter.series) - 1) / 2) * 0.7 / len(chapter.series)
            for j, (x, y) in enumerate(zip(one["x"], one["y"], strict=True)):
                row, label = rows.index(str(x)) + shift, one["name"] if several and j == 0 else None
                low, high = (one[edge][j] if one.get(edge) else y for edge in ("low", "high"))
                axes.plot([scale * low, scale * high], [row, row], color=colour, linewidth=6, alpha=0.35)
                for value in others.get(str(x), ()):
                    axes.plot([scale * value], [row], "o", markersize=6, markerfacecolor="none", markeredgecolor=INK)
                axes.plot([scale * y], [row], MARKERS[i % len(MARKERS)], color=colour, markersize=7, label=label)
                if not several:
                    left = scale == 100 and high > 0.8
                    beside = scale * low - 3 if left else scale * high + (3 if scale == 100 else 0)
                    axes.text(beside, row, _amount(y, scale), va="center", ha="right" if left else "left", color=INK)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        if scale == 100:
            axes.set_xlim(-2, 102)
        axes.set_xlabel(_unit(chapter.y_label, scale))
        if several:
            axes.figure.legend(loc="outside upper left", ncols=2, fontsize=10)

    parts = [
        f"{one['name'] + ': ' if several else ''}{x} {_amount(y, scale)}"
        for one in chapter.series
        for x, y in zip(one["x"], one["y"], strict=True)
    ]
    alt = f"{chapter.title}: {chapter.y_label or 'values'}, with intervals: {', '.join(parts)}"
    seeds = max((len(values) for values in others.values()), default=0)
    alt += f"; hollow: {seeds} other seeds" if seeds else ""
    height = 0.75 + 0.42 * len(rows) * max(1, len(chapter.series) / 2) + 0.12 * len(chapter.series) * several
    return drawn(chapter.title, alt, draw, height=height)


def _unit(label: str, scale: float) -> str:
    return (f"{label}, %" if label else "%") if scale == 100 else label


def _amount(value: float, scale: float) -> str:
    return percent(value) if scale == 100 else f"{value:.4g}"


def _loss(stage: Stage, others: Sequence[Stage]) -> Figure | None:
    axis, label = ("tokens", "tokens") if stage.series("tokens")[1] else ("step", "steps")
    steps, losses = stage.series("loss", axis)
    held_out = stage.series("eval_loss", axis)
    if not losses:
        return None

    def draw(axes: Any) -> None:
        _seeds(axes, others, "loss", axis)
        axes.plot(*thinned(steps, losses), color=SERIES[0], label="training")
        if held_out[1]:
            axes.plot(*thinned(*held_out), "o-", color=SERIES[1], markersize=3, label="validation")
        if held_out[1] or others:
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
    return drawn("loss", alt + _seeds_told(others), draw)


def _reward(stage: Stage, others: Sequence[Stage]) -> Figure:
    _, rewards = stage.series("reward")
    parts = {
        key.removeprefix("rewards/").removesuffix("/mean"): stage.series(key)
        for key in sorted({key for line in stage.metrics for key in line})
        if key.startswith("rewards/") and key.endswith("/mean")
    }

    def draw(axes: Any) -> None:
        _smoothed(axes, stage, others, "reward", "reward, all weighted")
        for colour, (name, series) in zip(SERIES[1:], parts.items(), strict=False):
            axes.plot(*thinned(*series, points=20), color=colour, label=name)
        axes.set_ylabel("mean reward")
        axes.figure.legend(loc="outside upper left", ncols=2, fontsize=10)

    first, last = (sum(part) / len(part) for part in (rewards[:5], rewards[-5:]))
    alt = f"reward of {stage.name}: mean {first:.3f} over the first five logged steps, {last:.3f} over the last five"
    return drawn("reward", alt + _seeds_told(others), draw, height=3.3)


def _curve(stage: Stage, others: Sequence[Stage], key: str, title: str, unit: str) -> Figure | None:
    _, values = stage.series(key)
    if not values:
        return None

    def draw(axes: Any) -> None:
        _smoothed(axes, stage, others, key)
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)

    alt = f"{title} of {stage.name}: from {values[0]:.3g} to {values[-1]:.3g} {unit}"
    return drawn(title, alt + _seeds_told(others), draw)


def _smoothed(axes: Any, stage: Stage, others: Sequence[Stage], key: str, label: str | None = None) -> None:
    """A curve over steps, pale as it was logged and strong as its means, before those of other seeds."""
    _seeds(axes, others, key, "step")
    steps, values = stage.series(key)
    axes.plot(steps, values, color=SERIES[0], linewidth=0.8, alpha=0.4)
    axes.plot(*thinned(steps, values, points=20), color=SERIES[0], linewidth=2, label=label)
    axes.set_xlabel("step")


def _seeds(axes: Any, others: Sequence[Stage], key: str, against: str) -> None:
    """The same curve with other seeds, behind everything else."""
    for i, other in enumerate(others):
        axes.plot(
            *thinned(*other.series(key, against), points=40),
            color=INK,
            linewidth=0.9,
            alpha=0.45,
            linestyle="--",
            label="other seeds" if i == 0 else None,
        )


def _seeds_told(others: Sequence[Stage]) -> str:
    return f"; with {len(others)} other seed{'s' if len(others) > 1 else ''}" if others else ""

"""The run in one table of plain text, and how numbers are written in all reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.reporting.run_folder import read_run

KINDS = (
    "Per cent: right answers (ends_turn: those that ended; judge_win_rate: those preferred) with 95 % Wilson intervals, of "
    "several samples a question with bootstrap intervals. Points (NAME_change): the change since the checkpoint that it is "
    "compared with, on the same questions. Other values with 95 % bootstrap intervals."
)
"""What the results of a table are, in words."""


def summary_table(folder: str | Path) -> str:
    """For each checkpoint of a run the same evaluations side by side, time and tokens; ready to be printed.

    Raises:
        PipelineError: there is no run in `folder`.
    """
    run = read_run(folder)
    columns = run.models or run.stages
    rows = [["", *(stage.name for stage in columns)]]
    for name in run.evaluation_names:
        rows.append([name, *(result_text(stage.evaluations.get(name)) for stage in columns)])
    rows.append(["time", *(duration(stage.seconds) for stage in columns)])
    rows.append(["tokens", *(count(stage.tokens) for stage in columns)])
    others = [stage for stage in run.stages if stage not in columns]
    lines = aligned(rows)
    if others:
        lines.append("besides: " + ", ".join(f"{stage.name} {duration(stage.seconds)}" for stage in others))
    return "\n".join([*lines, *(f"missing: {text}" for text in run.missing)])


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines of a table: the first column flush left, the others flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        row[0].ljust(widths[0])
        + "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


def result_text(result: dict[str, Any] | None) -> str:
    """A result with its interval: `84.2 % [79.0, 88.3]`, or a value as it is; a dash without one."""
    if not result:
        return "–"
    if "rate" in result:
        return f"{percent(result['rate'])} [{100 * result['low']:.1f}, {100 * result['high']:.1f}]"
    if "value" not in result:
        return "–"
    interval = f" [{bounds(result, ', ')}]" if bounds(result) else ""
    return (points(result["value"]) if "unit" in result else f"{result['value']:.4g}") + interval


def bounds(result: dict[str, Any], between: str = " – ") -> str:
    """The interval in the unit of the result; nothing for what was counted, not drawn, and has none."""
    if not result.get("low", 0) < result.get("high", 0):
        return ""
    form, scale = ("{:.1f}", 100) if "rate" in result else ("{:+.1f}", 100) if "unit" in result else ("{:.4g}", 1)
    return between.join(form.format(scale * result[key]) for key in ("low", "high"))


def points(change: float) -> str:
    """A change of a rate."""
    return f"{100 * change:+.1f} points"


def percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def duration(seconds: float | None) -> str:
    """`8.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: float | None) -> str:
    """`812`, `48.5 k`, `2.40 M`, `1.30 B`."""
    if number is None:
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size * 0.9995:
            digits = number / size
            return f"{digits:.2f} {unit}" if digits < 10 else f"{digits:.1f} {unit}"
    return f"{number:.0f}"

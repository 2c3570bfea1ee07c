"""`removed.html`: what each step of a corpus kept and dropped, as pictures, a table, and samples of what was dropped."""

from __future__ import annotations

from typing import Any

from pipeline.reporting.drawing import Figure
from pipeline.reporting.figures import bars
from pipeline.reporting.render import render
from pipeline.reporting.table import count

Step = dict[str, Any]


def funnel_figures(name: str, steps: list[Step]) -> list[Figure]:
    """Documents and bytes after each step.

    Args:
        name: of the corpus.
        steps: `removed.json`, as `pipeline.corpus.funnel.Step.to_json` gives each.
    """
    if not steps:
        return []
    figures = []
    for what, title in (("documents", "documents left after each step"), ("bytes", "bytes left after each step")):
        values = [steps[0][f"{what}_in"], *(step[f"{what}_out"] for step in steps)]
        labels = ["given", *(step["step"] for step in steps)]
        texts = [f"{count(value)}B" if what == "bytes" else f"{value:,}" for value in values]
        told = ", ".join(f"{label} {text}" for label, text in zip(labels, texts, strict=True))
        figures.append(bars(title, f"{name}: {what} left: {told}", labels, values, texts))
    return figures


def funnel_page(name: str, steps: list[Step]) -> str:
    """One page that needs nothing else.

    Args:
        name: of the corpus.
        steps: `removed.json`.
    """
    return render("removed.html.jinja", name=name, steps=steps, figures=funnel_figures(name, steps))

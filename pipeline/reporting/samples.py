"""`samples.html`: completions of the same problems side by side by step, what they earn, and what their self-checks did."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.evaluation.self_checks import checks
from pipeline.manifest import write_atomically
from pipeline.reporting.run_folder import Row, json_lines
from pipeline.statistics import counts

STEPS_SHOWN = 6
PAGE = "samples.html"
ROLLOUTS = "rollouts.jsonl"

_THINK_TAG = re.compile(r"(</?think>)")


@contextlib.contextmanager
def samples_page(directory: Any) -> Iterator[None]:
    """Write the page of a stage's `rollouts.jsonl` when its training ends, also when a rail or an error ends it."""
    try:
        yield
    finally:
        if directory.is_main and (directory.path / ROLLOUTS).is_file():
            write_atomically(directory.path / PAGE, page(directory.path))


def page(directory: str | Path) -> str:
    """The page of one stage's directory, which needs nothing else.

    Args:
        directory: With `rollouts.jsonl`, as `pipeline.evaluation.rollouts.RolloutsCallback` writes it.
    """
    from pipeline.reporting.page import spread
    from pipeline.reporting.render import render

    directory = Path(directory)
    rows, _ = json_lines(directory / ROLLOUTS)
    every = sorted({row["step"] for row in rows})
    steps = spread(every, STEPS_SHOWN)
    problems = []
    for problem in sorted({row["problem"] for row in rows}):
        own = [row | {"parts": parts(row["completion"])} for row in rows if row["problem"] == problem]
        problems.append([(step, [row for row in own if row["step"] == step]) for step in steps])
    return render(
        "samples.html.jinja",
        name=directory.name,
        table=[by_step(step, [row for row in rows if row["step"] == step]) for step in every],
        names=list(dict.fromkeys(name for row in rows for name in row["rewards"])),
        problems=problems,
    )


def by_step(step: int, rows: list[Row]) -> dict[str, Any]:
    """One line of the table: what the completions of one step earn on average, and what their self-checks did.

    `right`, `wrong_to_right` and `right_to_wrong` are None or `pipeline.statistics.counts`.
    """
    checked = [row for row in rows if checks(row["completion"])]
    wrong = [row["right"] for row in checked if row["right_before"] is False]
    right = [not row["right"] for row in checked if row["right_before"]]
    names = dict.fromkeys(name for row in rows for name in row["rewards"])
    return {
        "step": step,
        "n": len(rows),
        "reward": _mean([row["reward"] for row in rows]),
        "rewards": {name: _mean([row["rewards"].get(name) for row in rows]) for name in names},
        "right": _counts([row["right"] for row in rows if row["right"] is not None]),
        "tokens": _mean([row["tokens"] for row in rows]),
        "ended": sum(row["ended"] for row in rows),
        "checked": len(checked),
        "wrong_to_right": _counts(wrong),
        "right_to_wrong": _counts(right),
    }


def parts(text: str) -> list[dict[str, Any]]:
    """A completion cut at its think tags: {"think": bool, "closed": bool, "spans": [(text, begins a self-check)]}.

    A closing tag without an opening one ends a think part that the prompt had opened.
    """
    found: list[dict[str, Any]] = []
    thinking = False
    for piece in _THINK_TAG.split(text):
        if piece == "<think>":
            thinking = True
        elif piece == "</think>":
            if not thinking:
                found = [{**part, "think": True} for part in found]
            elif found and found[-1]["think"]:
                found[-1]["closed"] = True
            thinking = False
        elif piece.strip():
            found.append({"think": thinking, "closed": not thinking, "spans": _spans(piece.strip("\n"))})
    return found


def _spans(text: str) -> list[tuple[str, bool]]:
    spans, end = [], 0
    for start, stop in checks(text):
        spans += [(text[end:start], False), (text[start:stop], True)]
        end = stop
    return [span for span in [*spans, (text[end:], False)] if span[0]]


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _counts(outcomes: list[bool]) -> dict[str, Any] | None:
    return counts(outcomes) if outcomes else None

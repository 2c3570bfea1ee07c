"""A chapter of the report: what its models answered, counted, and a text that says what the counts say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.chapters.material import Row, read_rows
from pipeline.errors import PipelineError
from pipeline.manifest import MANIFEST, compute, dump, read_manifest, write_atomically
from pipeline.statistics import counts, mean_interval, paired_difference, sampled_counts, wilson_interval

Figure = dict[str, Any]
FIFTHS = 5
POINTS = {"unit": "points"}
"""Of a figure that is the difference of two shares."""
Holds = Callable[[Row], bool]


class Answer(Row):
    """A row that knows whose answer it is, and says so where it lacks a column."""

    def __init__(self, row: Row, whose: str):
        super().__init__(row)
        self.whose = whose

    def __missing__(self, column: str) -> Any:
        raise unfit([self], f"an answer lacks `{column}`, found {', '.join(self)}")


def unfit(rows: Sequence[Row], text: str) -> PipelineError:
    """The error that answers do not have what a chapter counts, with their file, arm and evaluation where they are known."""
    known = str(getattr(rows[0], "whose", "rows of a chapter")) if rows else "no rows"
    return PipelineError(
        f"{known}: {text}. Evaluate the model anew, with the rows that the chapter's `exercises` wrote."
    )


@dataclass(frozen=True)
class Arm:
    """One model of an experiment: the directory that holds its answers, of a stage or of an evaluation."""

    name: str
    path: Path

    def answers(self, evaluation: str) -> list[Row]:
        """Every answer to one evaluation. Raises `PipelineError` where it was not asked, or nothing was answered."""
        file = self.path / "evaluation" / f"{evaluation}.jsonl"
        if not file.is_file():
            raise PipelineError(
                f"{file} is not there: the chapter reads the answers of {self.name} to the evaluation {evaluation}. Name it "
                f"under `evaluations` of the recipe that writes {self.path}."
            )
        whose = f"{file} (arm {self.name}, evaluation {evaluation})"
        rows = [Answer(row, whose) for row in read_rows(file)]
        if not rows:
            raise PipelineError(f"{whose}: no answers: evaluate {self.path} anew.")
        return list[Row](rows)

    @property
    def flops(self) -> float | None:
        """Of its training; None for what was only evaluated."""
        found = read_manifest(self.path).get("flops") if (self.path / MANIFEST).is_file() else None
        return float(found) if found else None

    def compute(self, beside: Sequence[Arm] = ()) -> float:
        """FLOPs of this stage and all it was made from, rollouts counted, but for base models, and for the arms `beside` with
        what those were made from."""
        return sum(_compute_by_stage(self.path.resolve(), {arm.path.resolve() for arm in beside}).values())

    def logged(self) -> list[Row]:
        """Lines of `metrics.jsonl`. Raises `PipelineError` where there is none."""
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            raise PipelineError(
                f"{file} is not there: the arm {self.name} has to be the directory of a training stage."
            )
        return read_rows(file)


def _compute_by_stage(path: Path, without: set[Path]) -> dict[Path, float]:
    manifest = read_manifest(path)
    if path in without or manifest.get("kind") in ("base", "imported"):
        return {}
    found = {path: compute(manifest) or 0.0}
    for parent in manifest.get("parents", []):
        found |= _compute_by_stage((path / parent["path"]).resolve(), without)
    return found


@dataclass
class Chapter:
    """`text` are paragraphs in which {NAME} stands for a figure. `headlines` name the figures that say most, by default the
    first ones of the text. `samples` are answers of models, each with a remark."""

    title: str
    text: list[str]
    figures: dict[str, Figure]
    series: list[dict[str, Any]] = field(default_factory=list)
    headlines: Sequence[str] = ()
    x_label: str = ""
    y_label: str = ""
    samples: Sequence[tuple[Row | None, str]] = ()

    def write(self, name: str, folder: Path) -> Path:
        """`chapters/NAME.json` in `folder`.

        Raises:
            PipelineError: the text names a figure that there is not, or holds a share or a decimal itself.
        """
        text = "\n".join(self.text)
        unknown = {*re.findall(r"\{(\w+)\}", text), *self.headlines} - set(self.figures)
        if unknown:
            raise PipelineError(f"chapter {name}: its text names {', '.join(sorted(unknown))}, which was not measured.")
        bare = re.findall(r"(?<![\w@.])\d+(?:\.\d+| ?%)", re.sub(r"\{\w+\}", "", text))
        if bare:
            raise PipelineError(f"chapter {name}: its text holds the number {bare[0]}: name a figure in its place.")
        samples = [
            {"prompt": shown(row["prompt"]), "completion": first_completion(row), "note": note}
            for row, note in self.samples
            if row is not None
        ]
        content = {"chapter": name} | vars(self) | {"samples": samples[:3]}
        path = folder / "chapters" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, dump(content))
        return path


def shown(prompt: Any) -> str:
    """A prompt as a reader is shown it: its text, or its turns, one a line."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def first_completion(row: Row) -> str:
    return str(row["samples"][0]["completion"] if "samples" in row else row["completion"])


def is_right(row: Row) -> bool:
    return bool(row["correct"])


def rate(rows: Sequence[Row], holds: Holds = is_right) -> Figure:
    """{n, correct, rate, low, high} of the rows for which `holds`. Raises `PipelineError` without rows."""
    if not rows:
        raise PipelineError("a chapter's figure has no rows to count: the evaluation lacks the group that it is about.")
    return counts([bool(holds(row)) for row in rows])


def chosen(rows: Sequence[Row], column: str, value: Any) -> list[Row]:
    """The rows with a value in a column. Raises `PipelineError` naming arm and evaluation where there is none."""
    found = [row for row in rows if row[column] == value]
    if not found:
        there = ", ".join(sorted({str(row[column]) for row in rows})[:12])
        raise unfit(rows, f"expected answers with {column} {value}, found {column} {there}")
    return found


def difference(before: Sequence[Row], after: Sequence[Row], holds: Holds = is_right) -> Figure:
    """How much the share of rows for which `holds` changed on the same questions: {value, low, high, unit}; the report
    shows it in points."""
    same_questions(before, after)
    return paired_difference([holds(row) for row in before], [holds(row) for row in after]) | POINTS


def right_samples(row: Row) -> list[bool]:
    """Which of the answers to one question are right, of several samples or of one answer."""
    return [bool(one["correct"]) for one in row.get("samples") or [row]]


def share(outcomes: Sequence[Sequence[bool]]) -> Figure:
    """{n, samples, correct, rate, low, high} of as many outcomes of each question, bootstrapped over questions.

    Where every question has the same share the bootstrap knows no spread: then Wilson's interval of n questions.
    """
    found = sampled_counts(outcomes)
    if found["low"] == found["high"]:
        low, high = wilson_interval(round(found["rate"] * found["n"]), found["n"])
        found |= {"low": low, "high": high}
    return found


def any_right(row: Row) -> bool:
    """Whether at least one of the samples of a question is right."""
    return any(right_samples(row))


def change(before: Sequence[Row], after: Sequence[Row]) -> Figure:
    """How much the share of right samples changed, bootstrapped over the same questions: as `difference`."""
    same_questions(before, after)
    changes = [fmean(right_samples(new)) - fmean(right_samples(old)) for old, new in zip(before, after, strict=True)]
    return mean_interval(changes) | POINTS


def same_questions(before: Sequence[Row], after: Sequence[Row], column: str = "prompt") -> None:
    """Raises `PipelineError` naming both unless they have the same in a column, row for row."""
    if [row[column] for row in before] != [row[column] for row in after]:
        other = getattr(after[0], "whose", "other rows") if after else "no rows"
        raise unfit(before, f"not the same questions as in {other}")


def exact(value: float) -> Figure:
    """A figure that was counted, not drawn."""
    return {"value": value, "low": value, "high": value}


def flops_ratio(first: Arm, second: Arm) -> Figure:
    """Training compute of one model over that of another, as their manifests count it."""
    if not first.flops or not second.flops:
        raise PipelineError(f"{first.path} and {second.path}: no flops in the manifest of one of them.")
    return exact(first.flops / second.flops)


def majority_baseline(rows: Sequence[Row]) -> Figure:
    """What always giving the most frequent answer would reach."""
    answers = [str(row["answer"]) for row in rows]
    most = Counter(answers).most_common(1)[0][0]
    return counts([answer == most for answer in answers])


def by_group(name: str, rows: Sequence[Row], key: str, holds: Holds = is_right) -> dict[str, Any]:
    """One line of a picture: the share of rows for which `holds`, over the values of a numeric column."""
    values = sorted({row[key] for row in rows})
    return line(name, [(value, rate([row for row in rows if row[key] == value], holds)) for value in values])


def line(name: str, points: Sequence[tuple[Any, Figure]]) -> dict[str, Any]:
    """One line of a picture through figures and where they stand."""
    parts = (("y", ("rate", "value")), ("low", ("low",)), ("high", ("high",)))
    return {"name": name, "x": [x for x, _ in points]} | {
        axis: [next(found[key] for key in keys if key in found) for _, found in points] for axis, keys in parts
    }


def while_training(arm: Arm, reward: str = "rewards/numeric/mean") -> list[tuple[float, Figure]]:
    """(middle as a share of the run, mean of a figure of `metrics.jsonl`) of each fifth of the training.

    The completions of training are drawn at its temperature from problems that it hardly ever sees twice, so that a verifier's
    mean reward is the accuracy on new problems. The interval is bootstrapped over logged steps.
    """
    logged = [row for row in arm.logged() if reward in row]
    if len(logged) < FIFTHS:
        raise PipelineError(
            f"{arm.path}/metrics.jsonl: {len(logged)} lines with {reward}, expected {FIFTHS} or more: lower logging_steps."
        )
    edges = [round(i * len(logged) / FIFTHS) for i in range(FIFTHS + 1)]
    parts, last = [logged[a:b] for a, b in pairwise(edges)], logged[-1]["step"]
    return [
        ((part[0]["step"] + part[-1]["step"]) / (2 * last), mean_interval([row[reward] for row in part]))
        for part in parts
    ]


def say(interval: Figure, above: str, below: str, neither: str) -> str:
    """The words that an interval of a difference allows: all above 0, all below, or neither."""
    return above if interval["low"] > 0 else below if interval["high"] < 0 else neither

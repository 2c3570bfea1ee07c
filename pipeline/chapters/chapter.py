"""A chapter of the report: what its models answered, counted, and a text that says what the counts say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.chapters.material import Row, read_rows
from pipeline.errors import PipelineError
from pipeline.manifest import MANIFEST, dump, read_manifest, write_atomically
from pipeline.statistics import bootstrap_interval, counts, paired_difference

Figure = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One model of an experiment: the directory that holds its answers, of a stage or of an evaluation."""

    name: str
    path: Path

    def answers(self, evaluation: str) -> list[Row]:
        """Every answer to one evaluation. Raises `PipelineError` where it was not asked."""
        file = self.path / "evaluation" / f"{evaluation}.jsonl"
        if not file.is_file():
            raise PipelineError(
                f"{file} is not there: the chapter reads the answers of {self.name} to the evaluation {evaluation}. Name it "
                f"under `evaluations` of the recipe that writes {self.path}."
            )
        return read_rows(file)

    @property
    def flops(self) -> float | None:
        """Of its training; None for what was only evaluated."""
        found = read_manifest(self.path).get("flops") if (self.path / MANIFEST).is_file() else None
        return float(found) if found else None


@dataclass
class Chapter:
    """`text` are paragraphs in which {NAME} stands for a figure. `samples` are answers of models, each with a remark."""

    title: str
    text: list[str]
    figures: dict[str, Figure]
    series: list[dict[str, Any]] = field(default_factory=list)
    x_label: str = ""
    y_label: str = ""
    samples: Sequence[tuple[Row | None, str]] = ()

    def write(self, name: str, folder: Path) -> Path:
        """`chapters/NAME.json` in `folder`.

        Raises:
            PipelineError: the text names a figure that there is not, or holds a number that is none.
        """
        text = "\n".join(self.text)
        unknown = set(re.findall(r"\{(\w+)\}", text)) - set(self.figures)
        if unknown:
            raise PipelineError(f"chapter {name}: its text names {', '.join(sorted(unknown))}, which was not measured.")
        bare = re.findall(r"(?<![\w@.])\d[\d.,%]*", re.sub(r"\{\w+\}", "", text))
        if bare:
            raise PipelineError(f"chapter {name}: its text holds the number {bare[0]}: name a figure in its place.")
        content = {
            "chapter": name,
            "title": self.title,
            "text": self.text,
            "figures": self.figures,
            "series": self.series,
            "x_label": self.x_label,
            "y_label": self.y_label,
            "samples": [
                {"prompt": shown(row["prompt"]), "completion": first_completion(row), "note": note}
                for row, note in self.samples
                if row is not None
            ][:3],
        }
        path = folder / "chapters" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, dump(content))
        return path


def shown(prompt: Any) -> str:
    """A prompt as a reader is shown it: its text, or its turns, one a line."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def first_completion(row: Row) -> str:
    return str(row["samples"][0]["completion"] if "samples" in row else row["completion"])


def rate(rows: Sequence[Row], holds: Callable[[Row], bool] = lambda row: row["correct"]) -> Figure:
    """{n, correct, rate, low, high} of the rows for which `holds`. Raises `PipelineError` without rows."""
    if not rows:
        raise PipelineError("a chapter's figure has no rows to count: the evaluation lacks the group that it is about.")
    return counts([bool(holds(row)) for row in rows])


def difference(before: Sequence[Row], after: Sequence[Row]) -> Figure:
    """How much the share of right answers changed on the same questions: {value, low, high}."""
    if [row["prompt"] for row in before] != [row["prompt"] for row in after]:
        raise PipelineError("two models of a chapter were not asked the same questions: evaluate both anew.")
    return paired_difference([row["correct"] for row in before], [row["correct"] for row in after])


def mean(values: Sequence[float]) -> Figure:
    """{value, low, high} of a mean, bootstrapped over questions."""
    low, high = bootstrap_interval(values)
    return {"value": sum(values) / len(values), "low": low, "high": high}


def ratio(after: Sequence[float], before: Sequence[float]) -> Figure:
    """Sum of `after` over sum of `before`, on the same questions, bootstrapped over them by linearisation."""
    value, size = sum(after) / sum(before), sum(before) / len(before)
    low, high = bootstrap_interval([(a - value * b) / size for a, b in zip(after, before, strict=True)])
    return {"value": value, "low": value + low, "high": value + high}


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


def by_group(
    name: str, rows: Sequence[Row], key: str, holds: Callable[[Row], bool] = lambda row: row["correct"]
) -> dict[str, Any]:
    """One line of a picture: the share of rows for which `holds`, over the values of a numeric column."""
    values = sorted({row[key] for row in rows})
    return line(name, {value: rate([row for row in rows if row[key] == value], holds) for value in values})


def line(name: str, points: Mapping[Any, Figure]) -> dict[str, Any]:
    """One line of a picture through rates with their intervals, by the places where they stand."""
    return {"name": name, "x": list(points)} | {
        axis: [point[part] for point in points.values()]
        for axis, part in (("y", "rate"), ("low", "low"), ("high", "high"))
    }


def say(interval: Figure, above: str, below: str, neither: str) -> str:
    """The words that an interval of a difference allows: all above 0, all below, or neither."""
    return above if interval["low"] > 0 else below if interval["high"] < 0 else neither

"""The chapters of a report: experiments that stages of the run wrote up, and each evaluation checkpoint by checkpoint.

A chapter is `chapters/NAME.json` (or `chapter.json`) in any directory below the run's:

    {"chapter": NAME, "title": ..., "text": paragraphs in which {FIGURE} stands for a figure,
     "figures": {FIGURE: {n, correct, rate, low, high} or {value, low, high}},
     "series": [{"name", "x", "y", "low", "high"}], "x_label": ..., "y_label": ...,
     "headlines": names of figures to be shown large, "samples": [{"prompt", "completion", "note"}]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.reporting.run_folder import MOVED_ASIDE, Row, Run, parent_path

LECTURE = (
    *("base_model", "hallucination", "knowledge_of_self", "tokens_to_think", "limits"),
    *("reinforcement", "beyond_the_expert", "rlhf", "distillation", "which_model"),
)
"""The order in which the chapters are told; others follow by name."""
PLACEHOLDER = re.compile(r"\{([\w.-]+)\}")
HEADLINES = 4
SAMPLES = 3
QUESTIONS = 3
WORDS = {"ends_turn": ("ended", "did not end"), "judge": ("preferred", "not preferred")}
"""Of scorers that hold no answer against an expected one."""
ANSWERS = 6
"""Checkpoints whose answers to one question are shown at most."""


@dataclass
class Chapter:
    """One chapter. `questions` are answers of several checkpoints side by side, where it is about an evaluation.

    Of the same run with other seeds `others` are their values, by checkpoint, and `agreement` says for each paragraph in
    how many of how many runs it reads the same.
    """

    name: str
    title: str
    text: list[str]
    figures: dict[str, Row]
    series: list[Row] = field(default_factory=list)
    x_label: str = ""
    y_label: str = ""
    samples: list[Row] = field(default_factory=list)
    questions: list[Row] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)
    agreement: list[tuple[int, int]] = field(default_factory=list)
    first: list[str] = field(default_factory=list)

    @property
    def headlines(self) -> list[str]:
        """The figures to be shown large: those that the chapter names for it, or else that its text names first."""
        if self.first:
            return [name for name in self.first if name in self.figures]
        named = [name for part in self.text for name in PLACEHOLDER.findall(part) if name in self.figures]
        return list(dict.fromkeys(named or self.figures))[:HEADLINES]


def read_chapters(run: Run) -> list[Chapter]:
    """Every chapter below the run's folder, in the order of the lecture; what is wrong with one goes to `run.missing`."""
    found: dict[str, Chapter] = {}
    for path in sorted({*run.path.glob("**/chapters/*.json"), *run.path.glob("**/chapter.json")}):
        place = path.relative_to(run.path)
        if any(part.startswith(".") or MOVED_ASIDE.search(part) for part in place.parts):
            continue
        try:
            chapter = _chapter(json.loads(path.read_text(encoding="utf-8")), path.stem)
        except KeyError as error:
            run.missing.append(
                f"{place}: no chapter: the key {error} is missing: write it again with `pipeline chapter`"
            )
            continue
        except (TypeError, ValueError, AttributeError) as error:
            run.missing.append(f"{place}: no chapter: not valid: {error}: write it again with `pipeline chapter`")
            continue
        unknown = {name for part in chapter.text for name in PLACEHOLDER.findall(part)} - set(chapter.figures)
        if unknown:
            run.missing.append(f"{place}: the text names {', '.join(sorted(unknown))}, which is not among its figures")
        if chapter.name in found:
            run.missing.append(f"{place}: a second chapter {chapter.name}; the one read last is shown")
        found[chapter.name] = chapter
    return in_order(found.values())


def in_order(chapters: Iterable[Chapter]) -> list[Chapter]:
    """As the lecture tells them; others follow by name."""
    order = {name: i for i, name in enumerate(LECTURE)}
    return sorted(chapters, key=lambda chapter: (order.get(chapter.name, len(order)), chapter.name))


def evaluation_chapters(run: Run) -> list[Chapter]:
    """A chapter for each evaluation: every checkpoint's result, how it differs from that of the checkpoint which it was made
    from, answers side by side."""
    chapters = []
    made_from = {
        stage.name: [parent_path(stage, parent).name for parent in stage.manifest.get("parents", [])]
        for stage in run.models
    }
    for name in run.evaluation_names:
        figures = {
            stage.name: stage.evaluations[name]
            for stage in run.models
            if not stage.control and _measured(stage.evaluations.get(name))
        }
        if not figures:
            continue
        stages, results = list(figures), list(figures.values())
        unit = 100 if "unit" in results[0] else 1
        series: Row = {"name": name, "x": stages, "y": [unit * _number(result) for result in results]}
        if all("low" in result and "high" in result for result in results):
            series |= {edge: [unit * result[edge] for result in results] for edge in ("low", "high")}
        parts = []
        for stage, result in figures.items():
            before = next((one for one in made_from[stage] if one in figures and one != stage), None)
            parts.append(f"{{{stage}}} after {stage}{comparison(before, figures[before], result) if before else ''}")
        chapters.append(
            Chapter(
                name=name,
                title=name.replace("_", " ").capitalize(),
                text=["; ".join(parts) + "."],
                figures=figures,
                series=[series],
                y_label=f"{_words(run, name)[0]} answers" if "rate" in results[0] else results[0].get("unit", "value"),
                questions=side_by_side(run, name),
            )
        )
    return chapters


def _words(run: Run, name: str) -> tuple[str, str]:
    """What an answer is that counts in the rate of an evaluation, and one that does not."""
    counted = next((stage.counts(name) for stage in run.models if name in stage.evaluations), name)
    return WORDS.get(counted, ("right", "wrong"))


def comparison(name: str, old: Row, new: Row) -> str:
    """What may be said of a result and that of the checkpoint `name`: 95 % intervals that do not overlap are a careful sign of
    a difference."""
    if not {"low", "high"} <= set(old) & set(new):
        return ""
    if new["low"] > old["high"]:
        return f", higher than {name} (intervals apart)"
    if new["high"] < old["low"]:
        return f", lower than {name} (intervals apart)"
    return f", not told apart from {name} (intervals overlap)"


def side_by_side(run: Run, name: str) -> list[Row]:
    """A few questions of an evaluation with each checkpoint's answer and what it counts as: those first on which checkpoints
    differ."""
    answers = {
        stage.name: {_key(row): shown for row in stage.answers(name) if (shown := _shown(row))} for stage in run.models
    }
    answers = dict([(stage, rows) for stage, rows in answers.items() if rows][:ANSWERS])
    if not answers:
        return []
    first = next(iter(answers.values()))
    together = [key for key in first if all(key in rows for rows in answers.values())]

    def verdicts(key: str) -> int:
        return len({bool(rows[key].get("correct")) for rows in answers.values()})

    chosen = sorted(together, key=lambda key: -verdicts(key))[:QUESTIONS]
    words = _words(run, name)
    return [
        {
            "prompt": readable(first[key].get("prompt")),
            "answer": None if words in WORDS.values() else readable(first[key].get("answer")),
            "given": [
                (stage, rows[key] | {"verdict": words[not rows[key]["correct"]] if "correct" in rows[key] else ""})
                for stage, rows in answers.items()
            ],
        }
        for key in chosen
    ]


def readable(value: Any) -> str:
    """A prompt or an answer for reading: text as it is, messages as their contents, several answers with "or"."""
    if isinstance(value, list):
        turns = [str(part["content"]) if isinstance(part, dict) and "content" in part else None for part in value]
        return "\n".join(turn for turn in turns if turn) if any(turns) else " or ".join(str(part) for part in value)
    return str(value)


def _chapter(content: Any, stem: str) -> Chapter:
    """Raises `KeyError`, `TypeError`, `AttributeError` or `ValueError` where `content` is no chapter."""
    if not isinstance(content, dict):
        raise ValueError(f"found {content!r:.80}, expected an object with title, text and figures")
    text, figures = content["text"], dict(content["figures"])
    for name, one in figures.items():
        if not _measured(one):
            raise ValueError(
                f"figure {name}: expected {{n, correct, rate, low, high}} or {{value, low, high}}, found {one}"
            )
    series = [one for one in content.get("series") or [] if one["x"]]
    for one in series:
        lengths = {key: len(one[key]) for key in ("x", "y", "low", "high") if one.get(key)}
        if len(set(lengths.values())) > 1 or "y" not in lengths:
            raise ValueError(f"series {one['name']}: expected x, y, low and high of one length, found {lengths}")
    return Chapter(
        name=str(content.get("chapter") or stem),
        title=str(content["title"]),
        text=[
            part for one in ([text] if isinstance(text, str) else text) for part in re.split(r"\n\s*\n", one.strip())
        ],
        figures=figures,
        series=series,
        first=[str(name) for name in content.get("headlines") or []][:HEADLINES],
        x_label=str(content.get("x_label", "")),
        y_label=str(content.get("y_label", "")),
        samples=[
            {key: readable(one[key]) if one.get(key) is not None else "" for key in ("prompt", "completion", "note")}
            for one in (content.get("samples") or [])[:SAMPLES]
        ],
    )


def _measured(result: Any) -> bool:
    return isinstance(result, dict) and isinstance(_number(result), int | float)


def _number(result: Row) -> Any:
    return result.get("rate", result.get("value"))


def _key(row: Row) -> str:
    return json.dumps(row.get("prompt"), sort_keys=True)


def _shown(row: Row) -> Row | None:
    """An answer as the page shows it: of several samples the first; None where nothing was said, only weighed."""
    row = row | row["samples"][0] if row.get("samples") else row
    return {"ended": True, **row} if "completion" in row else None

"""The same run with other seeds: which runs are that, and what their results say together."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from pipeline.errors import PipelineError
from pipeline.recipe.parse import BESIDE_THE_RESULT
from pipeline.reporting.chapters import Chapter, read_chapters
from pipeline.reporting.run_folder import Row, Run, Stage, read_run
from pipeline.statistics import normal_over_seeds, over_seeds

OVER_SEEDS = "over_seeds"
"""Under this key a figure holds what several seeds say together: {rate or value, low, high, seeds, values}."""


def other_runs(run: Run, folders: Sequence[str | Path] | None = None) -> list[Run]:
    """The runs in `folders`; by default those beside `run` that are named after it, as `runs/demo-2`."""
    given = folders is not None
    if folders is None:
        whole = run.path.resolve()
        name = re.escape(re.sub(r"-\d+$", "", whole.name))
        beside = (path for path in sorted(whole.parent.iterdir()) if path.is_dir() and path != whole)
        folders = [path for path in beside if re.fullmatch(rf"{name}(-\d+)?", path.name)]
    found = []
    for folder in folders:
        try:
            found.append(read_run(folder))
        except PipelineError as error:
            run.missing += [f"seeds: {error}"] if given else []
    return found


def same_with_other_seeds(run: Run, others: Sequence[Run]) -> dict[str, list[Stage]]:
    """For each stage the same one of other runs: the same recipe but for seed and folder. What is another is said."""
    found: dict[str, list[Stage]] = {}
    for other in others:
        by_name = {stage.name: stage for stage in other.stages}
        for stage in run.stages:
            twin = by_name.get(stage.name)
            if twin is None or not twin.complete or not stage.metrics:
                continue
            if recipe_of(twin) != recipe_of(stage):
                run.missing.append(f"{twin.path}: another recipe than {stage.name}, so no other seed of it")
            elif twin.manifest.get("seed") != stage.manifest.get("seed"):
                found.setdefault(stage.name, []).append(twin)
    return found


def recipe_of(stage: Stage) -> str:
    """The recipe of a stage as far as its result depends on it, without its seed and the folders of the run and of what it was
    made from: a model of another run counts as the same by its name, and its own recipe is looked at for itself."""
    recipe = stage.manifest.get("recipe", {})
    kept = {key: value for key, value in recipe.items() if key not in BESIDE_THE_RESULT and key != "seed"}
    text = json.dumps(kept, sort_keys=True)
    own = Path(recipe.get("output_dir", "")).parent
    above = [Path(own.name, "x", parent["path"]).name for parent in stage.manifest.get("parents", [])]
    text = text.replace(f'"{own}/', '"')
    for name in above:
        text = re.sub(rf'"[^"]*/{re.escape(name)}(["/])', rf'"{name}\1', text)
    return text


def together(results: Sequence[Row], answers: Sequence[Sequence[Row]] = ()) -> Row | None:
    """Results of one evaluation, or of one figure, over seeds; None where fewer than two are comparable.

    Args:
        results: One a seed: {n, correct, rate, low, high} or {value, low, high}.
        answers: Of the same seeds the answered rows, where there are any: they say how far an item's samples agree, and
            whether all seeds were asked the same.

    Returns:
        As `pipeline.statistics.over_seeds`, with `rate` in the place of `value` for rates, and `values`, those of the seeds. A
        figure whose items are not known, because it is no rate or one of several samples, has its own interval in their
        place, as a normal distribution of that width.
    """
    key = "rate" if all("rate" in one for one in results) else "value"
    if len(results) < 2 or not all(key in one and "low" in one for one in results):
        return None
    values = [float(one[key]) for one in results]
    scores = [_scores(rows) for rows in answers]
    if key == "rate" and scores and all(scores):
        prompts = [[json.dumps(row.get("prompt")) for row in rows] for rows in answers]
        found = over_seeds(scores, same_items=all(one == prompts[0] for one in prompts))
    elif key == "rate" and all(one.get("samples", 1) == 1 for one in results):
        found = over_seeds([[1.0] * one["correct"] + [0.0] * (one["n"] - one["correct"]) for one in results])
    else:
        found = normal_over_seeds(values, [(one["high"] - one["low"]) / (2 * 1.96) for one in results])
        if key == "rate":
            found |= {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])}
    unit = {"unit": results[0]["unit"]} if "unit" in results[0] else {}
    return {key: found.pop("value")} | found | {"values": values} | unit


def _scores(rows: Sequence[Row]) -> list[float]:
    return [
        fmean(bool(one["correct"]) for one in row["samples"]) if row.get("samples") else float(row["correct"])
        for row in rows
        if row.get("samples") or "correct" in row
    ]


def evaluations_over_seeds(chapters: Sequence[Chapter], run: Run, others: dict[str, list[Stage]]) -> None:
    """Give each checkpoint's result in an evaluation what it is over seeds, and the picture the other seeds' values."""
    stages = {stage.name: stage for stage in run.stages}
    for chapter in chapters:
        for name, result in chapter.figures.items():
            twins = [twin for twin in others.get(name, ()) if chapter.name in twin.evaluations]
            results = [result, *(twin.evaluations[chapter.name] for twin in twins)]
            found = together(results, [stage.answers(chapter.name) for stage in (stages[name], *twins)])
            if found:
                chapter.figures[name] = result | {OVER_SEEDS: found}
                chapter.others[name] = found["values"][1:]


def chapters_over_seeds(chapters: Sequence[Chapter], others: Sequence[Run]) -> None:
    """Give each figure of a chapter what it is over the runs that have the same chapter, and say for each paragraph in how
    many of them it reads the same: its words are chosen by what was measured."""
    theirs = [{chapter.name: chapter for chapter in read_chapters(other)} for other in others]
    for chapter in chapters:
        twins = [found[chapter.name] for found in theirs if chapter.name in found]
        if not twins:
            continue
        for name, figure in chapter.figures.items():
            found = together([figure, *(twin.figures[name] for twin in twins if name in twin.figures)])
            if found:
                chapter.figures[name] = figure | {OVER_SEEDS: found}
        same = Counter(part for twin in twins for part in set(twin.text))
        chapter.agreement = [(same[part] + 1, len(twins) + 1) for part in chapter.text]

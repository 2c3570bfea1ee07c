"""`report`: one self-contained page, the same as Markdown, and every figure as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.manifest import MANIFEST, dump, manifest_hash, now, write_atomically
from pipeline.reporting.card import model_card, owns_card
from pipeline.reporting.chapters import Chapter, evaluation_chapters, in_order, read_chapters
from pipeline.reporting.claims import claims
from pipeline.reporting.figures import chapter_figure, stage_figures
from pipeline.reporting.funnel import funnel_figures
from pipeline.reporting.lineage import ancestry, lineage_svg
from pipeline.reporting.render import render
from pipeline.reporting.resources import FORETOLD, SPEEDS, differences, predictions, resources
from pipeline.reporting.run_folder import Row, Run, Stage, read_run
from pipeline.reporting.seeds import chapters_over_seeds, evaluations_over_seeds, other_runs, same_with_other_seeds
from pipeline.reporting.table import KINDS
from pipeline.reporting.tokens_page import token_samples

SAMPLES_SHOWN = 5
COLUMNS = 8
"""Checkpoints that stand side by side in the summary at most; of more there is a list, after the chapters."""

_TRACKED = ("loss", "eval_loss", "eval_bits_per_byte", "reward")


def report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    seeds: Sequence[str | Path] | None = None,
    chapters_of: Sequence[str | Path] | None = None,
    price_per_hour: float | None = None,
    currency: str | None = None,
    license: str | None = None,
) -> Path:
    """Write `index.html`, `report.md` and `report.json` about a run, and a model card into each of its checkpoints.

    What is missing from the run is named in the report, and the rest is reported.

    Args:
        folder: a run's folder, such as `runs/demo`.
        output: where to; by default `report` in the run's folder.
        seeds: folders of the same run with other seeds; by default those beside it that are named after it, as
            `runs/demo-2`.
        chapters_of: runs whose chapters are told here too, with what their own other seeds say; by default those that the
            report which is there already tells.
        price_per_hour: of the machine that the stages ran on, for what each of them cost; by default as in the report that
            is there already.
        currency: of that price, by default USD.
        license: of the checkpoints, for their cards.

    Returns:
        The path of the page.

    Raises:
        PipelineError: there is no run in `folder`.
    """
    run = read_run(folder)
    output = Path(output) if output is not None else run.path / "report"
    output.mkdir(parents=True, exist_ok=True)
    beside = other_runs(run, seeds)
    others = same_with_other_seeds(run, beside)
    before = _last(output / "report.json")
    chapters_of = before.get("chapters_of", []) if chapters_of is None else [str(one) for one in chapters_of]
    chapters, evaluations = read_chapters(run), evaluation_chapters(run)
    chapters_over_seeds(chapters, beside)
    for path in chapters_of:
        try:
            other = read_run(path)
        except PipelineError as error:
            run.missing.append(f"chapters_of: {error}")
            continue
        told = read_chapters(other)
        chapters_over_seeds(told, other_runs(other))
        chapters = in_order([*(one for one in told if one.name not in {own.name for own in chapters}), *chapters])
    evaluations = [one for one in evaluations if one.name not in {chapter.name for chapter in chapters}]
    evaluations_over_seeds(evaluations, run, others)
    price = {"per_hour": price_per_hour, "currency": currency or "USD"} if price_per_hour is not None else None
    found = as_json(run, [*chapters, *evaluations], others, price or before.get("price"))
    found["chapters_of"] = chapters_of
    write_atomically(output / "report.json", dump(found))
    context = {"run": run, "report": found, "models": run.models, "chapters": chapters, "evaluations": evaluations}
    context |= {"crowded": len(run.models) > COLUMNS, "kinds": KINDS, "speeds": SPEEDS, "foretold": FORETOLD}
    page = render(
        "page.html.jinja",
        **context,
        pictures={chapter.name: chapter_figure(chapter) for chapter in chapters}
        | {one.name: chapter_figure(one) for one in evaluations},
        lineage=lineage_svg(run),
        funnels={stage.name: funnel_figures(stage.name, stage.removed) for stage in run.stages},
        tokenizers=[(stage, token_samples(stage, run)) for stage in run.stages if stage.kind == "tokenizer"],
        pages={stage.name: link for stage in run.stages if (link := _tokenizer_page(stage, output))},
        curves=[(stage, drawn) for stage in run.stages if (drawn := stage_figures(stage, others.get(stage.name, ())))],
        samples=[(stage, sample_table(stage)) for stage in run.stages if stage.samples],
    )
    write_atomically(output / "index.html", page)
    write_atomically(output / "report.md", render("report.md.jinja", **context))
    for stage in run.stages:
        if stage.complete and (stage.is_model or stage.kind == "tokenizer") and owns_card(stage.path):
            write_atomically(stage.path / "README.md", model_card(stage.path, license=license))
    return output / "index.html"


def as_json(
    run: Run,
    chapters: Sequence[Chapter],
    others: dict[str, list[Stage]],
    price: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Every figure of the report."""
    return {
        "run": run.path.resolve().name,
        "generated": now(),
        "number_of_stages": len(run.stages),
        "seconds": round(run.seconds, 2),
        "chapters": {chapter.name: chapter.figures for chapter in chapters},
        "stages": {stage.name: _stage_json(stage) for stage in run.stages},
        "seeds": {
            name: {str(twin.path): {"seed": twin.manifest.get("seed"), **_results(twin)} for twin in twins}
            for name, twins in others.items()
        },
        "resources": resources(run, price["per_hour"] if price else None),
        "price": price,
        "predictions": predictions(run),
        "differences": differences(run),
        "ancestry": ancestry(run),
        "claims": claims(run),
        "missing": run.missing,
    }


def sample_table(stage: Stage) -> list[tuple[str, list[Row]]]:
    """For each fixed prompt its completions over training: the first, the last, and some between."""
    by_prompt: dict[str, list[Row]] = {}
    for row in stage.samples:
        by_prompt.setdefault(str(row.get("prompt", "")), []).append(row)
    return [(prompt, spread(rows, SAMPLES_SHOWN)) for prompt, rows in by_prompt.items()]


def spread(rows: list[Any], limit: int) -> list[Any]:
    """At most `limit` rows, evenly spread, the first and the last among them."""
    if len(rows) <= limit:
        return rows
    return [rows[round(i * (len(rows) - 1) / (limit - 1))] for i in range(limit)]


def _stage_json(stage: Stage) -> dict[str, Any]:
    manifest = stage.manifest
    names = ("kind", "status", "seed", "steps", "tokens_per_second", "flops", "world_size", "git_commit", "started")
    curves = {}
    for key in _TRACKED:
        _, values = stage.series(key)
        if values:
            curves[key] = {"first": values[0], "last": values[-1], "logged": len(values)}
            curves[key] |= {"start": sum(values[:5]) / len(values[:5]), "end": sum(values[-5:]) / len(values[-5:])}
    return {
        "evaluations": stage.evaluations,
        "seconds": stage.seconds,
        "tokens": stage.tokens,
        **{name: manifest[name] for name in names if manifest.get(name) is not None},
        "parents": [Path(parent["path"]).name for parent in manifest.get("parents", [])],
        "data": [source["path"] for source in manifest.get("data", [])],
        "manifest_hash": manifest_hash(stage.path) if (stage.path / MANIFEST).is_file() else None,
        "metrics": manifest.get("metrics", {}),
        "curves": curves,
        "removed": [{key: value for key, value in step.items() if key != "sample"} for step in stage.removed],
    }


def _results(stage: Stage) -> dict[str, Any]:
    last = {key: values[-1] for key in _TRACKED if (values := stage.series(key)[1])}
    return {"evaluations": stage.evaluations, "last": last}


def _last(path: Path) -> dict[str, Any]:
    """What the report that is there already was written with; nothing where there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError):
        return {}


def _tokenizer_page(stage: Stage, output: Path) -> str | None:
    """Link from the report to the tokenizer's own page, where there is one."""
    page = stage.path / "evaluation" / "tokenizer.html"
    return Path(os.path.relpath(page, output)).as_posix() if page.is_file() else None

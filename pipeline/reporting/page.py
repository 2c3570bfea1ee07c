"""`report`: one self-contained page, the same as Markdown, and every figure as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipeline.manifest import MANIFEST, dump, manifest_hash, now, write_atomically
from pipeline.reporting.card import model_card, owns_card
from pipeline.reporting.claims import claims
from pipeline.reporting.figures import evaluation_figure, stage_figures
from pipeline.reporting.funnel import funnel_figures
from pipeline.reporting.run_folder import Row, Run, Stage, read_run
from pipeline.reporting.table import count, duration, percent, result_text, statements

TEMPLATES = Path(__file__).parent / "templates"
ANSWERS_SHOWN = 3
SAMPLES_SHOWN = 5
CHARACTERS_SHOWN = 700

_TRACKED = ("loss", "eval_loss", "eval_bits_per_byte", "reward")


def report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write `index.html`, `report.md` and `report.json` about a run, and a model card into each of its checkpoints.

    What is missing from the run is named in the report, and the rest is reported.

    Args:
        folder: a run's folder, such as `runs/demo`.
        output: where to; by default `report` in the run's folder.

    Returns:
        The path of the page.

    Raises:
        PipelineError: there is no run in `folder`.
    """
    run = read_run(folder)
    output = Path(output) if output is not None else run.path / "report"
    output.mkdir(parents=True, exist_ok=True)
    figures = as_json(run)
    write_atomically(output / "report.json", dump(figures))
    context = {"run": run, "report": figures, "statements": figures["statements"], "models": run.models}
    page = render(
        "page.html.jinja",
        **context,
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        evaluations=[(name, evaluation_figure(run, name)) for name in run.evaluation_names],
        funnels={stage.name: funnel_figures(stage.name, stage.removed) for stage in run.stages},
        pages={stage.name: link for stage in run.stages if (link := _tokenizer_page(stage, output))},
        curves=[(stage, drawn) for stage in run.stages if (drawn := stage_figures(stage))],
        samples=[(stage, sample_table(stage)) for stage in run.stages if stage.samples],
        answers=[(name, chosen) for name in run.evaluation_names if (chosen := side_by_side(run, name))],
    )
    write_atomically(output / "index.html", page)
    write_atomically(output / "report.md", render("report.md.jinja", **context))
    for stage in run.models:
        if stage.complete and owns_card(stage.path):
            write_atomically(stage.path / "README.md", model_card(stage.path))
    return output / "index.html"


def _tokenizer_page(stage: Stage, output: Path) -> str | None:
    """Link from the report to the tokenizer's own page, where there is one."""
    page = stage.path / "evaluation" / "tokenizer.html"
    return Path(os.path.relpath(page, output)).as_posix() if page.is_file() else None


def as_json(run: Run) -> dict[str, Any]:
    """Every figure of the report: {"run", "seconds", "stages": {NAME: {...}}, "statements", "missing"}."""
    return {
        "run": run.path.name,
        "generated": now(),
        "seconds": round(run.seconds, 2),
        "stages": {stage.name: _stage_json(stage) for stage in run.stages},
        "statements": statements(run) + claims(run),
        "missing": run.missing,
    }


def _stage_json(stage: Stage) -> dict[str, Any]:
    manifest = stage.manifest
    names = ("kind", "status", "seed", "steps", "tokens_per_second", "flops", "world_size", "git_commit", "started")
    tracked = {}
    for key in _TRACKED:
        _, values = stage.series(key)
        if values:
            tracked[key] = {"first": values[0], "last": values[-1], "logged": len(values)}
    return {
        "evaluations": stage.evaluations,
        "seconds": stage.seconds,
        "tokens": stage.tokens,
        **{name: manifest[name] for name in names if manifest.get(name) is not None},
        "parents": [Path(parent["path"]).name for parent in manifest.get("parents", [])],
        "data": [source["path"] for source in manifest.get("data", [])],
        "manifest_hash": manifest_hash(stage.path) if (stage.path / MANIFEST).is_file() else None,
        "metrics": manifest.get("metrics", {}),
        "curves": tracked,
        "removed": [{key: value for key, value in step.items() if key != "sample"} for step in stage.removed],
    }


def sample_table(stage: Stage) -> list[tuple[str, list[Row]]]:
    """For each fixed prompt its completions over training: the first, the last, and some between."""
    by_prompt: dict[str, list[Row]] = {}
    for row in stage.samples:
        by_prompt.setdefault(str(row.get("prompt", "")), []).append(row)
    return [(prompt, spread(rows, SAMPLES_SHOWN)) for prompt, rows in by_prompt.items()]


def side_by_side(run: Run, name: str) -> list[dict[str, Any]]:
    """A few questions of an evaluation with each checkpoint's answer: those first on which checkpoints differ."""
    answers = {
        stage.name: {_key(row): shown for row in stage.answers(name) if (shown := _shown(row))} for stage in run.models
    }
    answers = {stage: rows for stage, rows in answers.items() if rows}
    if not answers:
        return []
    asked = list(next(iter(answers.values())))
    together = [key for key in asked if all(key in rows for rows in answers.values())]

    def verdicts(key: str) -> int:
        return len({bool(rows[key].get("correct")) for rows in answers.values()})

    chosen = sorted(together, key=lambda key: -verdicts(key))[:ANSWERS_SHOWN]
    return [
        {
            "prompt": _text(next(iter(answers.values()))[key].get("prompt")),
            "answer": _text(next(iter(answers.values()))[key].get("answer")),
            "given": [(stage, rows[key]) for stage, rows in answers.items()],
        }
        for key in chosen
    ]


def _shown(row: Row) -> Row | None:
    """An answer as the page shows it: of several samples the first; None where nothing was said, only weighed."""
    row = row | row["samples"][0] if row.get("samples") else row
    return {"ended": True, **row} if "completion" in row else None


def spread(rows: list[Row], limit: int) -> list[Row]:
    """At most `limit` rows, evenly spread, the first and the last among them."""
    if len(rows) <= limit:
        return rows
    return [rows[round(i * (len(rows) - 1) / (limit - 1))] for i in range(limit)]


def _key(row: Row) -> str:
    return json.dumps(row.get("prompt"), sort_keys=True)


def _text(value: Any) -> str:
    """A prompt or an answer for reading: text as it is, messages as their contents, several answers with "or"."""
    if isinstance(value, list):
        turns = [str(part["content"]) if isinstance(part, dict) and "content" in part else None for part in value]
        return "\n".join(turn for turn in turns if turn) if any(turns) else " or ".join(str(part) for part in value)
    return str(value)


def _shortened(text: Any, limit: int = CHARACTERS_SHOWN) -> str:
    text = str(text)
    return text if len(text) <= limit else text[:limit].rstrip() + " …"


def _cell(text: Any) -> str:
    """Text that cannot break a Markdown table."""
    return " ".join(str(text).replace("|", "\\|").split())


def _breakable(name: str) -> Any:
    """A name that a narrow table may break after its underscores."""
    from markupsafe import Markup, escape

    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))


def render(template: str, **context: Any) -> str:
    """A template of this folder, filled in; HTML is escaped, and a name that is missing is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=template.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "count": count,
        "result": result_text,
        "shortened": _shortened,
        "cell": _cell,
        "breakable": _breakable,
    }
    return environment.get_template(template).render(**context)

"""A run's folder as read: its stages in the order of their ancestry, whatever of their files is there, and what is not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation.evaluate import provenance_of
from pipeline.jsonl import lines_of
from pipeline.manifest import MANIFEST, manifest_hash
from pipeline.recipe.controls import control_of

MODEL_KINDS = ("base", "chat", "reasoning", "aligned", "imported", "reward")

MOVED_ASIDE = re.compile(r"\.old-\d{8}-\d{6}")
_FILES = (MANIFEST, "metrics.jsonl", "samples.jsonl", "evaluation.json", "removed.json")

Row = dict[str, Any]


@dataclass
class Stage:
    """One stage's directory, named by its place in the run (`sft`, `r1/sft`). What it lacks is empty; `damaged` holds
    (file, what is wrong with it)."""

    name: str
    path: Path
    manifest: Row = field(default_factory=dict)
    metrics: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)
    evaluations: dict[str, Row] = field(default_factory=dict)
    removed: list[Row] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return self.manifest.get("kind", "")

    @property
    def is_model(self) -> bool:
        return self.kind in MODEL_KINDS or bool(self.evaluations)

    @property
    def control(self) -> tuple[str, str] | None:
        """Of a control: the stage that it is compared with, and its arm."""
        return control_of(self.name)

    @property
    def complete(self) -> bool:
        return self.manifest.get("status") == "complete"

    @property
    def seconds(self) -> float | None:
        """Time of the stage; of one that is not complete, as long as it ran so far."""
        return self.manifest.get("seconds", self.manifest.get("seconds_before"))

    @property
    def tokens(self) -> int | None:
        """Tokens that the stage trained on; of other stages, what their manifest counts."""
        return self.manifest.get("tokens")

    def series(self, key: str, against: str = "step") -> tuple[list[float], list[float]]:
        """The logged values of `key` and where they stand, in order; lines that lack either are left out."""
        points = [
            (line[against], line[key])
            for line in self.metrics
            if isinstance(line.get(key), int | float) and isinstance(line.get(against), int | float)
        ]
        return [x for x, _ in points], [y for _, y in points]

    def last(self, key: str) -> float | None:
        """The last logged value of `key`."""
        return next((line[key] for line in reversed(self.metrics) if isinstance(line.get(key), int | float)), None)

    def answers(self, name: str) -> list[Row]:
        """Every answer of one evaluation."""
        return json_lines(answers_file(self.path, name))[0]

    def counts(self, name: str) -> str:
        """What the rate of an evaluation is a share of: a scorer's name, or `judge` for what a judge preferred."""
        try:
            specification = provenance_of(self.path)[name]["specification"]
        except (PipelineError, KeyError, TypeError):
            specification = {}
        return "judge" if name == "judge_win_rate" else specification.get("scorer", name)


@dataclass
class Run:
    """A run's folder. `missing` says, one line each, what a reader might look for in vain."""

    path: Path
    stages: list[Stage]
    missing: list[str]

    @property
    def models(self) -> list[Stage]:
        """The checkpoints, and what was evaluated elsewhere where it has an evaluation in common with them: what a chapter
        alone asked, it tells."""
        models = [stage for stage in self.stages if stage.is_model]
        shared = {name for stage in models if stage.kind in MODEL_KINDS for name in stage.evaluations}
        return [one for one in models if not shared or one.kind in MODEL_KINDS or shared & set(one.evaluations)]

    @property
    def evaluation_names(self) -> list[str]:
        """Names of all evaluations, as the first stage that has them orders them."""
        return list(dict.fromkeys(name for stage in self.models for name in stage.evaluations))

    @property
    def seconds(self) -> float:
        return sum(stage.seconds or 0.0 for stage in self.stages)


def read_run(folder: str | Path) -> Run:
    """Read every stage's directory below `folder`. Directories that were moved aside are left out.

    Raises:
        PipelineError: there is no such folder, or nothing of a run in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PipelineError(f"{folder}: no such folder; expected a run, such as runs/demo")
    stages = [read_stage(path, path.relative_to(folder).as_posix()) for path in _directories(folder)]
    if not stages:
        raise PipelineError(
            f"{folder}: no stage's directory in it (none holds {' or '.join(_FILES)}). "
            f"Expected the folder that holds them all, such as runs/demo"
        )
    missing = [f"{stage.name}/{file}: {text}" for stage in stages for file, text in stage.damaged]
    stages = _in_order(stages)
    for stage in stages:
        missing += _lacks(stage)
    return Run(folder, stages, missing)


def _directories(folder: Path, depth: int = 2) -> list[Path]:
    """The stages' directories in a run, and in the parts that it has in folders below."""
    found = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or MOVED_ASIDE.search(path.name):
            continue
        if any((path / name).is_file() for name in _FILES):
            found.append(path)
        elif depth > 1:
            found += _directories(path, depth - 1)
    return found


def read_stage(path: Path, name: str | None = None) -> Stage:
    """One stage's directory, by default under its own name."""
    stage = Stage(name or path.name, path)
    for kind in ("metrics", "samples"):
        rows, faulty = json_lines(path / f"{kind}.jsonl")
        setattr(stage, kind, rows)
        if faulty:
            stage.damaged.append((f"{kind}.jsonl", f"{faulty} lines are not JSON and were left out"))
    for kind, file in (("manifest", MANIFEST), ("evaluations", "evaluation.json"), ("removed", "removed.json")):
        again = "delete it and evaluate again" if kind == "evaluations" else "run the stage that writes it again"
        try:
            content = json.loads((path / file).read_text(encoding="utf-8")) if (path / file).is_file() else None
        except ValueError:
            stage.damaged.append((file, f"not valid JSON: {again}"))
            continue
        expected = type(getattr(stage, kind))
        if isinstance(content, expected):
            setattr(stage, kind, content)
        elif content is not None:
            stage.damaged.append((file, f"found {content!r:.80}, expected a JSON {expected.__name__}: {again}"))
    for name, result in list(stage.evaluations.items()):
        if not is_result(result):
            del stage.evaluations[name]
            text = f"found {result!r:.80}, expected {{n, correct, rate, low, high}} or {{value, low, high}}: evaluate again"
            stage.damaged.append(("evaluation.json", f"{name}: {text}"))
        elif name.endswith("_change"):
            stage.evaluations[name] = result | {"unit": "points"}  # of a rate, as `pipeline.alignment.judge` keeps it
    return stage


def is_result(result: Any) -> bool:
    """Whether something is a rate or a value with what the reports show of it."""
    if not isinstance(result, dict):
        return False
    needed = ("rate", "low", "high", "n", "correct") if "rate" in result else ("value",)
    return all(isinstance(result.get(key), int | float) for key in needed)


def answers_file(path: Path, evaluation: str) -> Path:
    """Where every answer of one evaluation lies in a stage's directory."""
    return path / "evaluation" / f"{evaluation}.jsonl"


def json_lines(path: Path) -> tuple[list[Row], int]:
    """The rows of a JSONL file and the number of lines that are none (a kill may cut the last one)."""
    if not path.is_file():
        return [], 0
    found = [content for _, _, content in lines_of(path)]
    rows = [one for one in found if isinstance(one, dict)]
    return rows, len(found) - len(rows)


def _lacks(stage: Stage) -> list[str]:
    if not stage.manifest and stage.evaluations:
        return []  # an evaluation of a model that lies elsewhere
    if not stage.manifest:
        return [f"{stage.name}: no whole manifest.json, so neither its recipe nor its ancestry is known"]
    if not stage.complete:
        return [f"{stage.name}: not complete (status: {stage.manifest.get('status')})"]
    found = []
    if stage.kind in ("base", "chat", "reasoning", "aligned"):
        for what, there in (("evaluation.json", stage.evaluations), ("metrics.jsonl", stage.metrics)):
            if not there:
                found.append(f"{stage.name}: no {what}")
    for parent in stage.manifest.get("parents", []):
        path = parent_path(stage, parent)
        if not (path / MANIFEST).is_file():
            found.append(f"{stage.name}: its parent {parent['path']} is not there")
        elif manifest_hash(path) != parent.get("manifest_hash"):
            found.append(f"{stage.name}: its parent {parent['path']} was rebuilt since")
    return found


def parent_path(stage: Stage, parent: Row) -> Path:
    return Path(os.path.normpath(stage.path / parent["path"]))


def _in_order(stages: list[Stage]) -> list[Stage]:
    """Parents before children; among equals the one that started first."""
    places = {stage.path.resolve() for stage in stages}
    made_from = {
        stage.path.resolve(): [
            place
            for parent in stage.manifest.get("parents", [])
            if (place := parent_path(stage, parent).resolve()) in places
        ]
        for stage in stages
    }
    depth = depths(made_from)
    return sorted(stages, key=lambda one: (depth[one.path.resolve()], str(one.manifest.get("started", "~")), one.name))


def depths(parents: Mapping[Any, Sequence[Any]]) -> dict[Any, int]:
    """How many generations stand above each name, and above each parent; who is its own ancestor is passed over."""
    found: dict[Any, int] = {}

    def depth(name: Any, seen: tuple[Any, ...] = ()) -> int:
        if name not in found:
            path = (*seen, name)
            above = [depth(parent, path) for parent in parents.get(name, ()) if parent not in path]
            found[name] = 1 + max(above, default=-1)
        return found[name]

    for name, above in parents.items():
        for one in (name, *above):
            depth(one)
    return found

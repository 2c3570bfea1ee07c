"""Any checkpoints side by side: the same evaluations with their intervals, and which questions one has over another."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.manifest import MANIFEST
from pipeline.reporting.run_folder import Stage, answers_file, json_lines, read_run, read_stage
from pipeline.reporting.seeds import recipe_of, together
from pipeline.reporting.table import aligned, result_text
from pipeline.statistics import mcnemar_test


def compare(
    paths: Sequence[str | Path], *, evaluations: str | Path | None = None, output: str | Path = "runs/compare"
) -> dict[str, Any]:
    """Results of checkpoints, and paired tests of each against the first.

    Args:
        paths: Checkpoints with an `evaluation.json`, or folders of runs, whose evaluated checkpoints are all taken. With
            `evaluations` also Hugging Face directories, hub ids, and what was not evaluated yet.
        evaluations: A recipe with `evaluations`, which every checkpoint is then asked, where its answers are not up to date.
        output: Where the answers go of checkpoints that no stage of this project wrote.

    Returns:
        `checkpoints`: names in order; `evaluations`: {NAME: {CHECKPOINT: result}}; `paired`: a row for each evaluation and
        checkpoint that answered the very questions of the first one, with `gained` and `lost` questions and McNemar's exact
        p-value.

    Raises:
        PipelineError: A path holds nothing evaluated, damaged results, or no model, or is named twice; or there is but one
            checkpoint. Nothing was asked then.
    """
    places = [str(Path(path).resolve()) for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise PipelineError(f"{path}: named twice; expected different checkpoints or runs: leave one out")
    if evaluations is None:
        stages = [stage for path in paths for stage in _evaluated(Path(path))]
    else:
        from pipeline.evaluation.loading import look_at

        checkpoints = [path for given in paths for path in checkpoints_in(given)]
        for path in checkpoints:
            look_at(path)
        stages = [_ask(path, evaluations, Path(output)) for path in checkpoints]
    if len(stages) < 2:
        raise PipelineError(f"{len(stages)} evaluated checkpoint found; expected at least two to compare.")
    labels = [stage.name if evaluations is not None else str(stage.path) for stage in stages]
    names = list(dict.fromkeys(name for stage in stages for name in stage.evaluations))
    labelled = list(zip(labels, stages, strict=True))
    paired = [
        {"checkpoint": label, "evaluation": name, **test}
        for label, stage in labelled[1:]
        for name in names
        if (test := _paired(stages[0], stage, name))
    ]
    results = {
        name: {label: stage.evaluations[name] for label, stage in labelled if name in stage.evaluations}
        for name in names
    }
    return {"checkpoints": labels, "evaluations": results, "paired": paired, "over_seeds": _over_seeds(stages)}


def comparison_text(found: dict[str, Any]) -> str:
    """What `compare` found, as a table and a line for each paired test."""
    rows = [["", *found["evaluations"]]]
    for label in found["checkpoints"]:
        rows.append([label, *(result_text(results.get(label)) for results in found["evaluations"].values())])
    lines = aligned(rows)
    if all(len(results) < 2 for results in found["evaluations"].values()):
        lines += ["", "no two of these share an evaluation: --evaluations FILE asks all of them the same"]
    if found["over_seeds"]:
        lines.append("")
    for name, results in found["over_seeds"].items():
        for evaluation, result in results.items():
            each = ", ".join(f"{100 * value:.1f}" if "rate" in result else f"{value:.4g}" for value in result["values"])
            lines.append(f"{name}  {evaluation}  {result['seeds']} seeds: {result_text(result)}  ({each})")
    if found["paired"]:
        lines += ["", f"question by question against {found['checkpoints'][0]}:"]
        rows = [
            [f"{row['checkpoint']}  {row['evaluation']}", f"+{row['gained']}", f"-{row['lost']}", f"p = {row['p']:.3g}"]
            for row in found["paired"]
        ]
        lines += aligned(rows)
    return "\n".join(lines)


def _over_seeds(stages: Sequence[Stage]) -> dict[str, dict[str, Any]]:
    """Stages of one directory's name and one recipe, with different seeds, taken together."""
    alike: dict[tuple[str, str], dict[Any, Stage]] = {}
    for stage in stages:
        if stage.complete and stage.manifest.get("seed") is not None:
            seeds = alike.setdefault((stage.path.name, recipe_of(stage)), {})
            seeds.setdefault(stage.manifest["seed"], stage)
    found: dict[str, dict[str, Any]] = {}
    for (name, _), seeds in alike.items():
        group = list(seeds.values())
        for evaluation in group[0].evaluations:
            asked = [stage for stage in group if evaluation in stage.evaluations]
            results = [stage.evaluations[evaluation] for stage in asked]
            result = together(results, [stage.answers(evaluation) for stage in asked])
            if result:
                found.setdefault(name, {})[evaluation] = result
    return found


def checkpoints_in(path: str | Path) -> list[str]:
    """The language models of a run's folder, in order; a checkpoint or a hub id is itself the only one."""
    folder = Path(path)
    if not folder.is_dir() or any((folder / name).is_file() for name in ("config.json", MANIFEST)):
        return [str(path)]
    return [
        str(stage.path)
        for stage in read_run(folder).models
        if (stage.path / "config.json").is_file() and stage.kind != "reward"
    ]


def _ask(path: str, evaluations: str | Path, output: Path) -> Stage:
    """Evaluate a checkpoint as far as it is not yet, and read the results."""
    from pipeline.evaluation.evaluate import evaluate_checkpoint
    from pipeline.recipe import read_yaml

    ours = (Path(path) / MANIFEST).is_file()
    directory = Path(path) if ours else output / re.sub(r"\W+", "-", path).strip("-")
    asked = read_yaml(evaluations).get("evaluations")
    if not asked:
        raise PipelineError(
            f"{evaluations}: no `evaluations` in it; expected a recipe such as recipes/demo/evaluate.yaml"
        )
    directory.mkdir(parents=True, exist_ok=True)
    evaluate_checkpoint(path, asked, directory=directory)
    stage = read_stage(directory)
    return dataclasses.replace(stage, name=path)


def _evaluated(path: Path) -> list[Stage]:
    alone = (path / "evaluation.json").is_file()
    stages = [read_stage(path)] if alone else read_run(path).stages
    damaged = [
        f"{stage.path / file}: {text}" for stage in stages for file, text in stage.damaged if file == "evaluation.json"
    ]
    stages = [stage for stage in stages if alone or stage.evaluations]
    for stage in stages:
        for name in stage.evaluations:
            file = answers_file(stage.path, name)
            if faulty := json_lines(file)[1]:
                damaged.append(f"{file}: {faulty} lines are not JSON: delete it and evaluate again")
    if damaged:
        raise PipelineError("\n".join(damaged))
    if not stages:
        raise PipelineError(f"{path}: no checkpoint in it has an evaluation.json. Run `pipeline evaluate` first.")
    return stages


def _paired(first: Stage, second: Stage, name: str) -> dict[str, Any] | None:
    """Gains and losses where both answered the same questions, once each."""
    before, after = first.answers(name), second.answers(name)
    same = [row.get("prompt") for row in before] == [row.get("prompt") for row in after]
    if not before or not same or any("correct" not in row for row in (*before, *after)):
        return None
    right = [[bool(row["correct"]) for row in rows] for rows in (before, after)]
    pairs = list(zip(*right, strict=True))
    return {
        "gained": sum(new and not old for old, new in pairs),
        "lost": sum(old and not new for old, new in pairs),
        "p": mcnemar_test(*right),
    }

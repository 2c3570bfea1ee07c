"""What a run took: time, tokens, FLOPs and cost of each stage, against what `pipeline plan` had foretold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.manifest import compute
from pipeline.recipe.folder import common_root
from pipeline.reporting.run_folder import Run, Stage

PLAN = "plan.json"
PREDICTED = ("parameters", "steps", "tokens")
FORETOLD = "Predicted by pipeline plan before the run; its tokens are an upper bound, as if every row were full."
SPEEDS = (
    "Tokens are those trained on, without padding. Time is the whole stage's, with loading, checks and evaluations; tokens/s "
    "counts the training loop's time alone, and is more than tokens by time."
)
_NOT_COMPARED = ("output_dir", "evaluations", "sample_prompts")


def resources(run: Run, price_per_hour: float | None) -> dict[str, dict[str, Any]]:
    """{STAGE: {seconds, tokens, tokens_per_second, flops, peak_memory, cost}} and their `total`; unknown ones left out.

    Args:
        run: the run.
        price_per_hour: of the machine that a stage ran on, in any currency.
    """
    table: dict[str, dict[str, Any]] = {}
    for stage in run.stages:
        trained = bool(stage.metrics)
        facts = {
            "seconds": stage.seconds,
            "tokens": stage.tokens if trained else None,
            **{name: stage.manifest.get(name) for name in ("tokens_per_second", "peak_memory")},
            "flops": compute(stage.manifest),
        }
        if price_per_hour is not None and stage.seconds is not None:
            facts["cost"] = stage.seconds / 3600 * price_per_hour
        table[stage.name] = {name: value for name, value in facts.items() if value is not None}
    summed = [name for name in ("seconds", "tokens", "flops", "cost") if any(name in row for row in table.values())]
    return table | {"total": {name: sum(row.get(name, 0) for row in table.values()) for name in summed}}


def predictions(run: Run) -> dict[str, dict[str, dict[str, float]]]:
    """{STAGE: {FACT: {predicted, actual}}} from `plan.json` in the run's folder, as `pipeline run` writes it.

    It is what `pipeline plan FOLDER --json` prints; where it lacks, or is damaged, `run.missing` says so.
    """
    path = run.path / PLAN
    if not path.is_file():
        if any(stage.metrics for stage in run.stages):
            run.missing.append(f"no {PLAN}, so predictions are not shown: pipeline plan RECIPES --json > {path}")
        return {}
    try:
        planned = json.loads(path.read_text(encoding="utf-8"))["stages"]
        root = common_root([Path(one["writes"]) for one in planned]) or Path()
        planned = sorted(planned, key=lambda one: sum(name in one for name in PREDICTED))  # training after evaluation
        by_name = {Path(one["writes"]).relative_to(root).as_posix(): one for one in planned}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        run.missing.append(f"{PLAN}: not what `pipeline plan --json` prints ({type(error).__name__}: {error})")
        return {}
    found = {}
    for stage in run.stages:
        actual = {"parameters": parameters(stage), "steps": stage.manifest.get("steps"), "tokens": stage.tokens}
        told = by_name.get(stage.name, {})
        rows = {
            name: {"predicted": told[name], "actual": actual[name]}
            for name in PREDICTED
            if isinstance(told.get(name), int | float) and actual[name] is not None
        }
        if rows and stage.metrics:
            found[stage.name] = rows
    return found


def parameters(stage: Stage) -> int | None:
    """Parameters of the stage's published weights, tied ones once, from the headers of its safetensors files."""
    from math import prod

    from safetensors import safe_open

    total = 0
    for file in stage.path.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total or None


def differences(run: Run) -> dict[str, dict[str, Any]]:
    """{KEY: {STAGE: value}} of the recipes' keys in which the training stages are not all alike; absent: not given."""
    recipes = {stage.name: stage.manifest.get("recipe", {}) for stage in run.stages if stage.metrics}
    keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe if key not in _NOT_COMPARED)
    table = {key: {name: recipe[key] for name, recipe in recipes.items() if key in recipe} for key in keys}
    return {
        key: values
        for key, values in table.items()
        if len(values) < len(recipes) or len({json.dumps(value, sort_keys=True) for value in values.values()}) > 1
    }

"""`pipeline plan`: what a recipe, or a folder of them, would do, and everything that is wrong with it; trains nothing.

planner.py  the recipes of a run, one after the other
model.py    parameters and memory, from a config and without weights
data.py     rows of the data, and the optimizer steps that follow
hub.py      what only the Hugging Face hub can answer
result.py   what a plan says, as text and as plain data
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline import stages
from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.plan.result import Plan, StagePlan

__all__ = ["Plan", "Planner", "StagePlan", "plan"]


def plan(
    path: str | Path, overrides: Sequence[str] = (), world_size: int | None = None, controls: bool = False
) -> Plan:
    """What `pipeline run PATH`, or one stage with the recipe PATH, would do.

    Args:
        path: a recipe or a folder of recipes.
        overrides: `["--key", "value", ...]`, in a folder applied to every stage that has the key.
        world_size: number of processes to plan for; by default what the launcher says, or one.
        controls: of a folder, with the controls of every `grpo` recipe.

    Raises:
        RecipeError: when there is nothing to plan: no such file, no YAML.
    """
    path = Path(path)
    if controls and not path.is_dir():
        raise PipelineError(f"{path}: --controls belongs to a folder of recipes, this is one of them.")
    world_size = world_size or int(os.environ.get("WORLD_SIZE", "1"))
    if path.is_dir():
        recipes, complaints = stages.examine_folder(path, overrides, world_size=world_size, controls=controls)
    else:
        recipe, complaints = stages.examine_recipe(path, overrides, world_size)
        recipes = [recipe] if recipe is not None else []
    planner = Planner(world_size)
    for recipe in recipes:
        planner.add(recipe)
    return Plan(path, planner.plans, complaints + planner.complaints, planner.hub.unchecked)

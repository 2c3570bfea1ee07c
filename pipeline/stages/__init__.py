"""The stages, found by listing this folder, and the recipes that run them: one, or a folder of them in order."""

from __future__ import annotations

import dataclasses
import importlib
import json
import keyword
import os
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.recipe import Complaint, Recipe, RecipeError, Source, check, examine, parents, read_source
from pipeline.recipe.controls import controls as controls_of
from pipeline.recipe.folder import (
    RECIPE_SUFFIXES,
    absolute,
    common_root,
    evaluations_of,
    in_order,
    link,
    needed_for,
    reroot,
)
from pipeline.recipe.keys import keys_of
from pipeline.recipe.source import COMMAND_LINE, nearest, read_overrides


def names() -> list[str]:
    """The names of all stages."""
    return sorted(module.name.rstrip("_").replace("_", "-") for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Any:
    """The module of a stage. Raises `PipelineError` with the nearest name for an unknown one."""
    if name not in names():
        raise PipelineError(f"unknown stage {name!r}{nearest(name, names())}; the stages are {', '.join(names())}")
    module = name.replace("-", "_")
    return importlib.import_module(f"{__name__}.{module}_" if keyword.iskeyword(module) else f"{__name__}.{module}")


def load_recipe(path: str | Path, stage: str | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """One recipe, checked, with its `env:` put into the environment before TRL is imported; what is there already stays.

    Args:
        path: the YAML file.
        stage: the stage that the command asks for; by default the recipe's `stage:`, or else the name of the file.
        overrides: `["--key", "value", ...]`.

    Raises:
        RecipeError: with every complaint at once.
    """
    source = read_source(path, overrides)
    if isinstance(source.values.get("env"), dict):
        for key, value in source.values["env"].items():
            os.environ.setdefault(str(key), str(value))
    recipe, complaints = _examine_one(source, stage)
    if recipe is None or complaints:
        raise RecipeError(complaints)
    return recipe


def examine_recipe(
    path: str | Path, overrides: Sequence[str] = (), world_size: int | None = None
) -> tuple[Recipe | None, list[Complaint]]:
    """`load_recipe` for a reader who wants the recipe, as far as it is right, as well as the complaints about it."""
    return _examine_one(read_source(path, overrides), None, world_size)


def load_folder(
    path: str | Path,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    output: str | Path | None = None,
    world_size: int | None = None,
    controls: bool = False,
    replace: Mapping[str, str] | None = None,
    until: str | None = None,
) -> list[Recipe]:
    """The recipes of a folder, producers before their readers.

    Args:
        path: the folder; recipes in folders below it, which can be run alone, are parts of the run.
        overrides: applied to every stage that knows the key.
        seed: replaces `seed` in every stage that has one.
        output: replaces the common parent of all output directories, wherever a recipe names it.
        world_size: processes that the stages will run with; by default what the launcher says, or one.
        controls: add the arms of `pipeline.recipe.controls` after every recipe of the stage `grpo`.
        replace: folders to read, or to write, in the place of others, wherever a recipe names them.
        until: only the recipe of this name, or else the last of this stage, and what it waits for.

    Raises:
        RecipeError: with every complaint about every recipe asked for, and about the chain that the folder forms.
    """
    recipes, complaints = examine_folder(path, overrides, seed, output, world_size, controls, replace, until)
    if complaints:
        raise RecipeError(complaints)
    return recipes


def overrides_of(recipe: Recipe) -> list[str]:
    """`--key value` words that make of the recipe's file what a folder's options made of it."""
    written, _ = examine(find(recipe.stage), read_source(recipe.path))
    before = written.values if written else {}
    changed = {key: value for key, value in recipe.values.items() if before.get(key) != value}
    texts = {k: v if isinstance(v, str) else json.dumps(v, default=str, ensure_ascii=False) for k, v in changed.items()}
    return [word for key, text in texts.items() for word in (f"--{key}", text)]


def examine_folder(
    path: str | Path,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    output: str | Path | None = None,
    world_size: int | None = None,
    controls: bool = False,
    replace: Mapping[str, str] | None = None,
    until: str | None = None,
) -> tuple[list[Recipe], list[Complaint]]:
    """`load_folder` for a reader who wants the recipes that are right as well as the complaints about the others."""
    sources, complaints = _read_folder(Path(path))
    modules = {source.path: _module(source) for source in sources}
    known = {source.path: keys_of(module) for source in sources if (module := modules[source.path]) is not None}
    given = read_overrides(overrides) | ({} if seed is None else {"seed": [str(seed)]})
    for key in given:
        if not any(key in keys for keys in known.values()):
            every = {name for keys in known.values() for name in keys}
            complaints.append(Complaint(COMMAND_LINE, f"no stage of {path} has this key{nearest(key, every)}", key))
    written = [source.values["output_dir"] for source in sources if isinstance(source.values.get("output_dir"), str)]
    if output is not None and (root := common_root([absolute(folder) for folder in written])) is not None:
        _move(sources, root, Path(output))
    for folder, other in (replace or {}).items():
        if not _move(sources, absolute(folder), Path(other)):
            complaints.append(
                Complaint(COMMAND_LINE, f"no recipe of {path} names {folder} or a path below it", "replace")
            )
    for source in sources:
        source.overrides = {key: texts for key, texts in given.items() if key in known.get(source.path, ())}
    links, misfits = in_order([link(source, getattr(modules[source.path], "INPUTS", ())) for source in sources])
    if until is not None:
        chosen = needed_for(links, until)
        if not chosen:
            there = [one.source.path.stem for one in links]
            text = f"expected a stage or one of {', '.join(there)}; found {until!r}{nearest(until, there)}"
            complaints.append(Complaint(COMMAND_LINE, text, "until"))
        links = chosen
    recipes: list[Recipe] = []
    produced: dict[Path, str] = {}
    waiting = [(one.source, modules[one.source.path], one.output) for one in links]
    while waiting:
        source, module, output_dir = waiting.pop(0)
        recipe, found = examine(module, source) if module is not None else (None, source.complaints)
        if recipe is not None:
            recipe = dataclasses.replace(recipe, pending=tuple(produced))
            found = found + check(module, recipe, found, world_size) + parents.complaints(module, recipe, produced)
            recipes.append(recipe)
            if controls and recipe.stage == "grpo" and not found and not source.derived:
                arms, found = _controls(recipe, world_size)
                waiting = [*((arm, _module(arm), absolute(arm.values["output_dir"])) for arm in arms), *waiting]
        complaints += found
        if output_dir is not None:
            produced[output_dir] = getattr(module, "KIND", "")
    return recipes, complaints + misfits


def waiting_for(recipes: Sequence[Recipe]) -> list[set[int]]:
    """For each recipe of a run, in order, the places of those whose output it reads."""
    links = [link(Source(one.path, dict(one.values)), getattr(find(one.stage), "INPUTS", ())) for one in recipes]
    return [
        {number for number, other in enumerate(links[:place]) if one.reads_from(other)}
        for place, one in enumerate(links)
    ]


def _controls(recipe: Recipe, world_size: int | None) -> tuple[list[Source], list[Complaint]]:
    from pipeline.rewards import resolve

    entries = recipe.get("reward_funcs") or []
    length = recipe.get("max_completion_length")  # what some rewards need as a parameter
    rewards = resolve(entries, recipe.arguments.reward_kwargs, max_completion_length=length) if entries else []
    return controls_of(recipe, [reward.kind for reward in rewards], world_size or 1)


def _examine_one(
    source: Source, stage: str | None, world_size: int | None = None
) -> tuple[Recipe | None, list[Complaint]]:
    named = source.values.get("stage")
    if stage is not None and named is not None and named != stage:
        source.complain(f"the recipe is of stage {named!r}, the command asks for {stage!r}", "stage")
        return None, source.complaints
    module = _module(source, stage)
    if module is None:
        return None, source.complaints
    recipe, complaints = examine(module, source)
    if recipe is not None:
        complaints = complaints + check(module, recipe, complaints, world_size) + parents.complaints(module, recipe, {})
    return recipe, complaints


def _read_folder(folder: Path) -> tuple[list[Source], list[Complaint]]:
    if not folder.is_dir():
        raise RecipeError([Complaint(str(folder), "no such folder of recipes")])
    files = sorted(file for file in folder.rglob("*") if file.suffix in RECIPE_SUFFIXES)
    if not files:
        raise RecipeError([Complaint(str(folder), "holds no recipe (*.yaml)")])
    sources, complaints = [], []
    for file in files:
        try:
            sources.append(read_source(file))
        except RecipeError as error:
            complaints += error.complaints
    return sources, complaints


def _module(source: Source, stage: str | None = None) -> Any:
    """The stage module of a recipe; None, with a complaint, where there is no such stage."""
    name = stage or source.values.get("stage") or source.path.stem
    if name in names():
        return find(name)
    hint = nearest(str(name), names())
    if stage is None and "stage" not in source.values:
        text = f"the name of the file is no stage: add `stage:` with one of {', '.join(names())}{hint}"
    else:
        text = f"expected one of {', '.join(names())}, found {name!r}{hint}"
    source.complain(text, "stage")
    return None


def _move(sources: list[Source], root: Path, output: Path) -> bool:
    """Put another root in the place of one: every text that names it, or a path below it, is rewritten. Whether any does."""
    moved = False
    for source in sources:
        values = source.values
        if isinstance(values.get("evaluations"), str):  # the paths in what it names have to move too
            values = values | {"evaluations": evaluations_of(values)}
        source.values = reroot(values, root, output)
        moved |= source.values != values
    return moved

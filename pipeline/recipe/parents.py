"""What a recipe reads from other stages: is it there, whole, and of a kind that the stage can use?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.manifest import enclosing, read_manifest
from pipeline.recipe.folder import REWARD_MODEL, absolute
from pipeline.recipe.parse import Recipe
from pipeline.recipe.source import Complaint, Source, undotted


def named(recipe: Recipe, key: str) -> list[str]:
    """The paths, addresses and hub ids that a recipe gives for an input of its stage.

    The value is one of them, a list, TRL's list of `datasets`, or for `reward_funcs` the reward models among the names.
    `settings.words` is what the mapping `settings` has under `words`.
    """
    key, _, below = key.partition(".")
    value = recipe.get(key, getattr(recipe.arguments, key, None))
    value = (value or {}).get(below) if below else value
    if key == "reward_funcs":
        name, kwargs = REWARD_MODEL.rstrip(":"), recipe.get("reward_kwargs") or {}
        entries = [value] if isinstance(value, str) else value or []
        value = [
            entry.removeprefix(REWARD_MODEL) if entry.startswith(REWARD_MODEL) else (kwargs.get(name) or {}).get("path")
            for entry in entries
            if entry == name or entry.startswith(REWARD_MODEL)
        ]
    return list(dict.fromkeys(_names(value)))


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, str | Path) and str(value):
        yield str(value)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _names(entry)
    elif value:  # an entry of `datasets`, as the recipe has it or as TRL has
        entry = value if isinstance(value, Mapping) else vars(value)
        yield from _names(entry.get("data_files") or entry.get("path"))


def complaints(stage: Any, recipe: Recipe, produced: Mapping[Path, str]) -> list[Complaint]:
    """Parents of the wrong kind, and parents that are not complete. Hashes are verified when the stage runs.

    Args:
        stage: the stage's module; `INPUTS` names the keys that point at parents and the kinds accepted there.
        recipe: the recipe.
        produced: the directories that the recipes before this one write, each with its kind.
    """
    source = recipe.source or Source(recipe.path, recipe.values)
    found = []
    for key, kinds in stage.INPUTS.items():
        for text in named(recipe, key):
            problem = _problem(absolute(text), kinds, produced)
            if problem:
                found.append(Complaint(source.where(*undotted(key)), f"{text} {problem}", key))
    return found


def _problem(path: Path, kinds: tuple[str, ...], produced: Mapping[Path, str]) -> str:
    if path in produced:
        kind = produced[path]
    elif any(path.is_relative_to(folder) for folder in produced) or enclosing(path) != path:
        return ""  # a file or a folder within a stage directory, or none of ours
    else:
        try:
            manifest = read_manifest(path)
        except PipelineError as error:
            return f"cannot be read: {error}"
        kind = manifest.get("kind", "")
        if manifest.get("status") != "complete":
            return f"is not complete: run its {manifest.get('stage')} stage to the end first"
    if kinds and kind and kind not in kinds:
        return f"is of kind {kind}, expected {' or '.join(kinds)}"
    return ""

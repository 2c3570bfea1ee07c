"""Stage `exercises`: writes the data of a chapter of the report, what its models train on and are asked."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline import chapters, checkpoint
from pipeline.recipe.parents import named

if TYPE_CHECKING:
    from pipeline.chapters.material import Material
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments:
    """A chapter, the sizes of its data, and what they are made of."""

    output_dir: str = field(metadata={"help": "folder that receives NAME/train.jsonl and the evaluations' rows"})
    chapter: str = field(metadata={"help": "whose data", "choices": chapters.WITH_EXERCISES})
    subjects: str | None = field(
        default=None, metadata={"help": "JSON with `attributes` and `subjects`: whom and what to ask about"}
    )
    conversations: str | None = field(
        default=None, metadata={"help": "JSONL of `messages` to mix in, against forgetting"}
    )
    questions: str | None = field(
        default=None,
        metadata={"help": "JSONL of `prompt` and `answer` that the models will be asked, and no row may teach"},
    )
    settings: dict[str, Any] | None = field(
        default=None, metadata={"help": "sizes and names of the chapter's data, by the names of its Settings"}
    )
    seed: int = field(default=1, metadata={"help": "of every draw"})


KIND = "exercises"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {
    **{"subjects": (), "conversations": (), "questions": ()},
    **{f"settings.{name}": () for name in chapters.path_settings()},
}


def check(recipe: Recipe) -> list[str]:
    """Settings that the chapter does not have, of the wrong type or out of their range, and files that cannot be read."""
    arguments: Arguments = recipe.arguments
    settings, complaints = chapters.settings(arguments.chapter, arguments.settings)
    paths = {key: path for key in INPUTS for path in named(recipe, key)}
    complaints += [f"{key}: {path} does not exist" for key, path in paths.items() if not recipe.exists(path)]
    if not complaints and not any(map(recipe.awaits, paths.values())):
        _material(arguments)
        module = chapters.find(arguments.chapter)
        for one in dataclasses.fields(module.Settings):
            if (reader := one.metadata.get("path")) and settings.get(one.name):
                getattr(module, reader)(settings[one.name])
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """What the sizes say."""
    return {"chapter": recipe.arguments.chapter} | (recipe.arguments.settings or {})


def run(recipe: Recipe) -> None:
    """Write the rows; the same recipe writes the same bytes."""
    from pipeline.chapters.material import write_rows

    arguments: Arguments = recipe.arguments
    module = chapters.find(arguments.chapter)
    with checkpoint.stage_directory(recipe, KIND, INPUTS) as directory:
        if directory.complete:
            return
        settings, _ = chapters.settings(arguments.chapter, arguments.settings)
        files = module.exercises(module.Settings(**settings), _material(arguments))
        for name, rows in files.items():
            write_rows(rows, directory.aside / f"{name}.jsonl")
        counted = {name: len(rows) for name, rows in files.items()}
        print("exercises  " + ", ".join(f"{name} {count:,}" for name, count in counted.items()), flush=True)
        directory.publish(metrics=counted)


def _material(arguments: Arguments) -> Material:
    """What the recipe names, read and found good. Raises `PipelineError` naming file and line or key."""
    from pipeline.chapters.material import Material, read_attributes, read_conversations, read_rows, read_subjects

    material = Material(random.Random(f"{arguments.seed}:{arguments.chapter}"))
    if arguments.subjects:
        material.attributes, material.subjects = read_attributes(arguments.subjects), read_subjects(arguments.subjects)
    if arguments.conversations:
        material.conversations = read_conversations(arguments.conversations)
    if arguments.questions:
        material.questions = read_rows(arguments.questions, prompt=str | list)
    return material

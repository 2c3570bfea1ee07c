"""Stage `exercises`: writes the data of a chapter of the report, what its models train on and are asked."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline import chapters, checkpoint

if TYPE_CHECKING:
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
INPUTS: dict[str, tuple[str, ...]] = {"subjects": (), "conversations": (), "questions": ()}


def check(recipe: Recipe) -> list[str]:
    """Settings that the chapter does not have, of the wrong type, and files that are not there."""
    arguments: Arguments = recipe.arguments
    known = {one.name: one for one in dataclasses.fields(chapters.find(arguments.chapter).Settings)}
    complaints = [
        f"{key}: {path} does not exist"
        for key in INPUTS
        if (path := getattr(arguments, key)) and not recipe.exists(path)
    ]
    for name, value in (arguments.settings or {}).items():
        if name not in known:
            complaints.append(f"settings.{name}: no such setting of {arguments.chapter}; it has {', '.join(known)}")
        elif type(value) is not type(known[name].default) and known[name].default is not dataclasses.MISSING:
            complaints.append(f"settings.{name}: found {value!r}, expected a {type(known[name].default).__name__}")
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """What the sizes say."""
    return {"chapter": recipe.arguments.chapter} | (recipe.arguments.settings or {})


def run(recipe: Recipe) -> None:
    """Write the rows; the same recipe writes the same bytes."""
    from pipeline.chapters.material import Material, read_attributes, read_rows, read_subjects, write_rows

    arguments: Arguments = recipe.arguments
    module = chapters.find(arguments.chapter)
    with checkpoint.stage_directory(recipe, KIND, INPUTS) as directory:
        if directory.complete:
            return
        material = Material(random.Random(f"{arguments.seed}:{arguments.chapter}"))
        if arguments.subjects:
            material.attributes = read_attributes(arguments.subjects)
            material.subjects = read_subjects(arguments.subjects)
        if arguments.conversations:
            material.conversations = read_rows(arguments.conversations)
        if arguments.questions:
            material.questions = read_rows(arguments.questions)
        files = module.exercises(module.Settings(**(arguments.settings or {})), material)
        for name, rows in files.items():
            write_rows(rows, directory.aside / f"{name}.jsonl")
        counted = {name: len(rows) for name, rows in files.items()}
        print("exercises  " + ", ".join(f"{name} {count:,}" for name, count in counted.items()), flush=True)
        directory.publish(metrics=counted)

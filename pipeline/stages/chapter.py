"""Stage `chapter`: counts what the models of an experiment answered, and writes its chapter of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import chapters

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments:
    """A chapter and the evaluated models that it compares."""

    output_dir: str = field(metadata={"help": "folder that receives chapters/NAME.json, which the report picks up"})
    chapter: str = field(metadata={"help": "which", "choices": chapters.NAMES})
    arms: list[str] = field(metadata={"help": "the part that each of `models` plays, in their order"})
    models: list[str] = field(metadata={"help": "directories with evaluation.json: of a stage, or of an evaluation"})


KIND = "chapter"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {"models": ()}


def check(recipe: Recipe) -> list[str]:
    """Arms that the chapter does not take or lacks, arms without a model, models without an arm, paths that are not there."""
    arguments: Arguments = recipe.arguments
    complaints = [f"models: {path} does not exist" for path in arguments.models if not recipe.exists(path)]
    if len(arguments.arms) != len(arguments.models) or len(set(arguments.arms)) != len(arguments.arms):
        complaints.append(
            f"arms: found {len(arguments.arms)} names for {len(arguments.models)} models; expected one each, all different"
        )
    return complaints + chapters.misfits(arguments.chapter, arguments.arms)


def plan(recipe: Recipe) -> dict[str, Any]:
    """What is compared."""
    return {"chapter": recipe.arguments.chapter, "arms": ", ".join(recipe.arguments.arms)}


def run(recipe: Recipe) -> None:
    """Count and write, and print every figure; a chapter that is there is written again, since answers may have changed."""
    from pipeline.chapters.chapter import Arm
    from pipeline.errors import PipelineError
    from pipeline.evaluation.evaluate import format_results
    from pipeline.manifest import MANIFEST, verify

    arguments: Arguments = recipe.arguments
    arms = {name: Arm(name, Path(path)) for name, path in zip(arguments.arms, arguments.models, strict=True)}
    for arm in arms.values():
        if (arm.path / MANIFEST).is_file():
            verify(arm.path)
    try:
        chapter = chapters.find(arguments.chapter).chapter(arms)
    except KeyError as error:  # rows say it themselves; what lies in them, or was logged, does not
        raise PipelineError(
            f"{recipe.path}: models: {error} is missing in what one of them answered or logged."
        ) from error
    path = chapter.write(arguments.chapter, Path(arguments.output_dir))
    print(f"{format_results(chapter.figures)}\nchapter: {path}", flush=True)

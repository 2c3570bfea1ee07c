"""Stage `world`: writes the embedded micro-world as the raw files that the other stages of the demo read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline import checkpoint
from pipeline.microworld.people import visitors
from pipeline.microworld.settings import Settings

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(Settings):
    """All sizes of the micro-world, and where it goes."""

    output_dir: str = field(
        metadata={"help": "folder that receives the crawl, the conversations, problems and evaluations"}
    )


KIND = "world"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {}


def check(recipe: Recipe) -> list[str]:
    """Sizes that contradict each other."""
    return recipe.arguments.complaints()


def plan(recipe: Recipe) -> dict[str, Any]:
    """How much will be written."""
    sizes: Settings = recipe.arguments
    mentions = sum(grade * count for grade, count in zip(sizes.mention_grades, sizes.people_per_grade, strict=True))
    return {
        "people": sum(sizes.people_per_grade),
        "mentions": mentions,
        "conversations": sizes.fact_conversations
        + sizes.arithmetic_conversations
        + sizes.introductions * bool(visitors(sizes))
        + sizes.other_conversations,
        "problems": sizes.problems_train,
    }


def run(recipe: Recipe) -> None:
    """Writes the world; the same seed and sizes give the same bytes."""
    from pipeline import microworld

    with checkpoint.stage_directory(recipe, KIND, inputs=INPUTS) as directory:
        if directory.complete:
            return
        counts = microworld.write(recipe.arguments, directory.aside)
        directory.publish(metrics=counts)

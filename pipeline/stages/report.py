"""Stage `report`: what each stage of a run did to the model, on one page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments:
    """A run, and where its report goes."""

    run: str = field(metadata={"help": "the run's folder, which holds the stages' directories"})
    output_dir: str | None = field(
        default=None, metadata={"help": "receives index.html, report.md and report.json; by default RUN/report"}
    )

    seeds: list[str] | None = field(
        default=None,
        metadata={"help": "folders of the same run with other seeds; by default those named RUN-NUMBER beside it"},
    )
    chapters_of: list[str] | None = field(
        default=None, metadata={"help": "runs whose chapters are told here too, such as runs/demo"}
    )
    price_per_hour: float | None = field(
        default=None, metadata={"help": "of the machine that the stages ran on, for their cost", "range": (0, None)}
    )
    currency: str | None = field(default=None, metadata={"help": "of the price, by default USD"})
    license: str | None = field(default=None, metadata={"help": "of the checkpoints, for their model cards"})

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or str(Path(self.run) / "report")


KIND = "report"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {"run": ()}


def check(recipe: Recipe) -> list[str]:
    """A run that is not there and that no stage will write."""
    given = {"run": [recipe.arguments.run], "seeds": recipe.arguments.seeds or []}
    given["chapters_of"] = recipe.arguments.chapters_of or []
    return [
        f"{key}: {path} does not exist; expected a run's folder, such as runs/demo"
        for key, paths in given.items()
        for path in paths
        if not recipe.exists(path)
    ]


def plan(recipe: Recipe) -> dict[str, Any]:
    """Nothing is known before the run has been read."""
    return {}


def run(recipe: Recipe) -> None:
    """Write the report; one that is there is written again."""
    from pipeline.reporting import report

    arguments: Arguments = recipe.arguments
    page = report(
        arguments.run,
        arguments.output_dir,
        seeds=arguments.seeds,
        chapters_of=arguments.chapters_of,
        price_per_hour=arguments.price_per_hour,
        currency=arguments.currency,
        license=arguments.license,
    )
    print(f"report: {page}", flush=True)

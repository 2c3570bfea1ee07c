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

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or str(Path(self.run) / "report")


KIND = "report"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {"run": ()}


def check(recipe: Recipe) -> list[str]:
    """A run that is not there and that no stage will write."""
    run = recipe.arguments.run
    return [] if recipe.exists(run) else [f"run: {run} does not exist; expected a run's folder, such as runs/demo"]


def plan(recipe: Recipe) -> dict[str, Any]:
    """Nothing is known before the run has been read."""
    return {}


def run(recipe: Recipe) -> None:
    """Write the report; one that is there is written again."""
    from pipeline.reporting import report

    print(f"report: {report(recipe.arguments.run, recipe.arguments.output_dir)}", flush=True)

"""What a plan says: figures, notes and complaints, as text and as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.recipe import Complaint, Recipe

if TYPE_CHECKING:
    from pipeline.plan.model import Model

ORDER = (
    *("parameters", "trainable_parameters", "vocab_size", "rows", "rows_per_step", "completions_per_step"),
    *("prompts_per_step", "tokens_per_step", "steps", "tokens", "memory", "activations"),
)
"""The figures of a training stage in the order of reading; whatever else a stage tells stands before them."""

UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))

ESTIMATES = ("memory", "activations")


@dataclass
class StagePlan:
    """What one recipe would do. `facts` are named figures; `notes` say what a missing figure waits for."""

    recipe: Recipe
    kind: str
    reads: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    model: Model | None = None

    def put_in_order(self) -> None:
        """The figures as a person reads them: what the stage tells of itself, then `ORDER`."""
        names = [*(name for name in self.facts if name not in ORDER), *ORDER]
        self.facts = {name: self.facts[name] for name in names if name in self.facts}

    def as_dict(self) -> dict[str, Any]:
        return {
            "recipe": str(self.recipe.path),
            "stage": self.recipe.stage,
            "reads": self.reads,
            "writes": str(self.recipe.output_dir),
            "kind": self.kind,
            **self.facts,
            "notes": self.notes,
        }

    def to_text(self) -> str:
        rows = [*(("reads", path) for path in self.reads), ("writes", f"{self.recipe.output_dir} ({self.kind})")]
        rows += [(name.replace("_", " "), figure(name, value)) for name, value in self.facts.items()]
        rows += [("note", note) for note in self.notes]
        return "\n".join(
            [f"{self.recipe.stage}  ({self.recipe.path})", *(f"  {name:<22}{text}" for name, text in rows)]
        )


@dataclass
class Plan:
    """The stages in the order in which they would run, every complaint, and what could not be checked from here."""

    path: Path
    stages: list[StagePlan]
    complaints: list[Complaint]
    unchecked: list[str]

    @property
    def ok(self) -> bool:
        return not self.complaints

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "stages": [stage.as_dict() for stage in self.stages],
            "complaints": [str(complaint) for complaint in self.complaints],
            "unchecked": self.unchecked,
        }

    def to_text(self) -> str:
        parts = [stage.to_text() for stage in self.stages]
        if self.unchecked:
            parts.append("\n".join(["unchecked (offline)", *(f"  {line}" for line in self.unchecked)]))
        if self.complaints:
            title = f"{len(self.complaints)} complaint{'s' if len(self.complaints) > 1 else ''}"
            parts.append("\n".join([title, *(f"  {complaint}" for complaint in self.complaints)]))
        else:
            parts.append(f"no complaint about {self.path}")
        return "\n\n".join(parts)


def figure(name: str, value: Any) -> str:
    """A fact as a person reads it."""
    if name in ("bytes", *ESTIMATES):
        unit, size = next((unit, size) for unit, size in UNITS if value >= size or size == 1)
        return f"{value / size:,.1f} {unit}" + (" (estimate)" if name in ESTIMATES else "")
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

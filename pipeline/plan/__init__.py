"""`pipeline plan`: what a recipe, or a folder of them, would do, and everything that is wrong with it; trains nothing.

model.py   parameters and memory, from a config and without weights
data.py    rows of the data, and the optimizer steps that follow
hub.py     what only the Hugging Face hub can answer
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import stages
from pipeline.checkpoint import looks_like_a_path
from pipeline.errors import PipelineError
from pipeline.plan import data
from pipeline.plan.hub import Hub
from pipeline.plan.model import Model, find_model, memory
from pipeline.recipe import Complaint, Recipe
from pipeline.recipe.folder import absolute, texts_in
from pipeline.recipe.keys import engine_class

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


def plan(path: str | Path, overrides: Sequence[str] = (), world_size: int | None = None) -> Plan:
    """What `pipeline run PATH`, or one stage with the recipe PATH, would do.

    Args:
        path: a recipe or a folder of recipes.
        overrides: `["--key", "value", ...]`, in a folder applied to every stage that has the key.
        world_size: number of processes to plan for; by default what the launcher says, or one.

    Raises:
        RecipeError: when there is nothing to plan: no such file, no YAML.
    """
    path = Path(path)
    world_size = world_size or int(os.environ.get("WORLD_SIZE", "1"))
    if path.is_dir():
        recipes, complaints = stages.examine_folder(path, overrides, world_size=world_size)
    else:
        recipe, complaints = stages.examine_recipe(path, overrides, world_size)
        recipes = [recipe] if recipe is not None else []
    planner = Planner(world_size)
    for recipe in recipes:
        planner.add(recipe)
    return Plan(path, planner.plans, complaints + planner.complaints, planner.hub.unchecked)


class Planner:
    """Plans recipes one after the other; each can draw on the plans of those whose output it reads."""

    def __init__(self, world_size: int = 1):
        self.world_size = world_size
        self.plans: list[StagePlan] = []
        self.complaints: list[Complaint] = []
        self.hub = Hub()

    def add(self, recipe: Recipe) -> None:
        stage = stages.find(recipe.stage)
        planned = StagePlan(recipe, stage.KIND)
        trainer = next((name for name in ("SFTConfig", "GRPOConfig") if name in stage.ENGINES), None)
        try:
            planned.reads += self._reads(recipe, stage)
            planned.facts |= stage.plan(recipe)
            if trainer is not None:
                self._plan_training(planned, engine_class(trainer), is_grpo=trainer == "GRPOConfig")
        except PipelineError as error:
            self.complaints.append(Complaint(str(recipe.path), str(error)))
        names = [*(name for name in planned.facts if name not in ORDER), *ORDER]
        planned.facts = {name: planned.facts[name] for name in names if name in planned.facts}
        self.plans.append(planned)

    def producer(self, path: str | None) -> StagePlan | None:
        """The plan of the recipe that writes `path`, if one before this one does."""
        writers = (one for one in self.plans if path and absolute(path).is_relative_to(absolute(one.recipe.output_dir)))
        return next(writers, None)

    def _reads(self, recipe: Recipe, stage: Any) -> Iterator[str]:
        for key in stage.INPUTS:
            value = recipe.get(key, getattr(recipe.arguments, key, None))
            for text in dict.fromkeys(_paths_in(value)):
                producer = self.producer(text)
                if producer is not None:
                    yield f"{text} (from {producer.recipe.stage})"
                elif recipe.exists(text):
                    yield text
                elif not looks_like_a_path(text):
                    complaint = self.hub.ask(recipe, key, text)
                    self.complaints += [complaint] if complaint else []
                    yield f"{text} (hub)"

    def _plan_training(self, planned: StagePlan, config_type: type, *, is_grpo: bool) -> None:
        """Parameters, memory, rows, steps and tokens of a stage that trains."""
        recipe, facts = planned.recipe, planned.facts
        key = "max_completion_length" if is_grpo else "max_length"
        length = recipe.setting(key, config_type)
        parent, tokenizer = (self.producer(recipe.get(name)) for name in ("model_name_or_path", "tokenizer"))
        known = tokenizer.facts.get("vocab_size") if tokenizer else None
        model, note = find_model(recipe, parent.model if parent else None, known, self.hub)
        planned.notes += [note] if note else []
        if model is not None:
            planned.model = model.merged()
            facts["parameters"] = model.parameters
            if model.adapted:
                facts["trainable_parameters"] = model.trainable
            length = length or model.config.get_text_config().max_position_embeddings
            facts |= memory(recipe, model, config_type, length)
        rows = data.rows_of(recipe)
        batches = self._batches(recipe, config_type, rows, is_grpo)
        steps = facts.get("steps") or data.steps_of(recipe, config_type, batches)
        if length and "tokens_per_step" not in facts:
            accumulated = recipe.setting("gradient_accumulation_steps", config_type) * self.world_size
            facts["tokens_per_step"] = recipe.setting("per_device_train_batch_size", config_type) * accumulated * length
            planned.notes.append(f"tokens are at most these: rows shorter than {key} count in full")
        found = {"rows": rows, "steps": steps, "tokens": steps and facts.get("tokens_per_step", 0) * steps}
        facts |= {name: value for name, value in found.items() if value}
        if not steps:
            planned.notes.append("steps are known once the data is there" + " and packed" * bool(recipe.get("packing")))

    def _batches(self, recipe: Recipe, config_type: type, rows: int | None, is_grpo: bool) -> int | None:
        """Batches of an epoch on each process; a complaint where the rows do not fill a single one."""
        if rows is None:
            return None
        if is_grpo:
            prompts, _ = data.generation_of(recipe, config_type, self.world_size)
            problem = f"{rows} rows are fewer than the {prompts} prompts of one generation batch: no step would be made"
            enough = rows >= prompts
        else:
            problem, enough = "holds no training row", rows > 0
        if not enough:
            key = "datasets" if recipe.get("datasets") else "dataset_name"
            where = recipe.source.where(key) if recipe.source else str(recipe.path)
            self.complaints.append(Complaint(where, problem, key))
            return None
        if is_grpo:
            return data.batches_of_grpo(recipe, config_type, rows, self.world_size)
        return None if recipe.get("packing") else data.batches_of_sft(recipe, config_type, rows, self.world_size)


def figure(name: str, value: Any) -> str:
    """A fact as a person reads it."""
    if name in ("bytes", *ESTIMATES):
        unit, size = next((unit, size) for unit, size in UNITS if value >= size or size == 1)
        return f"{value / size:,.1f} {unit}" + (" (estimate)" if name in ESTIMATES else "")
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _paths_in(value: Any) -> Iterator[str]:
    """The paths and hub ids in a value; of an entry of `datasets` its files, or else its path."""
    if isinstance(value, dict):
        yield from texts_in(value.get("data_files") or value.get("path"))
    elif isinstance(value, list):
        for item in value:
            yield from _paths_in(item)
    else:
        yield from texts_in(value)

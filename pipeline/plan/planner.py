"""Plans the recipes of a run one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import stages
from pipeline.checkpoint import looks_like_a_path
from pipeline.errors import PipelineError
from pipeline.plan import data
from pipeline.plan.hub import Hub
from pipeline.plan.model import Model, count, find_model, memory, new_model, precision
from pipeline.plan.result import StagePlan
from pipeline.recipe import Complaint, Recipe
from pipeline.recipe.folder import absolute
from pipeline.recipe.keys import engine_class
from pipeline.recipe.parents import named
from pipeline.training.arguments import batch_of

LENGTH = {
    "SFTConfig": "max_length",
    "RewardConfig": "max_length",
    "DPOConfig": "max_length",
    "GRPOConfig": "max_completion_length",
}
"""TRL's config of a stage that trains, and its key for the tokens of a row."""


class Planner:
    """Plans recipes in order; each can draw on the plans of those whose output it reads."""

    def __init__(self, world_size: int = 1):
        self.world_size = world_size
        self.plans: list[StagePlan] = []
        self.complaints: list[Complaint] = []
        self.hub = Hub()

    def add(self, recipe: Recipe) -> None:
        stage = stages.find(recipe.stage)
        planned = StagePlan(recipe, stage.KIND)
        config_name = next((name for name in LENGTH if name in stage.ENGINES), None)
        try:
            planned.reads += dict.fromkeys(self._reads(recipe, stage))
            planned.facts |= stage.plan(recipe)
            self._ask_for_benchmarks(recipe)
            planned.notes += planned.facts.pop("notes", [])
            if config_name is not None:
                self._plan_training(planned, engine_class(config_name), LENGTH[config_name])
            elif stage.KIND == "imported":
                planned.model, _ = find_model(recipe, str(recipe.get("source")), self.hub)
        except PipelineError as error:
            self.complaints.append(Complaint(str(recipe.path), str(error)))
        planned.put_in_order()
        self.plans.append(planned)

    def _ask_for_benchmarks(self, recipe: Recipe) -> None:
        """Whether the hub has what the recipe's suites of benchmarks read."""
        from pipeline.evaluation.specification import hub_datasets

        for name, datasets in hub_datasets(recipe.get("evaluations")).items():
            for dataset in datasets.split(", "):
                complaint = self.hub.ask(recipe, f"evaluations.{name}", dataset)
                self.complaints += [complaint] if complaint else []

    def producer(self, path: str | None) -> StagePlan | None:
        """The plan of the recipe that writes `path`, if one before this one does."""
        writers = (one for one in self.plans if path and absolute(path).is_relative_to(absolute(one.recipe.output_dir)))
        return next(writers, None)

    def _reads(self, recipe: Recipe, stage: Any) -> Iterator[str]:
        for key in stage.INPUTS:
            for text in named(recipe, key):
                producer = self.producer(text)
                if producer is not None:
                    yield f"{text} (from {producer.recipe.stage})"
                elif recipe.exists(text):
                    yield text
                elif ":" in text:  # an address, or a dump of Common Crawl
                    self.hub.unchecked.append(f"{recipe.path}: {key}: whether {text} can be reached")
                    yield text
                elif not looks_like_a_path(text):
                    complaint = self.hub.ask(recipe, key, text)
                    self.complaints += [complaint] if complaint else []
                    yield f"{text} (hub)"

    def _plan_training(self, planned: StagePlan, config_type: type, length_key: str) -> None:
        """Parameters, memory, rows, steps and tokens of a stage that trains; what its own plan tells stands."""
        recipe, facts = planned.recipe, planned.facts
        length = recipe.setting(length_key, config_type)
        model, note = self._model(recipe)
        planned.notes += [note] if note else []
        if model is not None:
            planned.model = model.merged()
            length = length or model.config.get_text_config().max_position_embeddings
            facts |= {"parameters": model.parameters} | memory(recipe, model, config_type, length)
            facts |= {"trainable_parameters": model.trainable} if model.adapted else {}
            planned.notes.append(f"estimates: one process, nothing sharded, {precision(recipe)}")
        rows = self._rows(recipe, config_type)
        steps = facts.get("steps") or data.steps_of(recipe, config_type, rows, self.world_size)
        if length and "tokens_per_step" not in facts:
            facts["tokens_per_step"] = batch_of(recipe, config_type, self.world_size) * length
            planned.notes.append(f"tokens are at most these: rows shorter than {length_key} count in full")
        if not steps:
            planned.notes.append("steps are known once the data is there" + " and packed" * bool(recipe.get("packing")))
        found = {"rows": rows, "steps": steps, "tokens": steps and facts.get("tokens_per_step", 0) * steps}
        facts |= {name: value for name, value in found.items() if value}

    def _model(self, recipe: Recipe) -> tuple[Model | None, str]:
        name = recipe.get("model_name_or_path")
        parent, tokenizer = self.producer(name), self.producer(recipe.get("tokenizer"))
        if recipe.get("model_config"):
            return new_model(recipe, tokenizer.facts.get("vocab_size") if tokenizer else None)
        if parent is not None and parent.model is not None:
            return count(parent.model.config, recipe), ""
        return find_model(recipe, name, self.hub)

    def _rows(self, recipe: Recipe, config_type: type) -> int | None:
        """Rows where they lie, or else as the stage that writes them plans: its fact named like their folder."""
        rows = data.rows_of(recipe)
        producer = self.producer(recipe.get("dataset_name"))
        if rows is None and producer is not None:
            rows = producer.facts.get(Path(recipe.get("dataset_name")).name)
        problem = data.too_few(recipe, config_type, rows, self.world_size)
        if problem:
            key = "datasets" if recipe.get("datasets") else "dataset_name"
            where = recipe.source.where(key) if recipe.source else str(recipe.path)
            self.complaints.append(Complaint(where, problem, key))
        return rows

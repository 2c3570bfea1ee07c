"""Keys that all training stages add to TRL's, and what can be said of a training recipe before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class TrainingStageArguments:
    """Our keys on top of TRL's, common to pretraining, fine-tuning and reinforcement learning."""

    output_dir: str = field(
        default="trainer_output",  # transformers' own, so that a stock TRL config file runs as it is
        metadata={"help": "the stage's directory: model, manifest, metrics, samples, checkpoints/"},
    )
    evaluations: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "questions asked at the end: {NAME: {path, scorer, max_new_tokens, few_shot}}, or a YAML with it"
        },
    )
    evaluation_batch_size: int = field(default=128, metadata={"help": "prompts answered at a time", "range": (1, None)})
    sample_prompts: list[Any] | None = field(
        default=None,
        metadata={"help": "prompts (texts, or lists of messages) answered at intervals into samples.jsonl"},
    )
    sample_steps: int = field(
        default=0, metadata={"help": "steps between two answers; 0: at the start and the end", "range": (0, None)}
    )
    sample_tokens: int = field(default=64, metadata={"help": "tokens of an answer at most", "range": (1, None)})


@dataclass(kw_only=True)
class FineTuningArguments(TrainingStageArguments):
    """What supervised fine-tuning and reinforcement learning, which read questions, have on top."""

    decontaminate: str | list[str] | None = field(
        default=None,
        metadata={
            "help": "rows whose user turns hold a question of these evaluations are dropped: recipes with `evaluations`, or "
            "JSONL of prompts"
        },
    )
    decontaminate_overlap: int = field(
        default=13,
        metadata={"help": "words in a row that make it held, or all where a question has fewer", "range": (4, None)},
    )


def check_training(recipe: Any, inputs: Mapping[str, Any], *, needs_data: bool) -> list[str]:
    """Complaints about paths and sources that are missing; nothing is opened.

    `needs_data`: the stage trains a model that there is on rows of a dataset; pretraining has other sources of both.
    """
    from pipeline.checkpoint import looks_like_a_path
    from pipeline.recipe.parents import named
    from pipeline.training.tracking import check_trackers

    complaints = check_trackers(recipe)
    for key in inputs:
        for value in named(recipe, key) if key != "datasets" else ():
            if looks_like_a_path(value) and not recipe.exists(value):
                complaints.append(f"{key}: {value} does not exist")
    for number, part in enumerate(recipe.get("datasets") or ()):
        files = _field(part, "data_files")
        for path in [files] if isinstance(files, str) else files if isinstance(files, list) else ():
            if "://" not in path and not recipe.exists(path):
                complaints.append(f"datasets: entry {number}: {path} does not exist")
    if needs_data and not recipe.get("dataset_name") and not recipe.get("datasets"):
        complaints.append("dataset_name: is missing: expected a file, a folder, a hub id, or `datasets`")
    if needs_data and not recipe.get("model_name_or_path"):
        complaints.append("model_name_or_path: is missing: expected the model to train")
    return complaints


def batch_of(recipe: Any, config_type: type, world_size: int = 1) -> int:
    """Rows of an optimizer step over all processes."""
    per_device = recipe.setting("per_device_train_batch_size", config_type)
    return int(per_device * recipe.setting("gradient_accumulation_steps", config_type) * world_size)


def _field(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)

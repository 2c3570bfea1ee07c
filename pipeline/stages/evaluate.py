"""Stage `evaluate`: any checkpoint, asked questions with known answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments:
    """A model and the questions for it."""

    model_name_or_path: str = field(
        metadata={"help": "a stage directory, any Hugging Face model directory, or a hub id"}
    )
    evaluations: dict[str, Any] | str = field(
        metadata={"help": "{NAME: {path, scorer, max_new_tokens, few_shot}}, or a YAML file with it"}
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "where evaluation.json and evaluation/ go; by default into the model's own directory"},
    )
    evaluation_batch_size: int = field(default=128, metadata={"help": "prompts answered at a time", "range": (1, None)})
    kind: str | None = field(
        default=None,
        metadata={
            "help": "ask as a base model (questions and answers to continue) or as a chat model (its template); by "
            "default as the checkpoint says",
            "choices": ("base", "chat"),
        },
    )

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or self.model_name_or_path


KIND = "evaluation"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {"model_name_or_path": ("base", "chat", "reasoning", "aligned", "imported")}


def check(recipe: Recipe) -> list[str]:
    """Complaints about the evaluations, and about a model that is not there."""
    from pipeline.checkpoint import looks_like_a_path
    from pipeline.evaluation.specification import check_evaluations

    arguments: Arguments = recipe.arguments
    model = arguments.model_name_or_path
    complaints = check_evaluations(arguments.evaluations, exists=recipe.exists)
    if looks_like_a_path(model) and not recipe.exists(model):
        complaints.append(f"model_name_or_path: {model} does not exist")
    elif not recipe.get("output_dir") and not recipe.exists(model):
        complaints.append(f"output_dir: is missing: {model} is not a folder here that the results could lie in")
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """The evaluations, and how many questions they ask where that is known."""
    from pipeline.evaluation.questions import count_questions
    from pipeline.evaluation.specification import read_evaluations

    evaluations = read_evaluations(recipe.arguments.evaluations)
    questions = count_questions(evaluations)
    return {"evaluations": ", ".join(evaluations)} | ({"questions": questions} if questions else {})


def run(recipe: Recipe) -> None:
    """Ask what has not been asked of exactly this model yet; keep every answer."""
    from pipeline.evaluation.evaluate import evaluate_checkpoint
    from pipeline.manifest import MANIFEST, verify
    from pipeline.training import distributed

    arguments: Arguments = recipe.arguments
    model = Path(arguments.model_name_or_path)
    if (model / MANIFEST).is_file():
        verify(model, INPUTS["model_name_or_path"])
    state = distributed.processes()
    # Every rank holds the whole model here, whichever engine the Accelerate config names for training.
    distributed.check({**distributed.asked_for(), "engine": None}, state.num_processes, state.distributed_type)
    evaluate_checkpoint(
        arguments.model_name_or_path,
        arguments.evaluations,
        kind=arguments.kind,
        directory=arguments.output_dir,
        batch_size=arguments.evaluation_batch_size,
    )

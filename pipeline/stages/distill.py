"""On-policy distillation: a small model learns from a larger one's probabilities on the small one's own completions."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.training.arguments import TrainingStageArguments

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(TrainingStageArguments):
    """Keys of this stage on top of TRL's `DistillationConfig`, `ScriptArguments`, `ModelConfig` and
    `DatasetMixtureConfig`.

    Agarwal et al. 2024 (GKD, arXiv:2306.13649): the divergence is taken on what the student itself writes, so that it learns
    to go on from its own mistakes.
    """

    teacher_model_name_or_path: str = field(metadata={"help": "the model to learn from; of the same vocabulary"})
    prompt_column: str = field(default="prompt", metadata={"help": "column that holds the prompt"})
    pad_token: str | None = field(
        default=None, metadata={"help": "token to pad with, where the tokenizer pads with its EOS"}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "system message before every prompt"})


KIND = "chat"
ENGINES: tuple[str, ...] = ("ScriptArguments", "DistillationConfig", "ModelConfig", "DatasetMixtureConfig")
INPUTS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("base", "chat", "reasoning", "imported"),
    "teacher_model_name_or_path": ("base", "chat", "reasoning", "imported"),
    "dataset_name": (),
    "datasets": (),
}


def check(recipe: Recipe) -> list[str]:
    """Complaints that need more than one key."""
    from pipeline.evaluation.specification import check_evaluations
    from pipeline.training.arguments import check_training

    complaints = check_training(recipe, INPUTS, needs_data=True)
    complaints += check_evaluations(recipe.arguments.evaluations, exists=recipe.exists)
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """Completions a step and steps."""
    from trl import DistillationConfig

    from pipeline.training.arguments import batch_of

    per_step = batch_of(recipe, DistillationConfig)
    steps = recipe.get("max_steps", -1)
    return {"completions_per_step": per_step} | ({"steps": steps} if steps > 0 else {})


def run(recipe: Recipe) -> None:
    """Train, hand over, evaluate."""
    from pipeline.evaluation.at_end import training_stage

    with training_stage(recipe, KIND, INPUTS) as directory:
        if not directory.complete:
            _train(recipe, directory)


def _train(recipe: Recipe, directory: Any) -> None:
    from trl import DistillationConfig, DistillationTrainer

    from pipeline.conversation.template import end_of_turn, has_turn_marks
    from pipeline.corpus.tokens import vocabulary_hash
    from pipeline.errors import PipelineError
    from pipeline.evaluation.at_end import samples_callback
    from pipeline.training import data, models, problems, session
    from pipeline.training.device import flops_per_token

    args = session.config(recipe, DistillationConfig, directory)
    source, teacher = models.source_of(recipe), recipe.arguments.teacher_model_name_or_path
    trusted = recipe.get("trust_remote_code", False)
    tokenizer = models.load_tokenizer(source, trust_remote_code=trusted)
    models.check_padding(tokenizer, source, recipe.arguments.pad_token)
    if vocabulary_hash(tokenizer) != vocabulary_hash(models.load_tokenizer(teacher, trust_remote_code=trusted)):
        raise PipelineError(
            f"teacher_model_name_or_path: {teacher} has another vocabulary than {source}: their probabilities cannot be "
            f"compared token by token. Take a teacher of the same tokenizer, or train on its samples (`pipeline sample`)."
        )
    chat = has_turn_marks(tokenizer)
    name = str(recipe.get("dataset_name") or "datasets")
    train, evaluation = data.load_training_data(recipe)
    columns: dict[str, str | None] = {"prompt": recipe.arguments.prompt_column}
    train, evaluation = (
        problems.prepare(rows, columns, name, chat=chat, system=recipe.arguments.system_prompt) if rows else rows
        for rows in (train, evaluation)
    )
    model = models.load_model(recipe)
    models.check_vocabulary(tokenizer, model, source)
    if chat:
        tokenizer.eos_token = end_of_turn(tokenizer)
    handed_over = copy.deepcopy(tokenizer)
    teaching = models.load_model(recipe, path=teacher)
    context = args.max_completion_length or 512
    trainer = DistillationTrainer(
        model=model,
        teacher_model=teaching,
        args=args,
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=evaluation,
        peft_config=models.peft_config(recipe),
    )
    session.check_launch(trainer)
    trainer.add_callback(samples_callback(recipe, tokenizer, directory, chat=chat))
    session.train(
        trainer,
        directory,
        recipe,
        context=context,
        base=source,
        tokenizer=handed_over,
        facts=data.facts_of(train) | {"teacher_flops_per_token": flops_per_token(teaching, context) / 3},
    )

"""A reward model from preference pairs (Bradley-Terry; Ouyang et al. 2022): it learns which of two answers people prefer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.alignment.arguments import PreferenceArguments

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(PreferenceArguments):
    """Keys of this stage on top of those of `trl reward`."""

    output_dir: str = field(
        default="trainer_output", metadata={"help": "the stage's directory: model, manifest, metrics, checkpoints/"}
    )
    judge: str | None = field(
        default=None,
        metadata={"help": "dotted path of a reward function whose taste the pairs show: agreement is measured"},
    )


KIND = "reward"
ENGINES: tuple[str, ...] = ("ScriptArguments", "RewardConfig", "ModelConfig", "DatasetMixtureConfig")
INPUTS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("base", "chat", "reasoning", "aligned", "imported"),
    "dataset_name": (),
    "datasets": (),
}


def check(recipe: Recipe) -> list[str]:
    """Complaints that need more than one key."""
    from pipeline.alignment.arguments import check_judge
    from pipeline.training.arguments import check_training

    return check_training(recipe, INPUTS, needs_data=True) + check_judge(recipe)


def plan(recipe: Recipe) -> dict[str, Any]:
    """Pairs a step, and steps as far as they are known before the data is."""
    from trl import RewardConfig

    from pipeline.training.arguments import batch_of

    steps = recipe.get("max_steps", -1)
    return {"pairs_per_step": batch_of(recipe, RewardConfig)} | ({"steps": steps} if steps > 0 else {})


def run(recipe: Recipe) -> None:
    """Train, hand over, measure on held-out pairs."""
    from pipeline.evaluation.at_end import training_stage
    from pipeline.training import distributed

    def measure(directory: Any) -> None:
        if distributed.is_main():
            from pipeline.alignment import scores
            from pipeline.conversation.template import has_turn_marks
            from pipeline.training import models, preferences

            chat = has_turn_marks(models.load_tokenizer(str(directory.path)))
            _, heldout, _ = preferences.load(recipe, chat=chat, heldout=True)
            scores.measure(
                directory.path, heldout, label_noise=recipe.arguments.label_noise, judge=recipe.arguments.judge
            )

    with training_stage(recipe, KIND, INPUTS, measure) as directory:
        if not directory.complete:
            _train(recipe, directory)


def _train(recipe: Recipe, directory: Any) -> None:
    from transformers import set_seed
    from trl import RewardConfig, RewardTrainer

    from pipeline.alignment import scores
    from pipeline.conversation.template import has_turn_marks
    from pipeline.conversation.trainer import adopt_template
    from pipeline.training import data, models, preferences, session
    from pipeline.training.reward_model import score_rows
    from pipeline.training.trainer import CountsInState

    trainer_type: Any = type(RewardTrainer.__name__, (CountsInState, RewardTrainer), {})
    args = session.config(recipe, RewardConfig, directory)
    source = models.source_of(recipe)
    tokenizer = models.load_tokenizer(source, trust_remote_code=recipe.get("trust_remote_code", False))
    models.check_padding(tokenizer, source, args.pad_token)
    if args.chat_template_path and adopt_template(tokenizer, args.chat_template_path):
        args.chat_template_path = None
    train, heldout, dropped = preferences.load(recipe, chat=has_turn_marks(tokenizer), heldout=True)
    set_seed(args.seed)  # the head that scores is drawn while the model loads
    model = models.load_model(recipe, scores=True)
    models.check_vocabulary(tokenizer, model, source)
    models.check_context(model, args.max_length, recipe)
    trainer = trainer_type(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=heldout.add_column("row", list(range(len(heldout)))),
        peft_config=models.peft_config(recipe, scores=True),
    )
    long = len(train) - len(trainer.train_dataset)
    session.say(
        f"reward: {len(trainer.train_dataset)} pairs to learn from ({dropped} rows dropped, {long} longer than max_length), "
        f"{len(heldout)} held out"
    )
    session.check_launch(trainer)
    checked = trainer.eval_dataset.select(range(min(32, len(trainer.eval_dataset))))

    def check_reload(folder: Any) -> None:
        if args.bf16 or args.fp16 or recipe.get("load_in_4bit") or recipe.get("load_in_8bit"):
            return  # the probe of the hand-over knows their tolerances
        expected = score_rows(trainer.model, checked["chosen_ids"], tokenizer.pad_token_id)
        scores.check_reload(folder, heldout.select(checked["row"]), expected)

    session.train(
        trainer,
        directory,
        recipe,
        context=args.max_length or 1024,
        base=source,
        tokenizer=tokenizer,
        facts=data.facts_of(trainer.train_dataset) | {"dropped": dropped, "too_long": long, "heldout": len(heldout)},
        check=check_reload,
    )

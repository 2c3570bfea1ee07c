"""Preferences without a reward model: DPO (Rafailov et al. 2023) on pairs, KTO (Ethayarajh et al. 2024) on their halves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.alignment.arguments import JudgeArguments, PreferenceArguments
from pipeline.training.arguments import TrainingStageArguments

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(JudgeArguments, PreferenceArguments, TrainingStageArguments):
    """Keys of this stage on top of those of `trl dpo` and `trl kto`."""

    algorithm: str = field(default="dpo", metadata={"help": "the loss", "choices": ("dpo", "kto")})
    pad_token: str | None = field(
        default=None, metadata={"help": "token to pad with, where the tokenizer pads with its EOS"}
    )


KIND = "aligned"
ENGINES: tuple[str, ...] = ("ScriptArguments", "KTOConfig", "DPOConfig", "ModelConfig", "DatasetMixtureConfig")
ALGORITHMS = {"dpo": "DPOConfig", "kto": "KTOConfig"}
INPUTS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("base", "chat", "reasoning", "aligned", "imported"),
    "dataset_name": (),
    "datasets": (),
}
LOSSES = {
    "dpo": (
        *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
        *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
    ),
    "kto": ("kto", "apo_zero_unpaired"),
}
"""What TRL 1.16 knows as `loss_type`; it looks at the name in the first step only."""


def check(recipe: Recipe) -> list[str]:
    """Complaints that need more than one key."""
    from pipeline.alignment.arguments import check_judge
    from pipeline.evaluation.specification import check_evaluations
    from pipeline.training.arguments import check_training

    complaints = check_training(recipe, INPUTS, needs_data=True) + check_judge(recipe)
    complaints += check_evaluations(recipe.arguments.evaluations, exists=recipe.exists)
    known = LOSSES[recipe.arguments.algorithm]
    unknown = [name for name in recipe.get("loss_type") or () if name not in known]
    if unknown or (recipe.arguments.algorithm == "kto" and len(recipe.get("loss_type") or ()) > 1):
        found = ", ".join(recipe.get("loss_type"))
        complaints.append(
            f"loss_type: {found} with algorithm {recipe.arguments.algorithm}: expected {' or '.join(known)}"
        )
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """Rows a step, and steps as far as they are known before the data is."""
    from trl import DPOConfig

    from pipeline.training.arguments import batch_of

    steps = recipe.get("max_steps", -1)
    found = {"algorithm": recipe.arguments.algorithm, "rows_per_step": batch_of(recipe, DPOConfig)}
    return found | ({"steps": steps} if steps > 0 else {})


def run(recipe: Recipe) -> None:
    """Train, hand over, evaluate, measure on held-out pairs, and let the judge compare with the model at the start."""
    from pipeline.alignment import judge, scores
    from pipeline.conversation.template import has_turn_marks
    from pipeline.evaluation.at_end import training_stage
    from pipeline.recipe.keys import engine_class
    from pipeline.training import distributed, models, preferences

    def measure(directory: Any) -> None:
        if distributed.is_main():
            chat = has_turn_marks(models.load_tokenizer(str(directory.path)))
            _, heldout, _ = preferences.load(recipe, chat=chat, heldout=True)
            scores.measure_policy(
                directory.path,
                heldout,
                reference=models.source_of(recipe),
                beta=recipe.setting("beta", engine_class(ALGORITHMS[recipe.arguments.algorithm])),
                label_noise=recipe.arguments.label_noise,
            )
            judge.measure(directory.path, recipe, KIND)

    with training_stage(recipe, KIND, INPUTS, measure) as directory:
        if not directory.complete:
            _train(recipe, directory)


def _train(recipe: Recipe, directory: Any) -> None:
    import trl
    from trl import unpair_preference_dataset

    from pipeline.conversation.template import end_of_turn, has_turn_marks
    from pipeline.evaluation.at_end import samples_callback
    from pipeline.training import data, models, preferences, session
    from pipeline.training.callbacks import AgreesAtTheStart
    from pipeline.training.trainer import CountsInState

    kto = recipe.arguments.algorithm == "kto"
    config_type, base = (trl.KTOConfig, trl.KTOTrainer) if kto else (trl.DPOConfig, trl.DPOTrainer)
    trainer_type: Any = type(base.__name__, (CountsInState, base), {})
    args = session.config(recipe, config_type, directory)
    args.logging_first_step = True  # the first step's figures show whether policy and reference agree
    if kto and isinstance(args.loss_type, list):
        (args.loss_type,) = args.loss_type
    source = models.source_of(recipe)
    tokenizer = models.load_tokenizer(source, trust_remote_code=recipe.get("trust_remote_code", False))
    models.check_padding(tokenizer, source, recipe.arguments.pad_token)
    chat = has_turn_marks(tokenizer)
    if chat:
        tokenizer.eos_token = end_of_turn(tokenizer)
    train, evaluation, dropped = preferences.load(recipe, chat=chat, heldout=True)
    evaluation = evaluation if str(args.eval_strategy.value) != "no" else None  # it would be tokenised all the same
    if kto:  # TRL unpairs a thousand rows at a time, all chosen before all rejected, and reads them in that order
        seed = recipe.get("seed", 42)
        train = unpair_preference_dataset(train).shuffle(seed=seed)
        evaluation = unpair_preference_dataset(evaluation).shuffle(seed=seed) if evaluation is not None else None
    model = models.load_model(recipe)
    models.check_vocabulary(tokenizer, model, source)
    models.check_context(model, args.max_length, recipe)
    trainer = trainer_type(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=evaluation,
        peft_config=models.peft_config(recipe),
    )
    session.check_launch(trainer)
    longer = len(train) - len(trainer.train_dataset)
    session.say(
        f"dpo: {len(trainer.train_dataset)} {'answers' if kto else 'pairs'} to learn from ({dropped} rows dropped, {longer} "
        f"with a prompt that fills max_length)"
    )
    trainer.add_callback(AgreesAtTheStart(args.beta))
    trainer.add_callback(samples_callback(recipe, tokenizer, directory, chat=chat))
    session.train(
        trainer,
        directory,
        recipe,
        context=args.max_length or 1024,
        base=source,
        facts=data.facts_of(trainer.train_dataset) | {"dropped": dropped},
    )

"""Pretraining: a model reads the textbooks, from random weights or on from a checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.corpus.mixture import Member
from pipeline.training.arguments import TrainingStageArguments

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(TrainingStageArguments):
    """Keys of this stage on top of TRL's `SFTConfig` and `ModelConfig`."""

    tokenizer: str = field(metadata={"help": "directory of the tokenizer stage, with its token shards"})
    mixture: list[Member] | None = field(
        default=None,
        metadata={
            "help": "token shards to train on instead of the tokenizer's own: [{path, weight}], weights of tokens"
        },
    )
    annealing_mixture: list[Member] | None = field(
        default=None, metadata={"help": "another mixture for the last part of the run (mid-training)"}
    )
    annealing_start: float = field(
        default=0.9, metadata={"help": "share of the steps after which annealing_mixture takes over", "range": (0, 1)}
    )
    model_config: dict[str, Any] | None = field(
        default=None, metadata={"help": "transformers config of a new model: {model_type: llama, hidden_size: ...}"}
    )
    packing_strategy: str = field(
        default="bfd_split",
        metadata={
            "help": "bfd_split and bfd keep documents apart; wrapped lays them end to end, attention running across",
            "choices": ("bfd_split", "bfd", "wrapped"),
        },
    )
    train_tokens: int | None = field(
        default=None, metadata={"help": "tokens to train on; sets max_steps", "range": (1, None)}
    )
    validation_rows: int = field(
        default=512, metadata={"help": "rows of the validation split to measure at most", "range": (1, None)}
    )


KIND = "base"
ENGINES: tuple[str, ...] = ("SFTConfig", "ModelConfig")
ENGINE_CHOICES = {"optim": ("muon",)}
INPUTS: dict[str, tuple[str, ...]] = {
    "tokenizer": ("tokenizer",),
    "mixture": ("tokenizer",),
    "annealing_mixture": ("tokenizer",),
    "model_name_or_path": ("base", "chat", "reasoning", "imported"),
}


def check(recipe: Recipe) -> list[str]:
    """Complaints that need more than one key."""
    from pipeline.corpus.mixture import check_mixtures
    from pipeline.evaluation.specification import check_evaluations
    from pipeline.training.arguments import check_training

    complaints = check_training(recipe, INPUTS, needs_data=False)
    complaints += check_evaluations(recipe.arguments.evaluations, exists=recipe.exists)
    given = [key for key in ("model_config", "model_name_or_path") if recipe.get(key)]
    if len(given) != 1:
        complaints.append(
            f"model_config: {'both' if given else 'neither'} model_config {'and' if given else 'nor'} model_name_or_path "
            f"{'are' if given else 'is'} given: name one, a new model or the checkpoint to go on from"
        )
    lengths = [key for key in ("train_tokens", "max_steps", "num_train_epochs") if recipe.get(key) is not None]
    if len(lengths) > 1:
        complaints.append(f"{lengths[1]}: given together with {lengths[0]}: each sets how long to train; keep one")
    context = (recipe.get("model_config") or {}).get("max_position_embeddings")
    if context is not None and recipe.get("max_length", 1024) > context:
        complaints.append(f"max_length: {recipe.get('max_length', 1024)} exceeds max_position_embeddings {context}")
    if recipe.get("packing") is False or recipe.get("padding_free"):
        complaints.append("packing: pretraining always packs full rows; choose how with packing_strategy")
    for key in ("logging_strategy", "eval_strategy", "save_strategy"):
        if str(recipe.get(key)) == "epoch":
            complaints.append(f"{key}: epochs run into one another in pretraining; give `steps` and their number")
    return [*complaints, *check_mixtures(recipe)]


def plan(recipe: Recipe) -> dict[str, Any]:
    """Tokens a step, steps and tokens in all and of each corpus."""
    from trl import SFTConfig

    from pipeline.corpus.mixture import planned_tokens
    from pipeline.training.arguments import batch_of

    per_step = batch_of(recipe, SFTConfig) * (recipe.setting("max_length", SFTConfig) or 1024)
    steps = steps_of(recipe, per_step)
    if not steps:
        return {"tokens_per_step": per_step}
    corpora = planned_tokens(recipe.arguments, steps * per_step)
    return {"tokens_per_step": per_step, "steps": steps, "tokens": steps * per_step, "corpora": corpora}


def steps_of(recipe: Recipe, tokens_per_step: int) -> int | None:
    """Optimizer steps, where tokens or steps are given; None where epochs decide."""
    if recipe.get("max_steps", -1) > 0:
        return recipe.get("max_steps")
    tokens = recipe.arguments.train_tokens
    return max(1, round(tokens / tokens_per_step)) if tokens else None


def run(recipe: Recipe) -> None:
    """Train, hand over, evaluate."""
    from pipeline.evaluation.at_end import training_stage

    with training_stage(recipe, KIND, INPUTS) as directory:
        if not directory.complete:
            _train(recipe, directory)


def _train(recipe: Recipe, directory: Any) -> None:
    from transformers import set_seed
    from trl import SFTConfig

    from pipeline.corpus import mixture
    from pipeline.evaluation.at_end import samples_callback
    from pipeline.training import device, models, packing, session
    from pipeline.training.arguments import batch_of
    from pipeline.training.order import RowStream
    from pipeline.training.pretraining import PretrainTrainer
    from pipeline.training.validation import bytes_per_token

    args = session.config(
        recipe,
        SFTConfig,
        directory,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=2 if device.on_gpu() else 0,
    )
    args.packing = False  # rows come packed
    args.ignore_data_skip = True  # the trainer knows where to go on
    folder, length = recipe.arguments.tokenizer, args.max_length or 1024
    strategy = recipe.arguments.packing_strategy
    tokenizer = models.load_tokenizer(folder)
    models.check_padding(tokenizer, folder, args.pad_token)
    shards = mixture.open_shards(recipe.arguments, tokenizer)
    set_seed(args.seed)
    source = recipe.get("model_name_or_path")
    attention = recipe.get("attn_implementation")
    if source:
        model = models.load_model(recipe)
    else:
        model = models.new_model(recipe.arguments.model_config, tokenizer, attention=attention)
    models.check_vocabulary(tokenizer, model, source or "model_config")
    models.check_context(model, length, recipe)
    if strategy != "wrapped":
        packing.check_isolation(model, "`packing_strategy: wrapped`")
    with args.main_process_first(local=False):
        corpora = mixture.packed(shards, length, strategy, directory.checkpoints / "packing")
    batch = batch_of(recipe, SFTConfig, args.world_size)
    epochs = math.ceil(args.num_train_epochs * len(corpora[0].rows) / batch)
    args.max_steps = steps = steps_of(recipe, batch * length) or epochs
    annealing = round(steps * recipe.arguments.annealing_start) if recipe.arguments.annealing_mixture else steps
    rows = RowStream(corpora, steps * batch, args.seed, tokenizer.pad_token_id, annealing * batch)
    session.say(f"pretrain: {device.size_of(model.parameters()):,} parameters; {steps:,} steps of {batch} rows")
    session.say(mixture.described(rows, strategy))
    trainer = PretrainTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        rows=rows,
        data_collator=packing.PackedCollator(flatten=model.config._attn_implementation.startswith("flash")),
        use_muon=recipe.get("optim") == "muon",
        validation=mixture.held_out(shards, length, strategy),
        validation_rows=recipe.arguments.validation_rows,
        token_bytes=bytes_per_token(tokenizer),
    )
    session.check_launch(trainer)
    trainer.add_callback(samples_callback(recipe, tokenizer, directory, chat=False))
    session.train(trainer, directory, recipe, context=length, base=source, facts={"corpora": rows.facts()})

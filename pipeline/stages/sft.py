"""Supervised fine-tuning: a model studies worked examples, conversations or prompts with completions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.training.arguments import FineTuningArguments

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass
class Arguments(FineTuningArguments):
    """Keys of this stage on top of those of `trl sft`."""

    prompt_column: str | None = field(default=None, metadata={"help": "column to read as `prompt`"})
    answer_column: str | None = field(default=None, metadata={"help": "column to read as `completion`"})
    invalid_rows: str = field(
        default="stop",
        metadata={"help": "what to do with rows that cannot be trained on", "choices": ("stop", "drop")},
    )
    max_truncated_share: float = field(
        default=0.5, metadata={"help": "share of rows longer than max_length that is tolerated", "range": (0, 1)}
    )
    kind: str = field(
        default="chat",
        metadata={
            "help": "what is handed over: a chat model, or a base model that learnt plain prompts and completions",
            "choices": ("chat", "base"),
        },
    )
    tools: list[str] | None = field(
        default=None,
        metadata={"help": "tools listed in every conversation: names of pipeline.tools, or dotted paths of functions"},
    )


KIND = "chat"
ENGINES: tuple[str, ...] = ("ScriptArguments", "SFTConfig", "ModelConfig", "DatasetMixtureConfig")
ENGINE_CHOICES = {"optim": ("muon",)}
INPUTS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("base", "chat", "reasoning", "aligned", "imported"),
    "dataset_name": (),
    "datasets": (),
}


def check(recipe: Recipe) -> list[str]:
    """Complaints that need more than one key."""
    from pipeline.corpus.questions import question_complaints
    from pipeline.evaluation.specification import check_evaluations
    from pipeline.tools import check as check_tools
    from pipeline.training.arguments import check_training

    complaints = check_training(recipe, INPUTS, needs_data=True) + question_complaints(recipe)
    complaints += check_tools(recipe.arguments.tools)
    return complaints + check_evaluations(recipe.arguments.evaluations, exists=recipe.exists)


def plan(recipe: Recipe) -> dict[str, Any]:
    """Tokens a step and steps, as far as they are known before the data is."""
    from trl import SFTConfig

    from pipeline.training.arguments import batch_of

    steps = recipe.get("max_steps", -1)
    rows = batch_of(recipe, SFTConfig)
    return {"rows_per_step": rows} | ({"steps": steps} if steps > 0 else {})


def run(recipe: Recipe) -> None:
    """Train, hand over, evaluate."""
    from pipeline.evaluation.at_end import training_stage

    with training_stage(recipe, recipe.arguments.kind, INPUTS) as directory:
        if not directory.complete:
            _train(recipe, directory)


def _train(recipe: Recipe, directory: Any) -> None:
    from trl import SFTConfig

    from pipeline.conversation.rows import list_tools, normalise
    from pipeline.conversation.template import end_of_turn, has_turn_marks, refuse_toolless_template
    from pipeline.conversation.trainer import ConversationTrainer, adopt_template, refuse_unmarked_template
    from pipeline.evaluation.at_end import samples_callback
    from pipeline.evaluation.decontamination import drop_contaminated
    from pipeline.tools import resolve
    from pipeline.training import data, models, packing, session

    args = session.config(recipe, SFTConfig, directory)
    source = models.source_of(recipe)
    tokenizer = models.load_tokenizer(source, trust_remote_code=recipe.get("trust_remote_code", False))
    models.check_padding(tokenizer, source, args.pad_token)
    train, evaluation = data.load_training_data(recipe)
    name = recipe.get("dataset_name") or "datasets"
    columns = {"prompt": recipe.arguments.prompt_column, "completion": recipe.arguments.answer_column}
    tools = resolve(recipe.arguments.tools or [])

    def prepared(rows: Any) -> tuple[Any, int]:
        rows, dropped = normalise(
            data.rename_columns(rows, columns, name), name, invalid_rows=recipe.arguments.invalid_rows, tools=tools
        )
        return list_tools(rows, tools, name), dropped

    train, dropped = prepared(train)
    train, decontamination = drop_contaminated(recipe, train, name, directory)
    if evaluation is not None:
        evaluation, _ = prepared(evaluation)
    columns_found = set(train.column_names or next(iter(train)))
    conversational = "messages" in columns_found or isinstance(next(iter(train)).get("prompt"), list)
    if "messages" in columns_found and recipe.get("assistant_only_loss") is None:
        args.assistant_only_loss = True
    if args.chat_template_path and adopt_template(tokenizer, args.chat_template_path):
        args.chat_template_path = None
    if conversational and args.chat_template_path is None:
        args.eos_token = args.eos_token or end_of_turn(tokenizer)
        if args.assistant_only_loss:
            refuse_unmarked_template(tokenizer, source)
    if tools or "tools" in columns_found:
        refuse_toolless_template(tokenizer, source)
    model = models.load_model(recipe)
    models.check_vocabulary(tokenizer, model, source)
    models.check_context(model, args.max_length, recipe)
    if args.padding_free or args.packing and args.packing_strategy != "wrapped":
        packing.check_isolation(model, "`packing: false` (or `packing_strategy: wrapped`) and `padding_free: false`")
    learns = (
        "assistant turns"
        if args.assistant_only_loss
        else "completions"
        if "completion" in columns_found
        else "all tokens"
    )
    session.say(f"sft: loss on {learns}; turns end in {args.eos_token or tokenizer.eos_token}; {dropped} rows dropped")
    trainer = ConversationTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=evaluation,
        peft_config=models.peft_config(recipe),
        use_muon=recipe.get("optim") == "muon",
        context=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        max_truncated_share=recipe.arguments.max_truncated_share,
        name=name,
    )
    session.check_launch(trainer)
    trainer.add_callback(samples_callback(recipe, tokenizer, directory, chat=has_turn_marks(tokenizer), tools=tools))
    facts = data.facts_of(train) | decontamination
    session.train(trainer, directory, recipe, context=args.max_length or trainer.longest, base=source, facts=facts)

"""Reinforcement learning with verifiable rewards: a model does the exercises (GRPO, DeepSeekMath, Shao et al. 2024)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.training.arguments import FineTuningArguments

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(FineTuningArguments):
    """Keys of this stage on top of those of `trl grpo`."""

    prompt_column: str = field(default="prompt", metadata={"help": "column that holds the problem"})
    answer_column: str = field(default="answer", metadata={"help": "column that holds the gold answer"})
    pad_token: str | None = field(
        default=None, metadata={"help": "token to pad with, where the tokenizer pads with its EOS"}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "system message before every problem"})
    reward_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": "parameters of rewards by name: {length: {cache: 64}}"}
    )
    reward_check: str = field(
        default="stop",
        metadata={
            "help": "before training, score gold answers, attacks and the model's own completions; what to do when they fail",
            "choices": ("stop", "warn", "off"),
        },
    )
    reward_check_prompts: int = field(
        default=64, metadata={"help": "prompts sampled for the reward check", "range": (8, None)}
    )
    gold_template: str | None = field(
        default=None, metadata={"help": "form in which a gold answer scores best; {answer} stands for the answer"}
    )
    rails: dict[str, Any] | str | bool | None = field(
        default=None,
        metadata={
            "help": "what ends a run that goes wrong: stop (the default), warn, rollback, off, or {action, window, LIMITS}; "
            "see docs/rails.md"
        },
    )


KIND = "reasoning"
ENGINES: tuple[str, ...] = ("GRPOScriptArguments", "GRPOConfig", "ModelConfig", "DatasetMixtureConfig")
INPUTS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("base", "chat", "reasoning", "imported"),
    "reward_model_name_or_path": ("reward",),
    "dataset_name": (),
    "datasets": (),
}


def check(recipe: Recipe) -> list[str]:
    """Complaints that need more than one key."""
    from pipeline.corpus.questions import question_complaints
    from pipeline.errors import PipelineError
    from pipeline.evaluation.specification import check_evaluations
    from pipeline.training.arguments import check_training
    from pipeline.training.rails import check_rails

    complaints = check_training(recipe, INPUTS, needs_data=True) + question_complaints(recipe)
    complaints += check_evaluations(recipe.arguments.evaluations, exists=recipe.exists)
    if recipe.get("reward_funcs"):
        try:
            _rewards(recipe)
        except PipelineError as error:
            complaints += str(error).splitlines()
    elif not recipe.get("reward_model_name_or_path"):
        complaints.append("reward_funcs: is missing: expected names of rewards or dotted paths of functions")
    complaints += check_rails(recipe.arguments.rails)
    if not recipe.get("model_name_or_path"):
        complaints.append("model_name_or_path: is missing: expected the model to train")
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """Completions a step and steps."""
    from trl import GRPOConfig

    from pipeline.training.arguments import batch_of

    per_step = batch_of(recipe, GRPOConfig)
    steps = recipe.get("max_steps", -1)
    tokens = per_step * recipe.setting("max_completion_length", GRPOConfig)
    found = {
        "completions_per_step": per_step,
        "prompts_per_step": per_step / recipe.setting("num_generations", GRPOConfig),
    }
    return found | {"tokens_per_step": tokens} | ({"steps": steps, "tokens": steps * tokens} if steps > 0 else {})


def run(recipe: Recipe) -> None:
    """Check the rewards, train, hand over, evaluate."""
    from pipeline.evaluation.at_end import training_stage

    with training_stage(recipe, KIND, INPUTS) as directory:
        if not directory.complete:
            _train(recipe, directory)


def _rewards(recipe: Recipe) -> tuple[list[Any], list[float]]:
    """The recipe's rewards, and their weights without that of a reward model, which TRL puts first."""
    from trl import GRPOConfig

    from pipeline.rewards import resolve, reward_weights

    rewards = resolve(
        recipe.get("reward_funcs") or [],
        recipe.arguments.reward_kwargs,
        max_completion_length=recipe.setting("max_completion_length", GRPOConfig),
    )
    weights = recipe.get("reward_weights")
    if weights and recipe.get("reward_model_name_or_path"):
        weights = weights[1:]
    return rewards, reward_weights(rewards, weights)


def try_rewards(recipe: Recipe) -> bool:
    """The reward check alone, without any training; whether it found nothing wrong (`pipeline rewards check`)."""
    from trl import GRPOConfig

    from pipeline.checkpoint import StageDirectory
    from pipeline.training import session

    args = session.config(recipe, GRPOConfig, StageDirectory(recipe.output_dir, {}))
    return _check_rewards(recipe, args, _prepare(recipe, args, None))


@dataclass
class _Prepared:
    """What a run needs beside its trainer; `handed_over` is the tokenizer that the checkpoint gets."""

    source: str
    model: Any
    tokenizer: Any
    handed_over: Any
    train: Any
    evaluation: Any
    rewards: list[Any]
    weights: list[float]
    chat: bool
    decontamination: dict[str, Any]


def _prepare(recipe: Recipe, args: Any, directory: Any) -> _Prepared:
    """Load model, tokenizer, problems and rewards, and refuse what cannot be trained."""
    from pipeline.conversation.template import end_of_turn, has_turn_marks
    from pipeline.evaluation.decontamination import drop_contaminated
    from pipeline.training import data, models, problems

    source = models.source_of(recipe)
    tokenizer = models.load_tokenizer(source, trust_remote_code=recipe.get("trust_remote_code", False))
    models.check_padding(tokenizer, source, recipe.arguments.pad_token)
    chat = has_turn_marks(tokenizer)
    train, evaluation = data.load_training_data(recipe)
    columns = {"prompt": recipe.arguments.prompt_column, "answer": recipe.arguments.answer_column}
    name = str(recipe.get("dataset_name") or "datasets")
    train = problems.prepare(train, columns, name, chat=chat, system=recipe.arguments.system_prompt)
    train, decontamination = drop_contaminated(recipe, train, name, directory)
    if evaluation is not None:
        evaluation = problems.prepare(evaluation, columns, name, chat=chat, system=recipe.arguments.system_prompt)
    model = models.load_model(recipe)
    models.check_vocabulary(tokenizer, model, source)
    problems.check(train, tokenizer, model, args)
    if chat:
        tokenizer.eos_token = end_of_turn(tokenizer)
    handed_over = copy.deepcopy(tokenizer)
    # With it TRL would hand rewards a parsed message: thinking moved away, text before it lost. There are no tools to parse.
    tokenizer.response_template = None
    rewards, weights = _rewards(recipe) if recipe.get("reward_funcs") else ([], [])
    problems.check_columns(train, rewards, name)
    return _Prepared(source, model, tokenizer, handed_over, train, evaluation, rewards, weights, chat, decontamination)


def _train(recipe: Recipe, directory: Any) -> None:
    from trl import GRPOConfig, GRPOTrainer

    from pipeline.errors import PipelineError
    from pipeline.evaluation.at_end import samples_callback
    from pipeline.rewards import for_trainer
    from pipeline.training import data, models, session
    from pipeline.training.callbacks import Rails

    args = session.config(recipe, GRPOConfig, directory)
    prepared = _prepare(recipe, args, directory)
    if prepared.rewards and recipe.arguments.reward_check != "off":
        ok = _check_rewards(recipe, args, prepared)
        if not ok and recipe.arguments.reward_check == "stop":
            raise PipelineError(
                f"{recipe.path}: the rewards fail their check, see FAILED above. Mend the reward, the answers or "
                "gold_template; `reward_check: warn` trains all the same."
            )
    reward_model = recipe.get("reward_model_name_or_path")
    trainer = GRPOTrainer(
        model=prepared.model,
        reward_funcs=[*([reward_model] if reward_model else []), *for_trainer(prepared.rewards)],
        args=args,
        processing_class=prepared.tokenizer,
        train_dataset=prepared.train,
        eval_dataset=prepared.evaluation,
        peft_config=models.peft_config(recipe),
    )
    session.check_launch(trainer)
    trainer.add_callback(samples_callback(recipe, prepared.tokenizer, directory, chat=prepared.chat))
    session.train(
        trainer,
        directory,
        recipe,
        context=args.max_completion_length,
        base=prepared.source,
        tokenizer=prepared.handed_over,
        facts=data.facts_of(prepared.train) | prepared.decontamination,
        rails=Rails(recipe.arguments.rails, directory.path / "alerts.jsonl", _ceiling(prepared, reward_model)),
    )


def _ceiling(prepared: _Prepared, reward_model: Any) -> float | None:
    """The highest reward that a completion can get, None where one of them is not bounded."""
    highs = [reward.high for reward in prepared.rewards]
    if reward_model or None in highs:
        return None
    return sum(weight * high for weight, high in zip(prepared.weights, highs, strict=True) if weight > 0)


def _check_rewards(recipe: Recipe, args: Any, prepared: _Prepared) -> bool:
    """Score gold answers, attacks and, where these score as they should, the model's own completions; print all of it.

    Every process does the same: a mistake must end them all, and sharded weights generate only together.
    """
    from pipeline.evaluation.generation import generate, render_prompt
    from pipeline.rewards.check import check_rewards
    from pipeline.rewards.samples import check_samples
    from pipeline.training import problems, session

    tokenizer, rewards, weights = prepared.tokenizer, prepared.rewards, prepared.weights

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    table = problems.looked_at(prepared.train)
    found = check_rewards(rewards, weights, table, gold_template=recipe.arguments.gold_template, tokenize=tokenize)
    session.say(found.to_text())
    if not found.ok and recipe.arguments.reward_check == "stop":
        return False
    chosen = table[: recipe.arguments.reward_check_prompts]
    prompts = [
        row["prompt"] if isinstance(row["prompt"], str) else render_prompt(tokenizer, row["prompt"], chat=True)
        for row in chosen
    ]
    size = args.num_generations
    completions = generate(
        prepared.model.to(args.device),
        tokenizer,
        prompts,
        max_new_tokens=args.max_completion_length,
        batch_size=max(size, args.per_device_train_batch_size),
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k or 0,
        n=size,
        seed=args.seed,
    )
    groups = [completions[start : start + size] for start in range(0, len(completions), size)]
    sampled = check_samples(
        rewards,
        weights,
        chosen,
        [[completion.text for completion in group] for group in groups],
        ended_by_prompt=[[completion.ended for completion in group] for group in groups],
        completion_ids_by_prompt=[[completion.token_ids for completion in group] for group in groups],
    )
    session.say(sampled.to_text())
    return found.ok

"""Reinforcement learning with verifiable rewards: a model does the exercises (GRPO, DeepSeekMath, Shao et al. 2024)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.training.arguments import TrainingStageArguments

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(TrainingStageArguments):
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
    tools: list[str] | None = field(
        default=None,
        metadata={"help": "what the model may call: names of pipeline.tools, or dotted paths of functions"},
    )
    environment_factory: str | None = field(
        default=None,
        metadata={"help": "dotted path of an environment class, one instance a rollout, its methods the tools (TRL)"},
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
    from pipeline.errors import PipelineError
    from pipeline.evaluation.specification import check_evaluations
    from pipeline.tools import check as check_tools
    from pipeline.tools import load
    from pipeline.training.arguments import check_training
    from pipeline.training.rails import check_rails

    complaints = check_training(recipe, INPUTS, needs_data=True) + check_tools(recipe.arguments.tools)
    if recipe.arguments.environment_factory:
        try:
            load(recipe.arguments.environment_factory)
        except PipelineError as error:
            complaints.append(f"environment_factory: {error}")
    complaints += check_evaluations(recipe.arguments.evaluations, exists=recipe.exists)
    if recipe.get("reward_funcs"):
        try:
            _rewards(recipe)
        except PipelineError as error:
            complaints += str(error).splitlines()
    elif not recipe.get("reward_model_name_or_path") and not recipe.arguments.environment_factory:
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


def _train(recipe: Recipe, directory: Any) -> None:
    from trl import GRPOConfig, GRPOTrainer

    from pipeline.conversation.template import end_of_turn, has_turn_marks, refuse_toolless_template
    from pipeline.evaluation.at_end import samples_callback
    from pipeline.rewards import for_trainer
    from pipeline.tools import load, resolve
    from pipeline.training import data, models, problems, session
    from pipeline.training.callbacks import Rails

    args = session.config(recipe, GRPOConfig, directory)
    source = models.source_of(recipe)
    tokenizer = models.load_tokenizer(source, trust_remote_code=recipe.get("trust_remote_code", False))
    models.check_padding(tokenizer, source, recipe.arguments.pad_token)
    chat = has_turn_marks(tokenizer)
    train, evaluation = data.load_training_data(recipe)
    columns = {"prompt": recipe.arguments.prompt_column, "answer": recipe.arguments.answer_column}
    name = str(recipe.get("dataset_name") or "datasets")
    train = problems.prepare(train, columns, name, chat=chat, system=recipe.arguments.system_prompt)
    if evaluation is not None:
        evaluation = problems.prepare(evaluation, columns, name, chat=chat, system=recipe.arguments.system_prompt)
    model = models.load_model(recipe)
    models.check_vocabulary(tokenizer, model, source)
    tools = resolve(recipe.arguments.tools or [])
    environment = load(recipe.arguments.environment_factory) if recipe.arguments.environment_factory else None
    if tools or environment:
        refuse_toolless_template(tokenizer, source)
    problems.check(train, tokenizer, model, args, tools)
    if chat:
        tokenizer.eos_token = end_of_turn(tokenizer)
    handed_over = copy.deepcopy(tokenizer)
    if not (tools or environment):
        # With it TRL would hand rewards a parsed message: thinking moved away, text before it lost. No call is to be read.
        tokenizer.response_template = None
    rewards, weights = _rewards(recipe) if recipe.get("reward_funcs") else ([], [])
    problems.check_columns(train, rewards, name)
    if rewards and recipe.arguments.reward_check != "off":
        _check_rewards(recipe, args, model, tokenizer, train, rewards, weights, tools)
    reward_model = recipe.get("reward_model_name_or_path")
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[*([reward_model] if reward_model else []), *for_trainer(rewards)],
        args=args,
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=evaluation,
        peft_config=models.peft_config(recipe),
        tools=tools or None,
        environment_factory=environment,
    )
    session.check_launch(trainer)
    trainer.add_callback(samples_callback(recipe, tokenizer, directory, chat=chat, tools=tools))
    session.train(
        trainer,
        directory,
        recipe,
        context=args.max_completion_length,
        base=source,
        tokenizer=handed_over,
        facts=data.facts_of(train),
        rails=Rails(recipe.arguments.rails, directory.path / "alerts.jsonl", _ceiling(rewards, weights, reward_model)),
    )


def _ceiling(rewards: list[Any], weights: list[float], reward_model: Any) -> float | None:
    """The highest reward that a completion can get, None where one of them is not bounded."""
    highs = [reward.high for reward in rewards]
    if reward_model or None in highs:
        return None
    return sum(weight * high for weight, high in zip(weights, highs, strict=True) if weight > 0)


def _check_rewards(
    recipe: Recipe,
    args: Any,
    model: Any,
    tokenizer: Any,
    rows: Any,
    rewards: list[Any],
    weights: list[float],
    tools: list[Any],
) -> None:
    """Score gold answers, attacks and the model's own completions, and stop or warn where rewards would mislead.

    Every process does the same: a mistake must end them all, and sharded weights generate only together.
    """
    from pipeline.errors import PipelineError
    from pipeline.evaluation.generation import generate, render_prompt
    from pipeline.evaluation.tool_use import generate_with_tools
    from pipeline.rewards.check import check_rewards
    from pipeline.rewards.samples import check_samples
    from pipeline.training import problems, session

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    table = problems.looked_at(rows)
    found = check_rewards(rewards, weights, table, gold_template=recipe.arguments.gold_template, tokenize=tokenize)
    session.say(found.to_text())
    if not found.ok and recipe.arguments.reward_check == "stop":
        raise PipelineError(
            f"{recipe.path}: the rewards fail their check:\n  "
            + "\n  ".join(found.failures)
            + "\nMend the reward, the answers or gold_template; `reward_check: warn` trains all the same."
        )
    if recipe.arguments.environment_factory:
        return  # its rollouts need the trainer
    chosen = table[: recipe.arguments.reward_check_prompts]
    listed = {"tools": tools} if tools else {}
    prompts = [
        row["prompt"]
        if isinstance(row["prompt"], str)
        else render_prompt(tokenizer, row["prompt"], chat=True, **listed)
        for row in chosen
    ]
    size = args.num_generations
    settings: dict[str, Any] = {
        "max_new_tokens": args.max_completion_length,
        "batch_size": max(size, args.per_device_train_batch_size),
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k or 0,
        "n": size,
        "seed": args.seed,
    }
    model = model.to(args.device)
    if tools:
        rounds = args.max_tool_calling_iterations or 4
        episodes = generate_with_tools(model, tokenizer, prompts, tools, rounds=rounds, **settings)
        completions = [episode.answer for episode in episodes]
    else:
        completions = generate(model, tokenizer, prompts, **settings)
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

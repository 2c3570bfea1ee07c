"""One run of reinforcement learning, from its recipe to its hand-over: what `grpo` and `rlhf` have in common."""

from __future__ import annotations

import copy
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation.specification import check_evaluations
from pipeline.rewards import Reward, for_trainer, resolve, reward_weights
from pipeline.training.arguments import batch_of, check_training


def rewards_of(recipe: Any, config_type: type) -> tuple[list[Reward], list[float]]:
    """The recipe's `reward_funcs`, and their weights without that of a reward model, which stands first."""
    if not recipe.get("reward_funcs"):
        return [], []
    rewards = resolve(
        recipe.get("reward_funcs"),
        recipe.arguments.reward_kwargs,
        max_completion_length=recipe.setting("max_completion_length", config_type),
    )
    weights = recipe.get("reward_weights")
    if weights and recipe.get("reward_model_name_or_path"):
        weights = weights[1:]
    return rewards, reward_weights(rewards, weights)


def check_policy(recipe: Any, inputs: dict[str, tuple[str, ...]], config_type: type) -> list[str]:
    """Complaints that need more than one key."""
    complaints = check_training(recipe, inputs, needs_data=True)
    complaints += check_evaluations(recipe.arguments.evaluations, exists=recipe.exists)
    try:
        rewards_of(recipe, config_type)
    except PipelineError as error:
        complaints += str(error).splitlines()
    if not recipe.get("model_name_or_path"):
        complaints.append("model_name_or_path: is missing: expected the model to train")
    return complaints


def plan_policy(recipe: Any, config_type: type) -> dict[str, Any]:
    """Completions a step and steps."""
    per_step = batch_of(recipe, config_type)
    steps = recipe.get("max_steps", -1)
    tokens = per_step * recipe.setting("max_completion_length", config_type)
    found = {
        "completions_per_step": per_step,
        "prompts_per_step": per_step / recipe.setting("num_generations", config_type),
    }
    return found | {"tokens_per_step": tokens} | ({"steps": steps, "tokens": steps * tokens} if steps > 0 else {})


def train(recipe: Any, directory: Any, trainer_type: type, config_type: type) -> None:
    """Check the rewards, train, hand over.

    Args:
        recipe: the recipe; its `Arguments` are `PolicyArguments`.
        directory: the stage's directory.
        trainer_type, config_type: TRL's trainer (GRPO, RLOO) and its config.
    """
    from pipeline.conversation.template import end_of_turn, has_turn_marks
    from pipeline.evaluation.at_end import samples_callback
    from pipeline.evaluation.generation import end_token_ids
    from pipeline.training import data, models, problems, session
    from pipeline.training.reward_model import RewardModel

    args = session.config(recipe, config_type, directory)
    source = models.source_of(recipe)
    tokenizer = models.load_tokenizer(source, trust_remote_code=recipe.get("trust_remote_code", False))
    models.check_padding(tokenizer, source, recipe.arguments.pad_token)
    chat = has_turn_marks(tokenizer)
    train_rows, evaluation = data.load_training_data(recipe)
    columns = {"prompt": recipe.arguments.prompt_column, "answer": recipe.arguments.answer_column}
    name = str(recipe.get("dataset_name") or "datasets")
    train_rows = problems.prepare(train_rows, columns, name, chat=chat, system=recipe.arguments.system_prompt)
    if evaluation is not None:
        evaluation = problems.prepare(evaluation, columns, name, chat=chat, system=recipe.arguments.system_prompt)
    model = models.load_model(recipe)
    models.check_vocabulary(tokenizer, model, source)
    problems.check(train_rows, tokenizer, model, args)
    if chat:
        tokenizer.eos_token = end_of_turn(tokenizer)
    handed_over = copy.deepcopy(tokenizer)
    # With it TRL would hand rewards a parsed message: thinking moved away, text before it lost. There are no tools to parse.
    tokenizer.response_template = None
    rewards, weights = rewards_of(recipe, config_type)
    problems.check_columns(train_rows, rewards, name)
    if rewards and recipe.arguments.reward_check != "off":
        _check_rewards(recipe, args, model, tokenizer, train_rows, rewards, weights)
    reward_model = None
    if recipe.get("reward_model_name_or_path"):
        reward_model = RewardModel(
            recipe.get("reward_model_name_or_path"),
            device=args.device,
            unfinished_penalty=recipe.arguments.unfinished_penalty,
            end_token_ids=end_token_ids(model, tokenizer),
        )
        rewards = [Reward(RewardModel.__name__, reward_model, kind="unknown", judged=False), *rewards]
    trainer = trainer_type(
        model=model,
        reward_funcs=for_trainer(rewards),
        args=args,
        processing_class=tokenizer,
        train_dataset=train_rows,
        eval_dataset=evaluation,
        peft_config=models.peft_config(recipe),
    )
    session.check_launch(trainer)
    trainer.add_callback(samples_callback(recipe, tokenizer, directory, chat=chat))
    if reward_model is not None and getattr(recipe.arguments, "frontier_steps", None):
        from pipeline.alignment.frontier import Frontier

        trainer.add_callback(Frontier(recipe, directory, trainer, tokenizer, reward_model, chat=chat))
    session.train(
        trainer,
        directory,
        recipe,
        context=args.max_completion_length,
        base=source,
        tokenizer=handed_over,
        facts=data.facts_of(train_rows),
    )


def _check_rewards(
    recipe: Any, args: Any, model: Any, tokenizer: Any, rows: Any, rewards: list[Any], weights: list[float]
) -> None:
    """Score gold answers, attacks and the model's own completions, and stop or warn where rewards would mislead.

    Every process does the same: a mistake must end them all, and sharded weights generate only together.
    """
    from pipeline.evaluation.generation import generate, render_prompt
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
    chosen = table[: recipe.arguments.reward_check_prompts]
    prompts = [
        row["prompt"] if isinstance(row["prompt"], str) else render_prompt(tokenizer, row["prompt"], chat=True)
        for row in chosen
    ]
    size = args.num_generations
    completions = generate(
        model.to(args.device),
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

"""One run of reinforcement learning, from its recipe to its hand-over: what `grpo` and `rlhf` have in common."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.alignment.difficulty import Band, Curriculum, check_selection, verifiers_of
from pipeline.errors import PipelineError
from pipeline.evaluation.specification import check_evaluations
from pipeline.recipe.combinations import idle_keys
from pipeline.rewards import Reward, for_trainer, resolve, reward_weights
from pipeline.training.arguments import batch_of, check_training
from pipeline.training.rails import check_rails

NO_VLLM = "use_vllm: vLLM is not installed here; the machine that trains needs `pip install 'vllm>=0.22,<=0.31'`"


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
    from pipeline.corpus.questions import question_complaints

    complaints = check_training(recipe, inputs, needs_data=True) + question_complaints(recipe)
    complaints += check_rails(recipe.arguments.rails)
    complaints += check_evaluations(recipe.arguments.evaluations, exists=recipe.exists)
    try:
        complaints += check_selection(recipe, rewards_of(recipe, config_type)[0], config_type)
    except PipelineError as error:
        complaints += str(error).splitlines()
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
    found |= {"tokens_per_step": tokens} | ({"steps": steps, "tokens": steps * tokens} if steps > 0 else {})
    return found | {"notes": notes_on(recipe, config_type)}


def notes_on(recipe: Any, config_type: type, world_size: int = 1) -> list[str]:
    """What is no mistake in a recipe and yet not what its author may think, and what it needs that is not installed here."""
    from trl.import_utils import is_vllm_available

    names = [one.name for one in dataclasses.fields(config_type) if one.init]
    idle = idle_keys({name: recipe.setting(name, config_type) for name in names}, recipe.values, world_size)
    notes = []
    if idle:
        notes.append(
            f"without effect: {', '.join(idle)}: every completion is used in one step only, where the ratio of policies is 1; "
            "raise num_iterations or steps_per_generation, or leave them out"
        )
    if recipe.get("use_vllm") and not is_vllm_available():
        notes.append(NO_VLLM)
    return notes


def check_engine(recipe: Any, args: Any) -> None:
    """Raise `PipelineError` where what generates the rollouts is not there, or would spoil the weights."""
    from trl.import_utils import is_vllm_available

    if args.use_vllm and not is_vllm_available():
        raise PipelineError(f"{recipe.path}: {NO_VLLM}. Or leave out use_vllm.")
    if args.use_transformers_continuous_batching and (args.bf16 or args.fp16):
        # trl 1.16, GRPOTrainer._generate_single_turn: `unwrapped_model.to(torch.bfloat16)`, and never back
        raise PipelineError(
            f"{recipe.path}: use_transformers_continuous_batching with bf16 or fp16: TRL casts the weights and "
            f"leaves them in half precision. Set bf16: false, or leave it out: plain generation is the faster one on CPUs."
        )


@dataclass
class Prepared:
    """What a run needs beside its trainer; `handed_over` is the tokenizer that the checkpoint gets."""

    source: str
    model: Any
    tokenizer: Any
    handed_over: Any
    rows: Any
    evaluation: Any
    rewards: list[Reward]
    weights: list[float]
    chat: bool
    tools: list[Any]
    environment: Any
    facts: dict[str, Any]


def prepare(recipe: Any, args: Any, config_type: type, directory: Any) -> Prepared:
    """Load model, tokenizer, problems and rewards, and refuse what cannot be trained."""
    from pipeline.conversation.template import end_of_turn, has_turn_marks, refuse_toolless_template
    from pipeline.evaluation.decontamination import drop_contaminated
    from pipeline.evaluation.generation import line_end_ids, page
    from pipeline.evaluation.measure import ONE_LINE, base_stops
    from pipeline.evaluation.questions import read_examples
    from pipeline.tools import load, resolve
    from pipeline.training import data, models, problems

    source = models.source_of(recipe)
    tokenizer = models.load_tokenizer(source, trust_remote_code=recipe.get("trust_remote_code", False))
    models.check_padding(tokenizer, source, recipe.arguments.pad_token)
    few_shot = getattr(recipe.arguments, "few_shot", None)
    chat = has_turn_marks(tokenizer) and few_shot is None
    rows, evaluation = data.load_training_data(recipe)
    columns = {"prompt": recipe.arguments.prompt_column, "answer": recipe.arguments.answer_column}
    name = str(recipe.get("dataset_name") or "datasets")
    rows = problems.prepare(rows, columns, name, chat=chat, system=recipe.arguments.system_prompt)
    rows, decontamination = drop_contaminated(recipe, rows, name, directory)
    if evaluation is not None:
        evaluation = problems.prepare(evaluation, columns, name, chat=chat, system=recipe.arguments.system_prompt)
    examples = read_examples(recipe.arguments.few_shot_path, few_shot) if few_shot else []
    if few_shot is not None:

        def asked(row: dict[str, Any]) -> dict[str, Any]:
            return {"prompt": page(row["prompt"], examples)}

        rows, evaluation = rows.map(asked), evaluation.map(asked) if evaluation is not None else None
    model = models.load_model(recipe)
    models.check_vocabulary(tokenizer, model, source)
    if few_shot is not None and base_stops(examples) == ONE_LINE:
        # Where every answer shown is one line, the next line is no part of the answer that is rewarded.
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, *line_end_ids(tokenizer)]
    tools = resolve(getattr(recipe.arguments, "tools", None) or [])
    factory = getattr(recipe.arguments, "environment_factory", None)
    environment = load(factory) if factory else None
    if tools or environment:
        refuse_toolless_template(tokenizer, source)
    problems.check(rows, tokenizer, model, args, tools)
    if chat:
        tokenizer.eos_token = end_of_turn(tokenizer)
    handed_over = copy.deepcopy(tokenizer)
    if not (tools or environment):
        # With it TRL would hand rewards a parsed message: thinking moved away, text before it lost. No call is to be read.
        tokenizer.response_template = None
    rewards, weights = rewards_of(recipe, config_type)
    problems.check_columns(rows, rewards, name)
    facts = data.facts_of(rows) | decontamination
    return Prepared(
        source, model, tokenizer, handed_over, rows, evaluation, rewards, weights, chat, tools, environment, facts
    )


def try_rewards(recipe: Any, config_type: type) -> bool:
    """The reward check alone, without any training; whether it found nothing wrong (`pipeline rewards check`)."""
    from pipeline.checkpoint import StageDirectory
    from pipeline.training import session

    args = session.config(recipe, config_type, StageDirectory(recipe.output_dir, {}))
    return _check_rewards(recipe, args, prepare(recipe, args, config_type, None))


def train(recipe: Any, directory: Any, trainer_type: type, config_type: type) -> None:
    """Check the rewards, train, hand over.

    Args:
        recipe: the recipe; its `Arguments` are `PolicyArguments`.
        directory: the stage's directory.
        trainer_type, config_type: TRL's trainer (GRPO, RLOO) and its config.

    Raises:
        PipelineError: The rewards fail their check, or whatever `session.train` raises.
    """
    from pipeline.alignment.off_policy import OffPolicy
    from pipeline.alignment.rollouts import Rollouts
    from pipeline.evaluation.at_end import samples_callback
    from pipeline.evaluation.generation import end_token_ids
    from pipeline.training import models, session
    from pipeline.training.callbacks import Rails
    from pipeline.training.reward_model import RewardModel

    args = session.config(recipe, config_type, directory)
    for note in notes_on(recipe, config_type, args.world_size):
        session.say(f"note: {note}")
    check_engine(recipe, args)
    prepared = prepare(recipe, args, config_type, directory)
    if prepared.rewards and recipe.arguments.reward_check != "off":
        ok = _check_rewards(recipe, args, prepared)
        if not ok and recipe.arguments.reward_check == "stop":
            raise PipelineError(
                f"{recipe.path}: the rewards fail their check, see FAILED above. Mend the reward, the answers or "
                "gold_template; `reward_check: warn` trains all the same."
            )
    rewards, reward_model = prepared.rewards, None
    if recipe.get("reward_model_name_or_path"):
        reward_model = RewardModel(
            recipe.get("reward_model_name_or_path"),
            device=args.device,
            unfinished_penalty=recipe.arguments.unfinished_penalty,
            end_token_ids=end_token_ids(prepared.model, prepared.tokenizer),
        )
        rewards = [Reward(reward_model.__name__, reward_model, kind="unknown", judged=False), *rewards]
    curriculum = None
    if recipe.arguments.difficulty is not None or recipe.arguments.active_sampling_rounds:
        band = None if recipe.arguments.difficulty is None else Band(**recipe.arguments.difficulty)
        curriculum = Curriculum(len(prepared.rows), args.seed, band, shuffle=args.shuffle_dataset)
    trainer = type(trainer_type.__name__, (Rollouts, OffPolicy, trainer_type), {})(
        model=prepared.model,
        reward_funcs=for_trainer(rewards),
        args=args,
        processing_class=prepared.tokenizer,
        train_dataset=prepared.rows,
        eval_dataset=prepared.evaluation,
        peft_config=models.peft_config(recipe),
        curriculum=curriculum,
        verifiers=verifiers_of(prepared.rewards),
        rounds=recipe.arguments.active_sampling_rounds,
        **({"tools": prepared.tools} if prepared.tools else {}),
        **({"environment_factory": prepared.environment} if prepared.environment else {}),
    )
    session.check_launch(trainer)
    trainer.add_callback(
        samples_callback(recipe, prepared.tokenizer, directory, chat=prepared.chat, tools=prepared.tools)
    )
    if recipe.arguments.sample_problems and not prepared.environment:  # its rollouts need the trainer
        trainer.add_callback(_rollouts(recipe, prepared, rewards, args, directory))
    if reward_model is not None and getattr(recipe.arguments, "frontier_steps", None):
        from pipeline.alignment.frontier import Frontier

        trainer.add_callback(Frontier(recipe, directory, trainer, prepared.tokenizer, reward_model, chat=prepared.chat))
    rails = recipe.arguments.rails
    if recipe.arguments.difficulty is not None:
        # What is drawn changes, and the mean reward with it: leaving out what is too easy looks like a fall.
        given = rails if isinstance(rails, dict) else {"action": rails}
        rails = {"reward_fell": None, "reward_flat": None, **given}
    ceiling = None if reward_model else _ceiling(prepared)
    session.train(
        trainer,
        directory,
        recipe,
        context=args.max_completion_length,
        base=prepared.source,
        tokenizer=prepared.handed_over,
        facts=prepared.facts,
        rails=Rails(rails, directory.path / "alerts.jsonl", ceiling),
    )


def _rollouts(recipe: Any, prepared: Prepared, rewards: list[Reward], args: Any, directory: Any) -> Any:
    """The callback that follows a few problems of the training data through the training."""
    from pipeline.evaluation.rollouts import RolloutsCallback

    return RolloutsCallback(
        prepared.tokenizer,
        list(islice(prepared.rows, recipe.arguments.sample_problems)),
        rewards,
        reward_weights(rewards, recipe.get("reward_weights")),
        directory.path / "rollouts.jsonl",
        every=recipe.arguments.sample_steps,
        chat=prepared.chat,
        max_new_tokens=args.max_completion_length,
        batch_size=args.per_device_train_batch_size,
        tools=prepared.tools,
        tool_rounds=args.max_tool_calling_iterations or 4 if prepared.tools else 0,
        sampling={"temperature": args.temperature, "top_p": args.top_p, "top_k": args.top_k or 0, "seed": args.seed},
    )


def _ceiling(prepared: Prepared) -> float | None:
    """The highest reward that a completion can get, None where one of them is not bounded."""
    pairs = [(weight, reward.high) for weight, reward in zip(prepared.weights, prepared.rewards, strict=True)]
    highs = [weight * high for weight, high in pairs if high is not None and weight > 0]
    return sum(highs) if all(high is not None for _, high in pairs) else None


def _check_rewards(recipe: Any, args: Any, prepared: Prepared) -> bool:
    """Score gold answers, attacks and, where these score as they should, the model's own completions; print all of it.

    Every process does the same: a mistake must end them all, and sharded weights generate only together.
    """
    from pipeline.evaluation.generation import generate, render_prompt
    from pipeline.evaluation.tool_use import generate_with_tools
    from pipeline.rewards.check import check_rewards
    from pipeline.rewards.samples import check_samples
    from pipeline.training import problems, session

    tokenizer, rewards, weights = prepared.tokenizer, prepared.rewards, prepared.weights

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    table = problems.looked_at(prepared.rows)
    found = check_rewards(rewards, weights, table, gold_template=recipe.arguments.gold_template, tokenize=tokenize)
    session.say(found.to_text())
    if not found.ok and recipe.arguments.reward_check == "stop":
        return False
    if prepared.environment:
        return found.ok  # its rollouts need the trainer
    chosen = table[: recipe.arguments.reward_check_prompts]
    listed = {"tools": prepared.tools} if prepared.tools else {}
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
    model = prepared.model.to(args.device)
    if prepared.tools:
        rounds = args.max_tool_calling_iterations or 4
        episodes = generate_with_tools(model, tokenizer, prompts, prepared.tools, rounds=rounds, **settings)
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
    return found.ok

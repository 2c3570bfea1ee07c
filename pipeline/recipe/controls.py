"""Controls of a claim about reinforcement learning: the arms that a `grpo` recipe is compared with, at equal compute.

random        a reward of 0 or 1 by chance: what training on its own samples does, whatever they say ("Spurious rewards",
              Shao et al. 2025, arXiv:2506.10947)
format        every verifier gives way to `answer_form`, which pays any answer that can be read; shaping rewards stay
samples, sft  completions of the model at the start, those that the verifiers pass kept, and supervised training on them

Compute is counted in rollouts and updates. A recipe updates on `max_steps` x per_device_train_batch_size x
gradient_accumulation_steps x processes completions, and draws as many, divided by `num_iterations`. Every arm does both as
often, with the recipe's own learning rate, schedule, adapter, seed and evaluations; groups that `grpo` draws again and what
a reward costs are not counted. An arm writes beside its recipe's `output_dir`, as OUTPUT.control_ARM.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.recipe.parse import Recipe
from pipeline.recipe.source import Complaint, Source

MARK = ".control_"
ARMS = {"random": "random reward", "format": "format-only reward", "sft": "SFT on its own right samples"}
"""The arms that end in a model, as a report names them."""

UNLIKE_SAMPLING = (
    *("datasets", "tools", "environment_factory", "generation_kwargs", "chat_template_kwargs"),
    *("top_k", "min_p", "repetition_penalty", "difficulty"),
)
"""Keys that shape rollouts in a way that the `sample` stage does not know."""


def control_of(name: str) -> tuple[str, str] | None:
    """The recipe's directory and the arm of a control's directory: `grpo.control_random` gives grpo and random."""
    of, mark, arm = name.partition(MARK)
    return (of, arm) if mark else None


def controls(recipe: Recipe, kinds: Sequence[str], world_size: int = 1) -> tuple[list[Source], list[Complaint]]:
    """The recipes of all arms of a `grpo` recipe, in the order in which they run, none of them written yet.

    Args:
        recipe: of the stage `grpo`, without complaints.
        kinds: of each of its `reward_funcs`, as `pipeline.rewards.Reward.kind`.
        world_size: processes that the recipe is run with.
    """
    source = recipe.source or Source(recipe.path, recipe.values)
    if recipe.get("max_steps", -1) < 1:
        text = "is missing: --controls gives every arm as many updates, and counts them in steps"
        return [], [Complaint(source.where("max_steps"), text, "max_steps")]
    complaints = [
        Complaint(source.where(key), "--controls cannot draw samples in this way for the arm `sft`", key)
        for key in UNLIKE_SAMPLING
        if recipe.get(key)
    ]
    if "verifier" not in kinds:
        text = "has no verifier, by which the model's own samples could be kept for the arm `sft` of --controls"
        complaints.append(Complaint(source.where("reward_funcs"), text, "reward_funcs"))
    if complaints:
        return [], complaints
    derived = {
        "random": _rewarded(recipe, ["random"], [1.0]),
        "format": _rewarded(recipe, *_form_rewards(recipe, kinds)),
        "samples": _samples(recipe, kinds, world_size),
        "sft": _supervised(recipe),
    }
    environment = {"env": recipe.environment} if recipe.environment else {}
    return [
        Source(
            Path(f"{recipe.output_dir}{MARK}{arm}.yaml"),
            {**values, "output_dir": f"{recipe.output_dir}{MARK}{arm}", **environment},
            derived=True,
        )
        for arm, values in derived.items()
    ], []


def _form_rewards(recipe: Recipe, kinds: Sequence[str]) -> tuple[list[str], list[float]]:
    """The recipe's shaping rewards with their weights, and `answer_form` with those of the others."""
    weights = list(recipe.get("reward_weights") or [1.0] * len(kinds))[-len(kinds) :]  # a reward model's stands first
    entries = zip(recipe.get("reward_funcs"), kinds, weights, strict=True)
    kept, judged = {"answer_form": 0.0}, 0.0
    for entry, kind, weight in entries:
        if kind == "shaping":
            kept[entry] = weight
        else:
            judged += weight
    kept["answer_form"] += judged
    return list(kept), list(kept.values())


def _rewarded(recipe: Recipe, rewards: list[str], weights: list[float]) -> dict[str, Any]:
    """The recipe with other rewards. What they earn says nothing about a run that goes wrong: rails only warn."""
    replaced = {"reward_funcs", "reward_weights", "reward_kwargs", "reward_model_name_or_path", "gold_template"}
    values = {key: value for key, value in recipe.values.items() if key not in replaced}
    parameters = {key: value for key, value in (recipe.arguments.reward_kwargs or {}).items() if key in rewards}
    values |= {"reward_funcs": rewards, "reward_weights": weights, "reward_check": "off"}
    values |= {"reward_kwargs": parameters} if parameters else {}
    return {"stage": "grpo", **values, "rails": "off" if recipe.get("rails") in ("off", False) else "warn"}


def _samples(recipe: Recipe, kinds: Sequence[str], world_size: int) -> dict[str, Any]:
    from trl import GRPOConfig

    verifiers = [name for name, kind in zip(recipe.get("reward_funcs"), kinds, strict=True) if kind == "verifier"]
    parameters = {key: value for key, value in (recipe.arguments.reward_kwargs or {}).items() if key in verifiers}
    size = recipe.setting("per_device_train_batch_size", GRPOConfig) * world_size
    size *= recipe.setting("gradient_accumulation_steps", GRPOConfig)
    taken = ["dataset_name", "dataset_config", "dataset_train_split", "prompt_column", "answer_column", "seed"]
    taken += ["model_name_or_path", "system_prompt", "few_shot", "few_shot_path"]
    return {
        "stage": "sample",
        **{key: recipe.values[key] for key in taken if key in recipe.values},
        "samples": recipe.setting("num_generations", GRPOConfig),
        "rollouts": recipe.get("max_steps") * size // recipe.setting("num_iterations", GRPOConfig),
        "temperature": recipe.setting("temperature", GRPOConfig),
        "top_p": recipe.setting("top_p", GRPOConfig),
        "max_new_tokens": recipe.setting("max_completion_length", GRPOConfig),
        "reward_funcs": verifiers,
        **({"reward_kwargs": parameters} if parameters else {}),
        "minimum_reward": float(len(verifiers)),
        "per_problem": recipe.setting("num_generations", GRPOConfig),
    }


def _supervised(recipe: Recipe) -> dict[str, Any]:
    from transformers import TrainingArguments
    from trl import GRPOConfig, ModelConfig

    names = {field.name for config in (TrainingArguments, ModelConfig) for field in dataclasses.fields(config)}
    names |= {"evaluations", "evaluation_batch_size", "sample_prompts", "sample_steps", "sample_tokens", "pad_token"}
    names -= {name for name in names if name.startswith("eval_") or name.endswith("_eval")}
    # Where the recipe leaves it out TRL's two configs differ
    rate = {"learning_rate": recipe.setting("learning_rate", GRPOConfig)}
    return {
        "stage": "sft",
        **{key: value for key, value in recipe.values.items() if key in names},
        **rate,
        "dataset_name": f"{recipe.output_dir}{MARK}samples",
        "max_length": None,
        **({"kind": "base"} if recipe.arguments.few_shot is not None else {}),
    }

"""Reinforcement learning with verifiable rewards: a model does the exercises (GRPO, DeepSeekMath, Shao et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.alignment.arguments import PolicyArguments

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(PolicyArguments):
    """Keys of this stage on top of those of `trl grpo`."""


KIND = "reasoning"
ENGINES: tuple[str, ...] = ("GRPOScriptArguments", "GRPOConfig", "ModelConfig", "DatasetMixtureConfig")
INPUTS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("base", "chat", "reasoning", "aligned", "imported"),
    "reward_model_name_or_path": ("reward",),
    "dataset_name": (),
    "datasets": (),
}


def check(recipe: Recipe) -> list[str]:
    """Complaints that need more than one key."""
    from trl import GRPOConfig

    from pipeline.alignment.policy import check_policy

    complaints = check_policy(recipe, INPUTS, GRPOConfig)
    if not recipe.get("reward_funcs") and not recipe.get("reward_model_name_or_path"):
        complaints.append("reward_funcs: is missing: expected names of rewards or dotted paths of functions")
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """Completions a step and steps."""
    from trl import GRPOConfig

    from pipeline.alignment.policy import plan_policy

    return plan_policy(recipe, GRPOConfig)


def run(recipe: Recipe) -> None:
    """Check the rewards, train, hand over, evaluate."""
    from trl import GRPOConfig, GRPOTrainer

    from pipeline.alignment import policy
    from pipeline.evaluation.at_end import training_stage

    with training_stage(recipe, KIND, INPUTS) as directory:
        if not directory.complete:
            policy.train(recipe, directory, GRPOTrainer, GRPOConfig)


def try_rewards(recipe: Recipe) -> bool:
    """The reward check alone, without any training; whether it found nothing wrong (`pipeline rewards check`)."""
    from trl import GRPOConfig

    from pipeline.alignment import policy

    return policy.try_rewards(recipe, GRPOConfig)

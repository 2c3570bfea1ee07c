"""Reinforcement learning with verifiable rewards: a model does the exercises (GRPO, DeepSeekMath, Shao et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.alignment.arguments import PolicyArguments

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(PolicyArguments):
    """Keys of this stage on top of those of `trl grpo`."""

    tools: list[str] | None = field(
        default=None,
        metadata={"help": "what the model may call: names of pipeline.tools, or dotted paths of functions"},
    )
    environment_factory: str | None = field(
        default=None,
        metadata={"help": "dotted path of an environment class, one instance a rollout, its methods the tools (TRL)"},
    )
    few_shot: int | None = field(
        default=None,
        metadata={
            "help": "ask as a base model is asked, on a page that begins with so many rows of few_shot_path, and hand over a "
            "base model; where all of these are answered in a line, an answer ends with its line",
            "range": (0, None),
        },
    )
    few_shot_path: str | None = field(default=None, metadata={"help": "JSONL with the examples of few_shot"})


KIND = "reasoning"
ENGINES: tuple[str, ...] = ("GRPOScriptArguments", "GRPOConfig", "ModelConfig", "DatasetMixtureConfig")
INPUTS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("base", "chat", "reasoning", "aligned", "imported"),
    "reward_model_name_or_path": ("reward",),
    "reward_funcs": ("reward",),
    "dataset_name": (),
    "datasets": (),
}


def check(recipe: Recipe) -> list[str]:
    """Complaints that need more than one key."""
    from trl import GRPOConfig

    from pipeline.alignment.policy import check_policy
    from pipeline.errors import PipelineError
    from pipeline.tools import check as check_tools
    from pipeline.tools import load

    complaints = check_policy(recipe, INPUTS, GRPOConfig) + check_tools(recipe.arguments.tools)
    factory = recipe.arguments.environment_factory
    if factory:
        try:
            load(factory)
        except PipelineError as error:
            complaints.append(f"environment_factory: {error}")
    asked, path = recipe.arguments.few_shot, recipe.arguments.few_shot_path
    if asked and not (path and recipe.exists(path)):
        complaints.append(f"few_shot: {asked} rows of which file? found few_shot_path {path}")
    if not recipe.get("reward_funcs") and not recipe.get("reward_model_name_or_path") and not factory:
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
    from pipeline.reporting.samples import samples_page

    kind = KIND if recipe.arguments.few_shot is None else "base"
    with training_stage(recipe, kind, INPUTS) as directory:
        if not directory.complete:
            with samples_page(directory):
                policy.train(recipe, directory, GRPOTrainer, GRPOConfig)


def try_rewards(recipe: Recipe) -> bool:
    """The reward check alone, without any training; whether it found nothing wrong (`pipeline rewards check`)."""
    from trl import GRPOConfig

    from pipeline.alignment import policy

    return policy.try_rewards(recipe, GRPOConfig)

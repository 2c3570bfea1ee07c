"""Reinforcement learning from preferences: a policy trained against a reward model, held near where it started.

GRPO (Shao et al. 2024) or RLOO (Ahmadian et al. 2024); verifiable rewards may stand beside the reward model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.alignment.arguments import JudgeArguments, PolicyArguments

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments(JudgeArguments, PolicyArguments):
    """Keys of this stage on top of those of `trl grpo` and `trl rloo`."""

    algorithm: str = field(default="grpo", metadata={"help": "how advantages are made", "choices": ("grpo", "rloo")})
    beta: float = field(
        default=0.05, metadata={"help": "weight of the KL divergence from the model at the start", "range": (0, None)}
    )
    frontier_steps: int = field(
        default=0,
        metadata={
            "help": "steps between two measurements of proxy, second reward model, judge and KL on judge_prompts; 0: none",
            "range": (0, None),
        },
    )
    second_reward_model: str | None = field(
        default=None, metadata={"help": "a reward model of other pairs: measured, not trained on, it may stop the run"}
    )
    stop_patience: int | None = field(
        default=None,
        metadata={
            "help": "stop after so many measurements without a better score by second_reward_model, and hand over the best",
            "range": (1, None),
        },
    )
    best_of: int = field(
        default=0,
        metadata={"help": "answers a prompt from which best-of-n is measured at step 0; 0: none", "range": (0, None)},
    )


KIND = "aligned"
ENGINES: tuple[str, ...] = ("GRPOScriptArguments", "RLOOConfig", "GRPOConfig", "ModelConfig", "DatasetMixtureConfig")
ALGORITHMS = {"grpo": "GRPOConfig", "rloo": "RLOOConfig"}
INPUTS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("base", "chat", "reasoning", "aligned", "imported"),
    "reward_model_name_or_path": ("reward",),
    "reward_funcs": ("reward",),
    "second_reward_model": ("reward",),
    "dataset_name": (),
    "datasets": (),
}


def check(recipe: Recipe) -> list[str]:
    """Complaints that need more than one key."""
    from pipeline.alignment.arguments import check_judge
    from pipeline.alignment.policy import check_policy

    complaints = check_policy(recipe, INPUTS, _config_type(recipe)) + check_judge(recipe)
    if not recipe.get("reward_model_name_or_path"):
        complaints.append("reward_model_name_or_path: is missing: expected a checkpoint of the reward stage")
    arguments = recipe.arguments
    if arguments.frontier_steps and not arguments.judge_prompts:
        complaints.append("frontier_steps: needs judge_prompts to measure on")
    if arguments.stop_patience is not None and not (arguments.second_reward_model and arguments.frontier_steps):
        complaints.append("stop_patience: needs second_reward_model to stop by, and frontier_steps to ask it at")
    if arguments.second_reward_model and arguments.second_reward_model == recipe.get("reward_model_name_or_path"):
        complaints.append("second_reward_model: is the one that is trained on: it would see nothing go wrong")
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """Completions a step and steps."""
    from pipeline.alignment.policy import plan_policy

    return {"algorithm": recipe.arguments.algorithm} | plan_policy(recipe, _config_type(recipe))


def run(recipe: Recipe) -> None:
    """Train, hand over, evaluate, and let the judge compare with the model at the start."""
    import trl

    from pipeline.alignment import judge, policy
    from pipeline.evaluation.at_end import training_stage
    from pipeline.reporting.samples import samples_page
    from pipeline.training import distributed

    def measure(directory: Any) -> None:
        if distributed.is_main():
            judge.measure(directory.path, recipe, KIND)

    with training_stage(recipe, KIND, INPUTS, measure) as directory:
        if not directory.complete:
            trainer_type = {"grpo": trl.GRPOTrainer, "rloo": trl.RLOOTrainer}[recipe.arguments.algorithm]
            with samples_page(directory):
                policy.train(recipe, directory, trainer_type, _config_type(recipe))


def _config_type(recipe: Recipe) -> type:
    from pipeline.recipe.keys import engine_class

    return engine_class(ALGORITHMS[recipe.arguments.algorithm])

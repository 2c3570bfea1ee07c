"""Keys that the stages of alignment share, and what can be said of them before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.training.arguments import FineTuningArguments


@dataclass(kw_only=True)
class PreferenceArguments:
    """Keys of the stages that read preference pairs."""

    prompt_column: str | None = field(default=None, metadata={"help": "column to read as `prompt`"})
    chosen_column: str | None = field(default=None, metadata={"help": "column to read as `chosen`"})
    rejected_column: str | None = field(default=None, metadata={"help": "column to read as `rejected`"})
    training_pairs: int | None = field(
        default=None, metadata={"help": "train on so many pairs only, drawn by the seed", "range": (1, None)}
    )
    label_noise: float = field(
        default=0.0,
        metadata={"help": "share of pairs, held-out ones too, whose labels are turned round", "range": (0, 0.5)},
    )


@dataclass(kw_only=True)
class JudgeArguments:
    """Keys of a judge that scores a trained policy, and never trains it."""

    judge: str | None = field(
        default=None, metadata={"help": "dotted path of a reward function that compares answers; nothing trains on it"}
    )
    judge_prompts: str | None = field(default=None, metadata={"help": "JSONL of held-out prompts for the judge"})
    judge_limit: int = field(default=200, metadata={"help": "so many of judge_prompts at most", "range": (1, None)})
    judge_tokens: int = field(default=64, metadata={"help": "tokens of a judged answer at most", "range": (1, None)})
    judge_against: str | None = field(
        default=None, metadata={"help": "the checkpoint to win against; by default the model that training starts from"}
    )


@dataclass(kw_only=True)
class PolicyArguments(FineTuningArguments):
    """Keys of the stages that train a policy on its own completions, on top of those of `trl grpo`."""

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
    difficulty: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "train on problems whose measured pass rate lies within {min, max}; of the others `outside` (0.1) of them "
            "are drawn in every pass through the data, and measured again"
        },
    )
    active_sampling_rounds: int = field(
        default=0,
        metadata={
            "help": "replace groups without a difference in reward by groups of further prompts, so many times at most",
            "range": (0, None),
        },
    )
    rails: dict[str, Any] | str | bool | None = field(
        default=None,
        metadata={
            "help": "what ends a run that goes wrong: stop (the default), warn, rollback, off, or {action, window, LIMITS}; "
            "see docs/rails.md"
        },
    )
    sample_problems: int = field(
        default=8,
        metadata={
            "help": "problems of the training data whose sampled completions samples.html follows, every sample_steps; 0: none",
            "range": (0, None),
        },
    )
    unfinished_penalty: float = field(
        default=1.0,
        metadata={"help": "taken off a reward model's score of a completion without an end", "range": (0, None)},
    )


def check_judge(recipe: Any) -> list[str]:
    """Complaints about a judge that cannot be found or has nothing to judge."""
    from pipeline.alignment.judge import find_judge
    from pipeline.errors import PipelineError

    arguments: Any = recipe.arguments
    complaints = []
    if arguments.judge:
        try:
            find_judge(arguments.judge)
        except PipelineError as error:
            complaints.append(f"judge: {error}")
    prompts = getattr(arguments, "judge_prompts", None)
    if prompts and not recipe.exists(prompts):
        complaints.append(f"judge_prompts: there is no file {prompts}")
    return complaints

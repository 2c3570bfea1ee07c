"""Reward of reasoning-gym's procedural tasks, each judged by the task's own scorer."""

import functools
import json
from collections.abc import Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.rewards.answer import completion_text, final_answer
from pipeline.rewards.registry import Example, Scores, reward

_ENTRY = json.dumps(
    {"task": "basic_arithmetic", "question": "Calculate 5 - 3.", "answer": "2", "metadata": {"source_dataset": ""}}
)


def answer_text(text: str) -> str | None:
    """The one final answer of a completion, or the whole visible text (rules: `pipeline.rewards.answer`)."""
    return final_answer(
        text, lambda clause: clause.strip().rstrip(".") or None, lambda whole: whole.strip() or None, bool
    )


@functools.cache
def scorer(task: str) -> Any:
    """The data set of a task, which knows how its answers are scored. Raises `PipelineError` without the package."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise PipelineError(
            "the reward reasoning_gym needs the package: pip install 'pretrain-sft-rl-pipeline[gym]'"
        ) from error
    return reasoning_gym.create_dataset(task, size=1, seed=0)


@reward(
    "reasoning_gym",
    low=0.0,
    high=1.0,
    reads=("entry",),
    kind="verifier",
    gold_template="{answer}",
    examples=(
        Example("5 - 3 = 2. The answer is 2.", 1.0, {"entry": _ENTRY}),
        Example("The answer is 3.", 0.0, {"entry": _ENTRY}),
        Example("The answer is 2. The answer is 3.", 0.0, {"entry": _ENTRY}),
    ),
)
def reasoning_gym(completions: Sequence[Any], entry: Sequence[str], *, partial: bool = False, **columns: Any) -> Scores:
    """Whether reasoning-gym's own scorer of the row's task takes the final answer as right.

    Its partial credit (a fraction for an answer that merely holds the right one) invites long answers and is left out unless
    `partial` is set.
    """
    scores: Scores = []
    for completion, row in zip(completions, entry, strict=True):
        parsed = json.loads(row)
        answer = answer_text(completion_text(completion))
        credit = 0.0 if answer is None else float(scorer(parsed["task"]).score_answer(answer, parsed))
        scores.append(credit if partial else float(credit >= 1.0))
    return scores

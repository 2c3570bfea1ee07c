"""Rewards that know nothing of what is right: what the controls of a claim about reinforcement learning train on."""

import random
from collections.abc import Sequence
from typing import Any

from pipeline.rewards.answer import completion_text, final_answer
from pipeline.rewards.registry import Example, reward


@reward(
    "random",
    low=0.0,
    high=1.0,
    judged=False,
    examples=(Example("The answer is 18.", 1.0), Example("The answer is 17.", 0.0)),
)
def random_reward(completions: Sequence[Any], trainer_state: Any = None, **columns: Any) -> list[float | None]:
    """1 with probability 1/2, whatever the completion says ("Spurious rewards", Shao et al. 2025, arXiv:2506.10947).

    Drawn from step, place and text, so that a resumed run draws what the uninterrupted one would have drawn.
    """
    step = trainer_state.global_step if trainer_state is not None else 0
    return [
        float(random.Random(f"{step}:{place}:{completion_text(completion)}").random() < 0.5)
        for place, completion in enumerate(completions)
    ]


@reward(
    "answer_form",
    low=0.0,
    high=1.0,
    examples=(
        Example("16 - 3 = 13.\n#### 5", 1.0),
        Example("<think>\nUnits 1+1=2.\n</think>\nThe answer is 99.", 1.0),
        Example("The answer is 5. The answer is 6.", 0.0),
        Example("<think>\nThe answer is 18.", 0.0),
    ),
)
def answer_form(completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """1 where a completion gives one final answer that can be read (rules: `pipeline.rewards.answer`), right or wrong."""

    def one_answer(text: str) -> str | None:
        return text.strip() or None

    return [
        float(final_answer(completion_text(completion), one_answer, one_answer, bool) is not None)
        for completion in completions
    ]

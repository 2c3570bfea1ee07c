"""TRL's own rewards under the names that `trl grpo` knows, so that its config files run here as they are.

They are shown by the reward check but not judged: `accuracy_reward` takes the first of several answers, also one inside
the think part, reads LaTeX only, and counts a time-out as wrong. `math` has none of these gaps.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.rewards.answer import completion_text
from pipeline.rewards.registry import Example, Reward, Scores, reward

_BOXED = "<think>\n{reasoning}\n</think>\n\\boxed{{final}}"


def _messages(completions: Sequence[Any]) -> list[list[dict[str, str]]]:
    """TRL's rewards read messages only; plain-text completions get a message of their own."""
    return [[{"role": "assistant", "content": completion_text(completion)}] for completion in completions]


def _accuracy(name: str, summary: str, example: str) -> Reward:
    def score(
        completions: Sequence[Any], solution: Any = None, answer: Any = None, log_extra: Any = None, **columns: Any
    ) -> Scores:
        import trl.rewards

        gold = solution if solution is not None else answer
        if gold is None:
            raise PipelineError(
                "TRL's accuracy rewards read the column `solution`, or `answer` in its place; the rows have neither. "
                "Name the column of the answers with `answer_column`."
            )
        found: Scores = getattr(trl.rewards, name)(_messages(completions), solution=list(gold), log_extra=log_extra)
        return found

    score.__doc__ = summary
    examples = (Example(example, 1.0, {"solution": r"\frac{1}{3}"}),)
    return reward(name, low=0.0, high=1.0, kind="verifier", judged=False, gold_template=_BOXED, examples=examples)(
        score
    )


accuracy_reward = _accuracy(
    "accuracy_reward",
    "TRL's math-verify reward of a LaTeX answer against the column `solution` (or `answer`).",
    r"My answer is \boxed{\frac{1}{3}}",
)
reasoning_accuracy_reward = _accuracy(
    "reasoning_accuracy_reward",
    "TRL's math-verify reward of the LaTeX answer behind `</think>`.",
    r"<think> thirds </think> \boxed{\frac{1}{3}}",
)


@reward(
    "think_format_reward",
    low=0.0,
    high=1.0,
    judged=False,
    examples=(Example("<think>\nreasoning\n</think>\nanswer", 1.0), Example("answer", 0.0)),
    gold_template="<think>\n{reasoning}\n</think>\n{answer}",
)
def think_format_reward(completions: Sequence[Any], **columns: Any) -> Scores:
    """TRL's reward for a text that begins with one `<think>…</think>`."""
    from trl.rewards import think_format_reward as function

    return list(function(_messages(completions)))


@reward(
    "get_soft_overlong_punishment",
    low=-1.0,
    high=0.0,
    judged=False,
    reads=("completion_ids",),
    examples=(Example("long", -0.5, {"completion_ids": [1] * 1152}),),
)
def soft_overlong_punishment(
    completion_ids: Sequence[Sequence[int]],
    *,
    max_completion_len: int = 1280,
    soft_punish_cache: int = 256,
    **columns: Any,
) -> Scores:
    """TRL's soft overlong punishment, with the lengths that `trl grpo` fixes; `length` follows the recipe's limit."""
    from trl.rewards import get_soft_overlong_punishment

    return list(get_soft_overlong_punishment(max_completion_len, soft_punish_cache)(completion_ids))

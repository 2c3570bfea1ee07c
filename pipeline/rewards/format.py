"""Reward for the form of a reasoning completion: thinking first, then an answer."""

import re
from collections.abc import Sequence
from typing import Any

from pipeline.rewards.answer import completion_text
from pipeline.rewards.registry import Example, reward

_THINK_THEN_ANSWER = re.compile(r"\s*<think>(?P<thinking>.*?)</think>(?P<answer>.*)", re.DOTALL)


def has_think_format(text: str) -> bool:
    """Whether a text is one think part with something in it, followed by an answer, and no other think tag."""
    match = _THINK_THEN_ANSWER.fullmatch(text)
    if match is None or text.count("<think>") != 1 or text.count("</think>") != 1:
        return False
    return bool(match["thinking"].strip()) and bool(match["answer"].strip())


@reward(
    "think_format",
    low=0.0,
    high=1.0,
    examples=(
        Example("<think>\n9 * 2 = 18\n</think>\n18", 1.0),
        Example("<think>\n</think>\n18", 0.0),
        Example("<think>\n9 * 2 = 18\n</think>\n", 0.0),
        Example("18", 0.0),
    ),
    gold_template="<think>\n{reasoning}\n</think>\n{answer}",
)
def think_format(completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """1 where the completion is exactly one `<think>…</think>`, not empty, at its start, and then an answer, not empty.

    Stricter than TRL's `think_format_reward`, which also pays an empty think part and a missing answer. DeepSeek-R1
    (arXiv:2501.12948, section 2.2.2) trains with a format reward of this kind beside the accuracy reward.
    """
    return [float(has_think_format(completion_text(completion))) for completion in completions]

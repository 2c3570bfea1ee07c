"""Reward for a numeric answer, compared exactly."""

import re
from fractions import Fraction

from pipeline.rewards.answer import final_answer, gold_answer, one_number
from pipeline.rewards.registry import Example, verifier

_FORMULA = re.compile(r"[\^=*!<>]|\S\s*\+")
"""Signs of a gold that is no number: the 2 of `x^2` is not the answer."""


def final_number(text: str) -> Fraction | None:
    """The one number that a completion gives as its final answer (rules: `pipeline.rewards.answer`), None without
    one."""
    return final_answer(text, one_number, one_number, lambda clause: any(c.isdigit() for c in clause))


def gold_number(answer: str) -> Fraction | None:
    """The number of a gold, which may be a whole GSM8K solution ending in `#### N`."""
    gold = gold_answer(answer)
    return None if _FORMULA.search(gold) else one_number(gold, lowest_terms=False)


@verifier(
    "numeric",
    examples=(
        Example("16 - 3 - 4 = 9 eggs, 9 * 2 = 18.\n#### 18", 1.0, {"answer": "18"}),
        Example("<think>\n9 * 2 = 18\n</think>\nThe answer is $18.00.", 1.0, {"answer": "9 * 2 = 18\n#### 18"}),
        Example("She makes 1,234 dollars.", 1.0, {"answer": "1234"}),
        Example("It is 17 or 18.", 0.0, {"answer": "18"}),
        Example("<think>\nThe answer is 18.", 0.0, {"answer": "18"}),
        Example("The answer is 18.", None, {"answer": "many"}),
    ),
)
def numeric(text: str, answer: str) -> bool | None:
    """Whether the one final answer of a completion is the gold number.

    Both are read as exact fractions: `18`, `18.00`, `$18`, `18 eggs` and `36/2` in a gold are the same, `0.33` and
    `1/3` are not, and `50%` is 50. None (the row is left out) where the gold itself is no number.
    """
    gold = gold_number(answer)
    return None if gold is None else final_number(text) == gold

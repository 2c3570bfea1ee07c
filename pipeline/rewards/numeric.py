"""Reward for a numeric answer, compared exactly."""

import re
from fractions import Fraction

from pipeline.rewards.answer import gold_answer, marked_answers, one_number, phrases, visible_text
from pipeline.rewards.registry import Example, verifier

_FORMULA = re.compile(r"[\^=*!<>]|\S\s*\+")
"""Signs of a gold that is no number: the 2 of `x^2` is not the answer."""


def final_number(text: str) -> Fraction | None:
    """The one number that a completion gives as its final answer (rules: `pipeline.rewards.answer`), None without
    one."""
    visible = visible_text(text)
    if visible is None:
        return None
    marked = marked_answers(visible)
    if marked is None:
        return None
    spoken = [clause for clause in phrases(visible) if any(character.isdigit() for character in clause)]
    if any(content is not None for content in marked):
        values = {one_number(content) for content in marked if content is not None}
        # "The answer is 5. #### 6" gives two answers; a clause with a calculation in it is no answer of its own.
        values |= {value for value in map(one_number, spoken) if value is not None}
    elif spoken:
        values = {one_number(spoken[0])} if len(spoken) == 1 else set()
    else:
        values = {one_number(visible)}
    return values.pop() if len(values) == 1 else None


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

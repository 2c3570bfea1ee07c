"""Reward for a multiple-choice answer: one letter."""

import re

from pipeline.rewards.answer import final_answer, gold_answer
from pipeline.rewards.registry import Example, verifier

# "A dog" and "I think" name no choice.
_LETTER = re.compile(r"(?<![\w'’])(?:[B-HJ](?![\w'’])|[AI](?![\w'’]| [a-z]))")
_LEADING = re.compile(r"[\s(*\"]*([A-J])(?![\w'’])")


def _one(found: list[str]) -> str | None:
    return found[0] if len(found) == 1 else None


def one_choice(text: str) -> str | None:
    """The letter in a text that names exactly one."""
    return _one(_LETTER.findall(text))


def _in_clause(clause: str) -> str | None:
    """The same behind "the answer is", where a letter at the start is a choice whatever follows: "A because …"."""
    leading = _LEADING.match(clause)
    return _one([leading[1], *_LETTER.findall(clause[leading.end() :])]) if leading else one_choice(clause)


@verifier(
    "choice",
    examples=(
        Example("<think>\nNot A.\n</think>\nThe answer is (B).", 1.0, {"answer": "B"}),
        Example("**B**", 1.0, {"answer": "(B)"}),
        Example("B) Paris", 1.0, {"answer": "B. Paris"}),
        Example("B or C", 0.0, {"answer": "B"}),
        Example("A B C D", 0.0, {"answer": "B"}),
        Example("B", None, {"answer": "Paris"}),
    ),
)
def choice(text: str, answer: str) -> bool | None:
    """Whether the one letter from A to J that a completion names as its answer is that of the gold.

    The gold begins with its letter (`B`, `(B)`, `B. Paris`); None (the row is left out) where it does not.
    """
    gold = _LEADING.match(gold_answer(answer))
    if gold is None:
        return None
    return final_answer(text, _in_clause, one_choice, lambda clause: _in_clause(clause) is not None) == gold[1]

"""Self-checks: where a completion turns back to its own answer, and what that did to the answer.

The habits are those of Gandhi et al. 2025 (arXiv:2503.01307) that DeepSeek-R1 (2025, table 3) shows growing in training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.rewards.answer import boxed, hashes, phrases
from pipeline.statistics import wilson_interval

CHECK_WORDS = ("wait", "let me check", "let's check", "let me verify", "double-check", "recheck", "check:", "hold on")
"""What a self-check begins with; as `banned_words` of an evaluation they show what it is worth."""

_CHECK = re.compile(rf"\b(?:{'|'.join(map(re.escape, CHECK_WORDS))})(?:(?<=:)|\b)", re.IGNORECASE)
_THINK_TAG = re.compile(r"</?think>")


def checks(text: str) -> list[tuple[int, int]]:
    """Start and end of every word in the text that begins a self-check."""
    return [match.span() for match in _CHECK.finditer(text)]


def answer_before(text: str) -> str | None:
    """What stands before the first self-check, think tags left out, where it gives an answer already; else None.

    An answer is what `pipeline.rewards.answer` marks as one ("The answer is 5.", a box, `####`): any other number may be
    a step on the way.
    """
    match = _CHECK.search(text)
    if match is None:
        return None
    before = _THINK_TAG.sub("", text[: match.start()])
    return before if phrases(before) or boxed(before) or hashes(before) else None


def effects(texts: Sequence[str], right: Sequence[bool], verify: Callable[[str, int], bool]) -> dict[str, Any]:
    """How many completions check themselves, and how often that turned a wrong answer right and a right one wrong.

    Args:
        texts: Completions.
        right: Whether each is right in the end.
        verify: Whether a text answers the question of the completion with that number rightly.

    Returns:
        `self_checks`, the share of completions with one; `check_wrong_to_right`, P(right in the end | the answer before the
        first check was wrong), and `check_right_to_wrong`, each {"value", "low", "high", "n"} with a 95 % Wilson interval;
        the latter two only where `n` is not 0. Empty where no completion checks itself.
    """
    checked = [number for number, text in enumerate(texts) if checks(text)]
    if not checked:
        return {}
    turned: dict[bool, list[bool]] = {False: [], True: []}
    for number in checked:
        before = answer_before(texts[number])
        if before is not None:
            turned[verify(before, number)].append(right[number])
    found = {"self_checks": _share(len(checked), len(texts))}
    for name, after in (
        ("check_wrong_to_right", turned[False]),
        ("check_right_to_wrong", [not r for r in turned[True]]),
    ):
        if after:
            found[name] = _share(sum(after), len(after))
    return found


def _share(count: int, n: int) -> dict[str, Any]:
    low, high = wilson_interval(count, n)
    return {"value": count / n, "low": low, "high": high, "n": n}

"""Judges of an answer, by name: one that looks for it in the text, one at the end token, the rewards' verifiers, and the
two measures that need no completion (`LIKELIHOOD`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.evaluation.specification import LIKELIHOOD

if TYPE_CHECKING:
    from pipeline.evaluation.generation import Completion

Scorer = Callable[["Completion", str], bool]


def visible_answer(text: str) -> str:
    """What a user is shown of a completion: the text outside its think part, nothing while that is still open."""
    from pipeline.rewards.answer import visible_text

    return (visible_text(text) or "").strip()


def contains(completion: Completion, answer: str) -> bool:
    """The answer occurs in the visible answer as whole words, in any case of letters."""
    words = r"\s+".join(re.escape(word) for word in answer.split())
    return re.search(rf"(?<!\w){words}(?!\w)", visible_answer(completion.text), flags=re.IGNORECASE) is not None


def ends_turn(completion: Completion, answer: str) -> bool:
    """The completion ended with an end token within the limit, whatever it says."""
    return completion.ended


def hash_number(completion: Completion, answer: str) -> bool:
    """GSM8K, strictly: the number behind the one `####` of the visible answer is the gold's."""
    from pipeline.rewards.answer import hashes, one_number
    from pipeline.rewards.numeric import gold_number

    marked = hashes(visible_answer(completion.text))
    return len(marked) == 1 and one_number(marked[0]) == gold_number(answer) is not None


def last_number(completion: Completion, answer: str) -> bool:
    """GSM8K, flexibly: the last number of the visible answer is the gold's, whatever stands around it.

    A measure and no reward: a policy that was paid for it would learn to end in a number.
    """
    from pipeline.rewards.answer import numbers
    from pipeline.rewards.numeric import gold_number

    found = numbers(visible_answer(completion.text))
    return bool(found) and found[-1] == gold_number(answer) is not None


_OWN: dict[str, Scorer] = {
    "contains": contains, "ends_turn": ends_turn, "hash_number": hash_number, "last_number": last_number,
}  # fmt: skip


def scorer_names() -> list[str]:
    """Every name that an evaluation's `scorer` may have."""
    from pipeline.rewards import find, names

    return sorted({*_OWN, *LIKELIHOOD, *(name for name in names() if find(name).verify is not None)})


def find_scorer(name: str) -> Scorer:
    """The scorer of that name. A verifier judges the whole text, and knows itself what to make of its think part."""
    if name in _OWN:
        return _OWN[name]
    from pipeline.rewards import find

    verify = find(name).verify
    if verify is None:
        raise PipelineError(f"scorer {name!r} is a reward without a verifier; there are {', '.join(scorer_names())}")
    return lambda completion, answer: bool(verify(completion.text, answer))


def unjudged(name: str, row: dict[str, Any]) -> str | None:
    """Why a scorer can tell nothing from the row's accepted answers, None where it can: a gold that it cannot read, or one
    by which an empty answer is right."""
    from pipeline.rewards import find
    from pipeline.rewards.numeric import gold_number

    golds = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    if name in ("hash_number", "last_number"):
        verdicts: list[bool | None] = [None if gold_number(gold) is None else False for gold in golds]
    elif is_verifier(name) and (verify := find(name).verify) is not None:
        try:
            verdicts = [verify("", gold) for gold in golds]
        except PipelineError as error:
            return str(error)
    else:
        return None
    if any(verdicts):
        return f"found the answer {row['answer']!r:.100}, by which an empty completion is right"
    expected = "one number" if "num" in name else "an answer that it can read"
    return None if False in verdicts else f"found the answer {row['answer']!r:.100}, expected {expected}"


def is_verifier(name: str) -> bool:
    """Whether a scorer judges the final answer of a text, whatever else the text says."""
    return name not in _OWN and name not in LIKELIHOOD


def same_answer(scorer: str, text: str) -> Any:
    """What two completions share when they give the same answer: the vote of majority@k; None without an answer."""
    if scorer == "numeric":
        from pipeline.rewards.numeric import final_number

        return final_number(text)
    return " ".join(visible_answer(text).split()).lower() or None

"""Completions with known scores: golds that must score top, junk and attacks that must score bottom.

The attacks are what policies find when a verifier is lax: answers listed until one is right, two answers, the answer
where it does not count, the problem handed back.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.errors import PipelineError
from pipeline.rewards.answer import gold_answer, one_number, prompt_text

Row = Mapping[str, Any]

GOLD = "gold"

REMEDIES = {
    GOLD: "Check `answer_column` and `gold_template`: it must give the answer in a form that the reward reads.",
    "empty": "It pays for nothing at all.",
    "random words": "It pays for text without any answer.",
    "answers listed": "A policy would list every answer: compare one final answer only.",
    "two answers": "A policy would hedge: give 0 where a completion holds two answers.",
    "answer only in think part": "Compare only what follows `</think>`.",
    "unterminated think part": "A think part without `</think>` has no answer behind it: give 0.",
    "prompt copied": "It pays for repeating the problem.",
    "answer repeated": "Repetition is the first thing that a policy learns when it pays: give 0.",
    "other row's answer": "It does not compare with this row's answer.",
    "answer with a digit more": "It looks for the answer as a substring: compare values.",
}
"""What a wrong score in each case means."""

OWN_REMEDY = "A policy finds this within a few steps, and it must not pay."
"""The same of the attacks that a reward brings with it."""

_WORDS = (
    *("river", "lamp", "quiet", "under", "stone", "walk", "green", "paper", "because", "early", "market", "window"),
    *("song", "often", "bread", "follow", "cloud", "gentle", "corner", "between", "harvest", "simple", "road", "maybe"),
)
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Case:
    """One completion for one row (`row` is its index in the data); `owner` is the reward that it was made for, or all."""

    name: str
    row: int
    text: str
    owner: str | None = None


def fields(row: Row) -> dict[str, str]:
    """What a `gold_template` may name: every column, and of the answer the parts before and behind the last `####`."""
    answer = str(row["answer"] if "answer" in row else row.get("solution", ""))
    reasoning = answer.rsplit("####", 1)[0].strip() if "####" in answer else ""
    columns = {name: str(value) for name, value in row.items() if name != "prompt"}
    return {"reasoning": reasoning or "Let me think.", **columns, "answer": answer, "final": gold_answer(answer)}


def render(template: str, values: Mapping[str, str]) -> str:
    r"""Fill in `{name}`. Other braces stay, so that `\boxed{{answer}}` needs no escapes.

    Raises:
        PipelineError: The template names none of the fields, or an unknown one in the place of the answer.
    """
    if not any(name in values for name in _FIELD.findall(template)):
        raise PipelineError(
            f"gold_template {template!r} names no field of the rows; it can name "
            f"{', '.join('{' + name + '}' for name in sorted(values))}."
        )
    return _FIELD.sub(lambda match: values.get(match[1], match[0]), template)


def template_for(hints: Sequence[str]) -> str:
    """One gold template from those of several rewards: the answer's form, inside a think part where one asks for it."""
    whole = max((hint for hint in hints if "{reasoning}" in hint), key=len, default="{answer}")
    answer = max((hint for hint in hints if "{reasoning}" not in hint), key=len, default="{answer}")
    return whole.replace("{answer}", answer)


def gold_case(index: int, row: Row, template: str) -> Case:
    """The completion that must score top."""
    return Case(GOLD, index, render(template, fields(row)))


def _framed(template: str, answer: str) -> str:
    """An answer in the gold's form, with nothing of the gold in it."""
    values = dict.fromkeys(_FIELD.findall(template), "")
    return render(template, {**values, "reasoning": "Let me think.", "answer": answer, "final": answer})


def _value(final: str) -> Fraction | None:
    """The number that an answer is; the 2 of a program is none."""
    return None if "\n" in final else one_number(final, lowest_terms=False)


def _different(final: str, others: Sequence[str]) -> str:
    """Another row's answer, of another value than `final`."""
    value = _value(final)
    for other in others:
        if other.strip() and other != final and (value is None or _value(other) != value):
            return other
    return str(value + 1) if value is not None else f"not {final}"


def attack_cases(index: int, row: Row, template: str, other_answers: Sequence[str]) -> list[Case]:
    """Junk and attacks for one row, none of which gives its answer as the one final answer; just junk without an answer.

    Args:
        index: The row's index, for the messages.
        row: Columns `prompt` and `answer` (or `solution`).
        template: The gold template; attacks come as plain text and in this form.
        other_answers: Final answers of other rows.
    """
    final = fields(row)["final"]
    value: Fraction | None = _value(final)
    wrong = _different(final, other_answers)
    if value is not None:
        listed = [str(number) for number in range(21) if number != value] + [final]
    else:
        listed = [*dict.fromkeys([*other_answers[:20], wrong]), final]
    words = random.Random(f"0-{index}").choices([w for w in _WORDS if w not in final.lower()], k=24)
    texts = {
        "empty": [""],
        "random words": [" ".join(words)],
        "prompt copied": [prompt_text(row["prompt"]), _framed(template, prompt_text(row["prompt"]))],
    }
    if final:
        texts |= {
            "answers listed": [
                " ".join(listed),
                _framed(template, ", ".join(listed)),
                f"The answer is {', '.join(listed)}.",
            ],
            "two answers": [
                f"{wrong} or {final}",
                _framed(template, f"{final} or {wrong}"),
                f"The answer is {wrong}. The answer is {final}.",
                f"\\boxed{{{wrong}}} \\boxed{{{final}}}",
                f"#### {final}\n#### {wrong}",
            ],
            "answer only in think part": [
                f"<think>\n{final}\n</think>\n",
                f"<think>\nThe answer is \\boxed{{{final}}}.\n</think>\nI have answered above.",
            ],
            "unterminated think part": [f"<think>\nThe answer is {final}.", f"<think>\n#### {final}"],
            "answer repeated": [" ".join([final] * 40), f"The answer is {final}. " * 20, f"#### {final}\n" * 20],
            "other row's answer": [_framed(template, wrong), f"The answer is {wrong}."],
        }
    if value is not None:
        texts["answer with a digit more"] = [f"The answer is {final}7.", f"The answer is 7{final.lstrip('-+$ ')}."]
    return [Case(name, index, text) for name, variants in texts.items() for text in variants]

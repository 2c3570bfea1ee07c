"""Reward for a mathematical answer, compared by math-verify (SymPy) in a worker process."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.rewards.answer import (
    completion_text,
    gold_answer,
    marked_answers,
    numbers,
    one_number,
    phrases,
    visible_text,
)
from pipeline.rewards.math_worker import shared_worker
from pipeline.rewards.registry import Example, Scores, reward

MAX_CHARACTERS = 1000
"""Longer expressions are no answers."""

_DELIMITED = re.compile(
    r"\$\$([^$]{1,1000})\$\$|\$([^$\n]{1,1000})\$|\\\((.{1,1000}?)\\\)|\\\[(.{1,1000}?)\\\]", re.DOTALL
)
_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+")
_FUNCTION = re.compile(r"\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|arcsin|arccos|arctan|pi|oo)\b")
_WORD = re.compile(r"[A-Za-z]{2,}")
_ASSIGNMENT = re.compile(r"\s*\\?[A-Za-z](?:_\w+|_\{\w+\})?(?:\([A-Za-z]\))?\s*=(?P<value>[^=]*)")
_POWER_OF_TEN = re.compile(r"\\(?:times|cdot)\s*10\s*\^\s*(?:\{\s*[-+]?[0-9]+\s*\}|[0-9])")
_OPERATION = re.compile(
    r"[+*^!]|[0-9A-Za-z)}\]]\s*-|\\(?:times|cdot|div|ast|sqrt|binom|pm|mp|sum|prod|int|log|ln|exp|sin|cos|tan)"
)


def _has_words(text: str) -> bool:
    return _WORD.search(_FUNCTION.sub(" ", _COMMAND.sub(" ", text))) is not None


def _expression_in(region: str) -> str | None:
    """The one expression of a clause or a text: between dollar signs, or all of it, or the only number in it."""
    delimited = ["".join(groups) for groups in _DELIMITED.findall(region)]
    delimited = [content.strip() for content in delimited if not _has_words(content)]
    if len(delimited) == 1:
        return delimited[0]
    if delimited:
        return None
    bare = region.strip().strip("*").rstrip(".").strip()
    if bare and not _has_words(bare):
        return bare
    number = one_number(region)
    return None if number is None else str(number)


def final_expressions(text: str) -> list[str]:
    r"""The expressions that a completion gives as its final answer; all of them must be right. Empty: no answer.

    The rules are those of `pipeline.rewards.answer`, with expressions in the place of numbers: a visible text without a
    mark must hold one expression between dollar signs, or be one, or hold one number.
    """
    visible = visible_text(text)
    marked = None if visible is None else marked_answers(visible)
    if visible is None or marked is None:
        return []
    found: list[str | None] = []
    if marked.box is not None or marked.line is not None:
        # A box holds an expression with its units; a line or a clause may hold words around it.
        if marked.box is not None:
            found.append(marked.box.strip().strip("$").strip())
        if marked.line is not None:
            found.append(_expression_in(marked.line))
        values = {one_number(expression) for expression in found if expression} - {None}
        if values and {one_number(clause) for clause in phrases(visible)} - {None} - values:
            return []  # "The answer is 5. #### 6"
    else:
        found.extend(expression for expression in map(_expression_in, phrases(visible)) if expression is not None)
        if len(found) > 1:
            return []
        found = found or [_expression_in(visible)]
    expressions = [expression for expression in found if expression and len(expression) <= MAX_CHARACTERS]
    return expressions if len(expressions) == len(found) else []


def _is_finished(expression: str) -> bool:
    """Whether an expression is a value, and not a calculation left to the verifier (`6 \\times 3`, `36/2`)."""
    plain = _POWER_OF_TEN.sub("", expression)
    return _OPERATION.search(plain) is None and None not in numbers(plain)


def _compare(text: str, answer: str) -> bool | None:
    gold = gold_answer(answer).strip("$ ")
    if _has_words(gold) and "$" not in gold:
        # math-verify reads the word "many" as a product of letters; "18 dollars" is a number.
        number = one_number(gold, lowest_terms=False)
        gold = "" if number is None else str(number)
    if not gold:
        return None
    gold_latex = f"${gold}$" if "$" not in gold else gold_answer(answer)
    expressions = final_expressions(text)
    gold_value = one_number(gold, lowest_terms=False)
    verdicts = []
    for expression in expressions:
        if "=" in expression and "=" not in gold:
            assignment = _ASSIGNMENT.fullmatch(expression)
            if assignment is None:  # 19 = 18 and x = 19 = 18 are no answers
                return False
            expression = assignment["value"].strip()
        if gold_value is not None and _is_finished(gold):
            if not _is_finished(expression):
                return False
            if len(numbers(expression)) == 1 and not _has_words(expression) and one_number(expression) == gold_value:
                continue
        verdicts.append(shared_worker().judge(gold_latex, f"${expression}$"))
    if "unreadable gold" in verdicts:
        return None
    if not expressions or "different" in verdicts:
        return False
    return None if "timeout" in verdicts else True


@reward(
    "math",
    low=0.0,
    high=1.0,
    reads=("answer",),
    kind="verifier",
    verify=_compare,
    examples=(
        Example(r"So the answer is $\boxed{\frac{1}{2}}$.", 1.0, {"answer": "1/2"}),
        Example(r"<think>…</think> \boxed{(x-1)(x+1)}", 1.0, {"answer": "$x^2-1$"}),
        Example("The answer is 18 dollars.", 1.0, {"answer": "9 * 2 = 18\n#### 18"}),
        Example(r"\boxed{9 \times 2}", 0.0, {"answer": "18"}),
        Example(r"\boxed{17} or \boxed{18}", 0.0, {"answer": "18"}),
    ),
)
def math(
    completions: Sequence[Any],
    answer: Sequence[str],
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> Scores:
    """1 where the one final answer equals the gold as a mathematical expression (math-verify).

    Plain numbers and LaTeX are read on both sides. Where the gold is a plain value, a calculation left undone is wrong;
    where it is an expression, every expression of the same value is right. Numbers agree to six digits behind the
    point, and `50\\%` equals both 50 and 0.5. None, counted in `rewards/math/timeouts` and `rewards/math/undecided`,
    where the comparison ran out of time or memory, or the gold cannot be read.
    """
    before = shared_worker().timeouts
    decided = [_compare(completion_text(c), gold) for c, gold in zip(completions, answer, strict=True)]
    if log_metric is not None and decided:
        log_metric("rewards/math/timeouts", float(shared_worker().timeouts - before))
        log_metric("rewards/math/undecided", decided.count(None) / len(decided))
    return [None if right is None else float(right) for right in decided]

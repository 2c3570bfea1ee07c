"""Rewards that compare the visible text itself: with the gold, or with a pattern."""

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.rewards.answer import completion_text, visible_text
from pipeline.rewards.registry import Example, Scores, reward, verifier

PATTERN_SECONDS = 1.0


@verifier(
    "exact",
    examples=(
        Example("<think>\nhm\n</think>\nIn  Quillport.", 1.0, {"answer": "In Quillport."}),
        Example("in Quillport.", 0.0, {"answer": "In Quillport."}),
        Example("It is in Quillport.", 0.0, {"answer": "Quillport"}),
    ),
)
def exact(text: str, answer: str) -> bool:
    """Whether the text outside the think part is the answer, spaces and line breaks aside."""
    visible = visible_text(text)
    return visible is not None and visible.split() == str(answer).split()


@reward(
    "regex",
    low=0.0,
    high=1.0,
    examples=(
        Example("The answer is 18.", 1.0, {}, {"pattern": r"The answer is \d+\."}),
        Example("The answer is 18. Or 19.", 0.0, {}, {"pattern": r"The answer is \d+\."}),
        Example("a" * 40, None, {}, {"pattern": "(a|aa)+b"}),
    ),
)
def regex(
    completions: Sequence[Any], log_metric: Callable[[str, float], None] | None = None, *, pattern: str, **columns: Any
) -> Scores:
    """1 where the whole text outside the think part, trimmed, matches the regular expression `pattern`.

    None, counted in `rewards/regex/timeouts`, where matching takes more than a second: some patterns take
    exponential time on texts that a policy may find.
    """
    import regex as engine

    try:
        compiled = engine.compile(pattern)
    except engine.error as error:
        raise PipelineError(f"reward regex: the pattern {pattern!r} is no regular expression: {error}.") from error
    scores: Scores = []
    for completion in completions:
        visible = visible_text(completion_text(completion))
        try:
            matched = visible is not None and compiled.fullmatch(visible.strip(), timeout=PATTERN_SECONDS) is not None
            scores.append(float(matched))
        except TimeoutError:
            scores.append(None)
    if log_metric is not None:
        log_metric("rewards/regex/timeouts", float(scores.count(None)))
    return scores

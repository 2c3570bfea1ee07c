"""Reward against repetition."""

from collections.abc import Sequence
from typing import Any

from pipeline.rewards.registry import Example, reward


@reward(
    "repetition",
    low=-1.0,
    high=0.0,
    reads=("completion_ids",),
    examples=(
        Example("all different", 0.0, {"completion_ids": [*range(40)]}),
        Example("one and the same", -0.75, {"completion_ids": [7] * 11}),
        Example("short", 0.0, {"completion_ids": [7, 7, 7]}),
    ),
    attacks=lambda row, parameters: {"words repeated": ["and so we go on " * 60, "1 " * 200]},
)
def repetition(completion_ids: Sequence[Sequence[int]], *, ngram: int = 8, **columns: Any) -> list[float | None]:
    """Minus the share of a completion's token n-grams that occurred before in it.

    0 for a text without repetition; towards -1 for one that turns in a circle. Eight tokens do not recur in ordinary
    text; the penalty on n-grams follows Yeo et al. 2025 (arXiv:2502.03373, section 4.3), without its window.
    """
    return [0.0 - repeated_share(ids, ngram) for ids in completion_ids]


def repeated_share(ids: Sequence[int], ngram: int = 8) -> float:
    """Share of the n-grams of token ids that occurred before, in [0, 1); 0 for a text shorter than one n-gram."""
    grams = [tuple(ids[start : start + ngram]) for start in range(len(ids) - ngram + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0

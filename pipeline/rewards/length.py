"""Reward that shapes the length of completions."""

from collections.abc import Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.rewards.registry import Example, reward


@reward(
    "length",
    low=-1.0,
    high=0.0,
    reads=("completion_ids",),
    examples=(
        Example("short", 0.0, {"completion_ids": [1] * 80}, {"max_tokens": 100, "cache": 20}),
        Example("longer", -0.5, {"completion_ids": [1] * 90}, {"max_tokens": 100, "cache": 20}),
        Example("cut off", -1.0, {"completion_ids": [1] * 100}, {"max_tokens": 100, "cache": 20}),
    ),
)
def length(
    completion_ids: Sequence[Sequence[int]], *, max_tokens: int, cache: int | None = None, **columns: Any
) -> list[float | None]:
    """TRL's soft overlong punishment, equation 13 of DAPO (arXiv:2503.14476), with the recipe's length.

    0 up to `max_tokens - cache` tokens, then linearly down to -1 at `max_tokens` and beyond, so that a completion which
    ran into the limit is punished and one that came near it is warned.

    Args:
        completion_ids: Token ids of each completion; their number is the length, the stop token included.
        max_tokens: Length of the full punishment; the recipe's `max_completion_length` unless given.
        cache: Width of the slope; a fifth of `max_tokens` unless given, as in the paper (4,096 of 20,480).

    Raises:
        PipelineError: `cache` is not between 1 and `max_tokens`.
    """
    cache = max(1, max_tokens // 5) if cache is None else cache
    if not 1 <= cache <= max_tokens:
        raise PipelineError(
            f"reward length: cache must lie between 1 and max_tokens ({max_tokens}), found {cache}; "
            "set it under reward_kwargs: {length: {cache: …}}."
        )
    from trl.rewards import get_soft_overlong_punishment

    return list(get_soft_overlong_punishment(max_tokens, cache)(completion_ids))

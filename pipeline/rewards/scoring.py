"""Scores outside a trainer, as a trainer would get them."""

import inspect
from collections.abc import Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.rewards.attacks import Row
from pipeline.rewards.registry import Reward, Scores


def score_completions(
    reward: Reward, texts: Sequence[str], rows: Sequence[Row], completion_ids: Sequence[Sequence[int]] | None
) -> Scores | None:
    """Scores of one completion a row, called as TRL calls a reward; None where it needs token ids and there are none.

    Raises:
        PipelineError: The reward raised, or gave another number of scores than completions.
    """
    if completion_ids is None and ("completion_ids" in reward.reads or _names_argument(reward, "completion_ids")):
        return None
    conversational = bool(rows) and not isinstance(rows[0]["prompt"], str)
    completions = [[{"role": "assistant", "content": text}] if conversational else text for text in texts]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    columns |= {"log_metric": lambda name, value: None, "log_extra": lambda name, values: None}
    if completion_ids is not None:
        columns["completion_ids"] = completion_ids
    if _names_argument(reward, "trainer_state"):
        from transformers import TrainerState

        columns["trainer_state"] = TrainerState()
    try:
        scores = reward.scores(prompts=[row["prompt"] for row in rows], completions=completions, **columns)
    except PipelineError:
        raise
    except Exception as error:  # somebody else's function may raise anything
        raise PipelineError(
            f"reward {reward.name} raised {type(error).__name__}: {error}. It was called with the columns "
            f"{', '.join(sorted(columns))}, as the trainer will call it."
        ) from error
    if len(scores) != len(texts):
        raise PipelineError(f"reward {reward.name} gave {len(scores)} scores for {len(texts)} completions.")
    return [None if score is None or score != score else float(score) for score in scores]


def _names_argument(reward: Reward, name: str) -> bool:
    return name in inspect.signature(reward.function).parameters


def weighted_sums(scores: Sequence[Scores | None], weights: Sequence[float]) -> Scores:
    """Sum of the weighted scores of each completion as TRL builds it: a None adds nothing, all None gives None."""
    known = [(weight, column) for weight, column in zip(weights, scores, strict=True) if column is not None]
    sums: Scores = []
    for row in zip(*(column for _, column in known), strict=True):
        terms = [weight * score for (weight, _), score in zip(known, row, strict=True) if score is not None]
        sums.append(sum(terms) if terms else None)
    return sums


def mean(scores: Sequence[float | None]) -> float | None:
    """Mean of the scores that are known, None without one."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None

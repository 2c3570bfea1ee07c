"""What a supervised fine-tuning run is about to learn from, looked at before step 0: lengths, masks, one row in full."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from pipeline.errors import PipelineError

QUANTILES = (0.5, 0.9, 0.99, 1.0)
MAX_LOST_SHARE = 0.2
LOOKED_AT = 10_000


@dataclass(frozen=True)
class Supervision:
    """Figures over tokenised rows, before they are cut to `max_length`.

    Attributes:
        rows: Rows looked at.
        quantiles: Lengths in tokens at `QUANTILES`.
        truncated: Share of rows longer than `max_length`.
        lost: Share of rows that keep no supervised token once cut; the trainer drops them.
        supervised: Share of tokens, after the cut, that the loss counts.
    """

    rows: int
    quantiles: tuple[int, ...]
    truncated: float
    lost: float
    supervised: float

    def to_text(self, max_length: int | None) -> str:
        """The lines printed before training."""
        lengths = "  ".join(
            f"{quantile:.0%} {length}" for quantile, length in zip(QUANTILES, self.quantiles, strict=True)
        )
        return (
            f"{self.rows} rows; tokens a row: {lengths}; max_length {max_length}: {self.truncated:.1%} of the rows are cut, "
            f"{self.lost:.1%} lose all that they teach; {self.supervised:.1%} of the tokens are supervised"
        )


def look(rows: Iterable[Mapping[str, Any]], max_length: int | None) -> Supervision:
    """Count over rows of `input_ids` and `labels` (-100 where the loss does not count)."""
    lengths, lost, kept, supervised = [], 0, 0, 0
    for row in rows:
        labels = np.asarray(row["labels"])
        lengths.append(len(labels))
        cut = labels[:max_length]
        counted = int((cut != -100).sum())
        lost += counted == 0
        kept += len(cut)
        supervised += counted
    if not lengths:
        raise PipelineError("There is no row to train on.")
    measured = np.array(lengths)
    return Supervision(
        rows=len(lengths),
        quantiles=tuple(int(value) for value in np.quantile(measured, QUANTILES, method="higher")),
        truncated=float((measured > max_length).mean()) if max_length else 0.0,
        lost=lost / len(lengths),
        supervised=supervised / max(kept, 1),
    )


def refuse_absurd(found: Supervision, *, name: str, max_length: int | None, max_truncated_share: float) -> None:
    """Raise `PipelineError` for data that would train nothing, or not what its owner thinks."""
    if found.supervised == 0:
        raise PipelineError(
            f"{name}: no token is supervised: every row's loss is masked or cut away at max_length {max_length}. The run "
            f"would report a loss of 0 and learn nothing. Raise max_length (the longest row has {found.quantiles[-1]} "
            f"tokens), or check the template's assistant marks."
        )
    if found.lost > MAX_LOST_SHARE:
        raise PipelineError(
            f"{name}: {found.lost:.0%} of the rows lose every supervised token at max_length {max_length} (half of the rows "
            f"have more than {found.quantiles[0]} tokens). Raise max_length."
        )
    if found.truncated > max_truncated_share:
        raise PipelineError(
            f"{name}: {found.truncated:.0%} of the rows are longer than max_length {max_length}, more than "
            f"max_truncated_share {max_truncated_share:.0%} allows. Raise max_length, or allow it."
        )


def refuse_open_turns(rows: Iterable[Mapping[str, Any]], tokenizer: Any, *, name: str) -> None:
    """Raise `PipelineError` unless the last supervised token of every run is one that ends generation.

    A run that ends in anything else teaches the model to go on (huggingface/trl#5988). White space after the stop token,
    which some templates supervise too, does not count.
    """
    for number, row in enumerate(rows):
        for part in (
            list(run) for supervised, run in groupby(row["labels"], lambda label: label != -100) if supervised
        ):
            while len(part) > 1 and not tokenizer.decode(part[-1:]).strip():
                part.pop()
            if part[-1] != tokenizer.eos_token_id:
                raise PipelineError(
                    f"{name}, row {number}: a supervised part ends in {tokenizer.decode(part[-1:])!r} instead of "
                    f"{tokenizer.eos_token!r}. The model would not learn to stop. Put the end-of-turn token inside the "
                    f"template's generation marks, or name the right one in eos_token."
                )


def show(row: Mapping[str, Any], tokenizer: Any, max_length: int | None, *, colour: bool | None = None) -> str:
    """One row decoded, supervised tokens marked: green on a terminal, between ⟦ and ⟧ elsewhere."""
    colour = sys.stdout.isatty() if colour is None else colour
    opening, closing = ("\x1b[32m", "\x1b[0m") if colour else ("⟦", "⟧")
    tokens = list(zip(row["input_ids"], row["labels"], strict=True))[:max_length]
    parts = []
    for supervised, run in groupby(tokens, lambda token: token[1] != -100):
        text = tokenizer.decode([number for number, _ in run])
        parts.append(f"{opening}{text}{closing}" if supervised else text)
    return "".join(parts)

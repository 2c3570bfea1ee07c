"""How probable a model finds given continuations: multiple choice, and bits per byte of gold answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from pipeline.errors import PipelineError


@torch.no_grad()
def log_likelihoods(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, batch_size: int = 32
) -> list[float]:
    """Natural log-probability of each continuation after its prompt, summed over the continuation's tokens.

    Prompt and continuation are tokenised together and cut where the prompt's own tokens end, so that a token which spans
    the border counts as the continuation's (as lm-evaluation-harness does, Gao et al. 2021). No special token is added.

    Args:
        pairs: (prompt, continuation), rendered text.

    Raises:
        PipelineError: A pair does not fit the model's context, or a continuation has no token of its own.
    """
    from pipeline.evaluation.generation import context_length

    context = context_length(model)
    rows: list[tuple[list[int], int]] = []
    for number, (prompt, continuation) in enumerate(pairs):
        whole = tokenizer(prompt + continuation, add_special_tokens=False)["input_ids"]
        asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        begin = len(os.path.commonprefix([whole, asked])) if prompt else 1  # of any sequences, not of paths alone
        if context is not None and len(whole) > context:
            raise PipelineError(f"pair {number} has {len(whole)} tokens, more than the model's context of {context}")
        if begin < 1 or begin >= len(whole):
            raise PipelineError(
                f"pair {number}: nothing to score: the prompt {prompt[-40:]!r} and the continuation "
                f"{continuation[:40]!r} have {len(whole)} tokens together"
            )
        rows.append((whole, begin))
    found = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
    pad = tokenizer.pad_token_id or 0
    training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            width = len(rows[batch[0]][0])
            ids = torch.full((len(batch), width), pad)
            labels = torch.full((len(batch), width), -100)
            mask = torch.zeros((len(batch), width), dtype=torch.long)
            for line, i in enumerate(batch):
                whole, begin = rows[i]
                ids[line, : len(whole)] = torch.tensor(whole)
                labels[line, begin : len(whole)] = ids[line, begin : len(whole)]
                mask[line, : len(whole)] = 1
            device = model.device
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
            losses = cross_entropy(
                logits[:, :-1].float().transpose(1, 2), labels[:, 1:].to(device), ignore_index=-100, reduction="none"
            )
            for i, total in zip(batch, (-losses.sum(1)).tolist(), strict=True):
                found[i] = total
    finally:
        model.train(training)
    return found

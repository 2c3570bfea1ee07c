"""Validation loss without the averaging of averages: summed over tokens, then divided once."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from pipeline.errors import PipelineError


@dataclass(frozen=True)
class ValidationLoss:
    """Negative log-likelihood of validation text.

    `nats` is summed over the predicted tokens; `bytes` is the UTF-8 length of just those tokens, so that bits per byte do
    not depend on the tokenizer (Gao et al. 2020, The Pile, section 3.1). The end of a document is predicted, and counts in
    nats, but stands for no byte.
    """

    nats: float
    tokens: int
    bytes: int

    def metrics(self) -> dict[str, float]:
        """The names under which `metrics.jsonl` keeps it: nats per token, and bits per byte."""
        return {
            "eval_loss": self.nats / self.tokens,
            "eval_bits_per_byte": self.nats / math.log(2) / self.bytes,
        }


@torch.no_grad()
def validation_loss(
    model: Any, batches: Iterable[dict[str, torch.Tensor]], token_bytes: np.ndarray, *, accelerator: Any = None
) -> ValidationLoss:
    """Sum the loss of `batches` exactly.

    Args:
        model: A causal language model. Where its parameters are sharded, every rank must give as many batches.
        batches: This rank's rows: `input_ids` and `labels` of shape (batch, length), labels unshifted, -100 where nothing
            is predicted; `position_ids` that restart with each document keep packed documents apart.
        token_bytes: UTF-8 bytes of each token id, shape (vocabulary,).
        accelerator: Sums over its ranks; None means that this process saw everything.

    Raises:
        PipelineError: There was no token or no byte to count.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    sizes = torch.from_numpy(token_bytes)
    nats, tokens, size = 0.0, 0, 0
    for batch in batches:
        labels = batch["labels"][:, 1:]
        inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        predicted = labels[labels != -100]
        nats += cross_entropy(
            logits.float().flatten(0, 1), labels.to(device).flatten(), ignore_index=-100, reduction="sum"
        ).item()
        tokens += predicted.numel()
        size += int(sizes[predicted].sum())
    model.train(was_training)
    if accelerator is not None and accelerator.num_processes > 1:
        sums = torch.tensor([nats, tokens, size], dtype=torch.float64, device=accelerator.device)
        nats, tokens, size = accelerator.reduce(sums, reduction="sum").tolist()
    if not tokens or not size:
        raise PipelineError(f"validation: {int(tokens)} predicted tokens of {int(size)} bytes: nothing to measure.")
    return ValidationLoss(nats=nats, tokens=int(tokens), bytes=int(size))


def bytes_per_token(tokenizer: Any) -> np.ndarray:
    """UTF-8 bytes that each token id stands for, shape (vocabulary,); special tokens stand for none.

    With it, bits per byte count exactly the text that was predicted.
    """
    special = set(tokenizer.all_special_ids)
    sizes = np.zeros(len(tokenizer), np.int64)
    byte_level = '"ByteLevel"' in tokenizer.backend_tokenizer.to_str()
    for token, token_id in tokenizer.get_vocab().items():
        if token_id not in special:
            # Byte-level alphabets write each byte as one character; other tokenizers have to be asked for the text.
            sizes[token_id] = len(token) if byte_level else len(tokenizer.decode([token_id]).encode())
    return sizes

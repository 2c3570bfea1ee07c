"""TRL's SFTTrainer on rows packed from token shards, with an exact validation loss."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pipeline.training.trainer import StageTrainer
from pipeline.training.validation import validation_loss


class PretrainTrainer(StageTrainer):
    """Trains on rows that come packed, and evaluates in nats per token and bits per byte.

    Args:
        validation: Rows packed like the training rows, from documents that no training row holds.
        validation_rows: How many of them to measure.
        token_bytes: UTF-8 bytes of each token id.
    """

    def __init__(self, *args: Any, validation: Any, validation_rows: int, token_bytes: np.ndarray, **kwargs: Any):
        self._validation = validation.select(range(min(len(validation), validation_rows)))
        self._token_bytes = token_bytes
        # The Trainer wants to see an evaluation dataset where `eval_strategy` asks for evaluations.
        super().__init__(*args, eval_dataset=self._validation, **kwargs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """`eval_loss` (nats per token) and `eval_bits_per_byte`, exact over all ranks."""
        with torch.no_grad(), self.compute_loss_context_manager():
            found = validation_loss(self.model, self._batches(), self._token_bytes, accelerator=self.accelerator)
        metrics = found.metrics()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """This rank's share; ranks that run out repeat a row without labels, since sharded weights need them all."""
        size, ranks, rank = self.args.per_device_eval_batch_size, self.args.world_size, self.args.process_index
        total = len(self._validation)
        for start in range(0, total, size * ranks):
            chosen = [start + rank * size + i for i in range(size)]
            rows = [self._validation[min(number, total - 1)] for number in chosen]
            for number, row in zip(chosen, rows, strict=True):
                if number >= total:
                    row["labels"] = np.full_like(row["labels"], -100)
            yield self.data_collator(rows)

"""TRL's SFTTrainer on rows packed from token shards, in their global order, with an exact validation loss."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from pipeline.training.order import Corpus, Onwards, Permutation, RowStream
from pipeline.training.trainer import StageTrainer
from pipeline.training.validation import validation_loss


class PretrainTrainer(StageTrainer):
    """Trains on the rows of a stream from the step on where it stands, and evaluates in nats per token and bits per byte.

    Args:
        rows: All rows of the run. `args.max_steps` and `args.ignore_data_skip` must be set: where to go on is known here.
        validation: Held-out rows of each corpus by the prefix of its metrics; that of the main one is empty.
        validation_rows: How many of each to measure at most, drawn by seed.
        token_bytes: UTF-8 bytes of each token id.
    """

    def __init__(
        self,
        *args: Any,
        rows: RowStream,
        validation: Mapping[str, Corpus],
        validation_rows: int,
        token_bytes: np.ndarray,
        **kwargs: Any,
    ):
        from datasets import Dataset

        self._validation, self._validation_rows, self._token_bytes = validation, validation_rows, token_bytes
        # TRL looks at the first row of a `datasets.Dataset`, and wants one where `eval_strategy` asks for evaluations.
        example = Dataset.from_dict({key: [value] for key, value in rows[0].items()})
        super().__init__(*args, train_dataset=example, eval_dataset=example, **kwargs)
        self.train_dataset = rows
        self.add_callback(_Epoch(self.rows_per_step / sum(len(corpus.rows) for corpus in rows.corpora)))

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimizer step over all ranks and accumulation steps."""
        return int(self.get_total_train_batch_size(self.args))

    def _get_train_sampler(self, train_dataset: Any = None) -> Onwards:
        # The Trainer would read and throw away every batch before the one to go on with (`skip_first_batches`).
        return Onwards(
            lambda: self.state.global_step * self.rows_per_step, stop=self.args.max_steps * self.rows_per_step
        )

    def get_train_dataloader(self) -> Any:
        """The Trainer's own, with a random state of its own: starting to read draws a number, and a resumed run starts anew."""
        loader = super().get_train_dataloader()
        getattr(loader, "base_dataloader", loader).generator = torch.Generator()
        return loader

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """`eval_loss` (nats per token) and `eval_bits_per_byte`, exact over all ranks; `eval_NAME_...` of other corpora."""
        metrics: dict[str, float] = {}
        with torch.no_grad(), self.compute_loss_context_manager():
            for name, corpus in self._validation.items():
                found = validation_loss(
                    self.model, self._batches(corpus), self._token_bytes, accelerator=self.accelerator
                )
                metrics |= {key.replace("eval_", f"eval_{name}"): value for key, value in found.metrics().items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _batches(self, corpus: Corpus) -> Iterator[dict[str, torch.Tensor]]:
        """This rank's share; ranks that run out repeat a row without labels, since sharded weights need them all."""
        size, ranks, rank = self.args.per_device_eval_batch_size, self.args.world_size, self.args.process_index
        total = min(len(corpus.rows), self._validation_rows)
        drawn = Permutation(len(corpus.rows), self.args.seed)
        for start in range(0, total, size * ranks):
            batch = []
            for number in range(start + rank * size, start + (rank + 1) * size):
                row = corpus.rows.read(corpus.source, drawn(min(number, total - 1)), self._tokenizer.pad_token_id)
                if number >= total:
                    row["labels"] = np.full_like(row["labels"], -100)
                batch.append(row)
            yield self.data_collator(batch)


class _Epoch(TrainerCallback):
    """Counts epochs by the rows of all corpora: to the Trainer the whole run is one, which a resume begins anew."""

    def __init__(self, a_step: float):
        self._a_step = a_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.epoch = state.global_step * self._a_step

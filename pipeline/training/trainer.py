"""TRL's SFTTrainer with the loss and the optimizers that pretraining and supervised fine-tuning share."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from pipeline.errors import PipelineError
from pipeline.training.optimizer import muon

# Logits of one micro-batch that the dense head may hold, in bytes of float32. TRL's fused head never builds them, at the
# price of computing tile by tile: seen 1.6 times slower on a CPU. Below this size memory is no reason to pay it.
DENSE_HEAD_BYTES = 2**30


class CountsInState:
    """TRL's token count, kept in the trainer's state as GRPOTrainer keeps its own, so that a resumed run goes on with it.

    Stands before a TRL trainer among the bases."""

    state: Any

    @property
    def _total_train_tokens(self) -> int:
        return self.state.num_input_tokens_seen

    @_total_train_tokens.setter
    def _total_train_tokens(self, tokens: int) -> None:
        self.state.num_input_tokens_seen = int(tokens)


class StageTrainer(CountsInState, SFTTrainer):
    """SFTTrainer with `optim: muon`, and with the plain LM head where its logits are small enough to be built.

    The loss is the same to the last digits that float32 sums allow (see tests/test_loss.py): summed over the tokens of all
    accumulated micro-batches of all ranks, divided once.
    """

    model: Any
    args: Any

    def __init__(self, *args: Any, use_muon: bool = False, **kwargs: Any):
        self._use_muon = use_muon
        super().__init__(*args, **kwargs)
        if use_muon and (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            raise PipelineError(
                "optim: muon needs whole matrices, which DeepSpeed flattens and FSDP shards. Use it in one process or with "
                "DDP, or take adamw_torch_fused."
            )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self._use_muon and self.optimizer is None:
            self.optimizer = muon(self.model if model is None else model, self.args)
            return self.optimizer
        return super().create_optimizer(model)

    def _dense_head_fits(self, inputs: dict[str, Any]) -> bool:
        vocabulary = self.model.config.get_text_config().vocab_size
        plain = self.args.loss_type == "nll" and self.label_smoother is None and self.compute_loss_func is None
        return plain and not self.aux_loss_enabled and 4 * inputs["labels"].numel() * vocabulary <= DENSE_HEAD_BYTES

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if return_outputs or not self._dense_head_fits(inputs):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mode = "train" if model.training else "eval"
        labels = inputs["labels"]
        shifted = torch.cat((labels[:, 1:], labels.new_full((labels.shape[0], 1), -100)), dim=1).flatten()
        logits = model(**{k: v for k, v in inputs.items() if k != "labels"}, use_cache=False).logits.flatten(0, 1)
        total = cross_entropy(logits.float(), shifted, ignore_index=-100, reduction="sum")
        predicted = (shifted != -100).sum()
        count = predicted if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=total.device)
        loss = total / count.clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # The count is over all ranks, and DDP averages gradients over ranks.
            loss = loss * self.accelerator.num_processes
        if mode == "train":
            self._count_tokens(inputs)
        return loss

    def _count_tokens(self, inputs: dict[str, Any]) -> None:
        """Tokens that the model read, padding left out, summed over ranks: TRL's `num_tokens`."""
        if "attention_mask" in inputs:
            local = inputs["attention_mask"].sum()
        else:
            local = (inputs["input_ids"] != self._tokenizer.pad_token_id).sum()
        if self.accelerator.num_processes > 1:
            local = self.accelerator.reduce(local, reduction="sum")
        self._total_train_tokens += local.item()
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]

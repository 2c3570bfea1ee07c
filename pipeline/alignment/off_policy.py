"""How far the policy that is trained is from the one that drew the completions: |log p(train) - log p(rollout)| of a token.

TRL 1.16 knows log p(rollout) from vLLM alone. Plain generation and continuous batching run on the weights that are trained,
and yet they can differ from the trainer's forward pass: in precision, in what a cache, a mask or a position does, by
a penalty or dropout (LoRA's is on in training), and by every update since a batch was drawn (`num_iterations`,
`steps_per_generation`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from pipeline.training.rails import OFF_POLICY


class Recorder(LogitsProcessor):
    """Log-probabilities of the tokens that `generate` draws, taken from the logits that it draws from.

    It stands behind penalties and before temperature, top-k and top-p, and applies the temperature itself: TRL's loss
    divides by the temperature and knows nothing of the others.
    """

    def __init__(self, temperature: float):
        self.temperature = temperature
        self.drawn: list[torch.Tensor] = []
        self._before: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.take(input_ids[:, -1])
        logits = scores if self.temperature == 1 else scores / self.temperature
        self._before = logits, logits.logsumexp(-1)
        return scores

    def take(self, tokens: torch.Tensor) -> None:
        """Note the tokens, shape (rows,), that were drawn from the logits seen last."""
        if self._before is not None:
            logits, total = self._before
            self.drawn.append(logits.gather(1, tokens[:, None])[:, 0] - total)


class OffPolicy:
    """Stands before GRPOTrainer or RLOOTrainer among the bases: logs `OFF_POLICY` where TRL does not, of every batch used."""

    # Of TRL's trainers
    model: Any
    model_wrapped: Any
    accelerator: Any
    temperature: float
    use_vllm: bool
    continuous_batching_config: Any
    _metrics: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._sampled: list[list[float]] = []
        self._scored: dict[str, Any] | None = None
        if self.continuous_batching_config is not None:
            self.continuous_batching_config.return_logprobs = True

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        if self.use_vllm:
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]
        with self._recorded() as rows:
            found = super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]
        ids = found[0] if isinstance(found, tuple) else found  # RLOO has no place for log-probabilities
        self._sampled = [row[: len(completion)] for row, completion in zip(rows, ids, strict=True)]
        return (ids, self._sampled) if isinstance(found, tuple) else found

    @contextmanager
    def _recorded(self) -> Iterator[list[list[float]]]:
        """Lets the model note log-probabilities while it generates; the list holds a row a completion afterwards."""
        model: Any = self.accelerator.unwrap_model(self.model_wrapped)
        rows: list[list[float]] = []
        generate, generate_batch = model.generate, model.generate_batch

        def noting(*args: Any, **kwargs: Any) -> Any:
            recorder = Recorder(self.temperature)
            ids = generate(*args, **kwargs, logits_processor=LogitsProcessorList([recorder]))
            recorder.take(ids[:, -1])
            rows.extend(torch.stack(recorder.drawn, 1).tolist())
            return ids

        def noting_batch(*args: Any, **kwargs: Any) -> Any:
            outputs = generate_batch(*args, **kwargs)
            rows.extend(list(output.logprobs) for output in outputs.values())
            return outputs

        model.generate, model.generate_batch = noting, noting_batch
        try:
            yield rows
        finally:
            del model.generate, model.generate_batch  # those of its class again

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._sampled = []
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        if self._sampled and "sampling_per_token_logps" not in batch:
            width, device = batch["completion_ids"].shape[1], batch["completion_ids"].device
            rows = [row + [0.0] * (width - len(row)) for row in self._sampled]
            batch["sampling_per_token_logps"] = torch.tensor(rows, device=device)
        return batch

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self._scored = inputs if not self.use_vllm and "sampling_per_token_logps" in inputs else None
        try:
            return super()._compute_loss(model, inputs)  # type: ignore[misc]
        finally:
            self._scored = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)  # type: ignore[misc]
        if self._scored is not None:  # the first pass of the loss is that of the policy
            inputs, self._scored = self._scored, None
            counts = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).bool()
            apart = (found[0].detach() - inputs["sampling_per_token_logps"]).abs()[counts]
            mean = apart.mean() if apart.numel() else found[0].new_zeros(())
            mode = "train" if self.model.training else "eval"
            self._metrics[mode][OFF_POLICY].append(self.accelerator.gather(mean).mean().item())
        return found

"""A trained reward model as a reward: texts are tokenised as its training pairs were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.training.device import attention_implementation
from pipeline.training.distributed import whole_weights

Messages = list[dict[str, Any]]


class RewardModel:
    """Scores of a sequence classifier with one output, callable as one of TRL's reward functions.

    TRL's own way to score with a reward model differs from how `RewardTrainer` tokenised the pairs: plain text loses the
    EOS that it was trained with, and a completion that the length limit cut off is rendered as if the turn had ended.
    Here plain text gets its EOS, and what did not end is scored as it stands, without an end that the policy never
    wrote, less `unfinished_penalty` (a reward model saw finished answers only, so its score of others means little).

    Args:
        path: A stage directory of kind `reward`, any sequence classifier with one label, or a hub id.
        unfinished_penalty: Taken off the score of a completion without an end token. 0 for none.
        end_token_ids: The policy's end tokens; where given, completions come with their `completion_ids`.
    """

    __name__ = "reward_model"

    def __init__(
        self,
        path: str | Path,
        *,
        device: Any = "cpu",
        unfinished_penalty: float = 0.0,
        end_token_ids: Sequence[int] = (),
        batch_size: int = 64,
    ) -> None:
        try:
            with whole_weights():
                self.tokenizer = AutoTokenizer.from_pretrained(path)
                self.model = AutoModelForSequenceClassification.from_pretrained(
                    path, dtype=torch.float32, attn_implementation=attention_implementation()
                )
        except (OSError, ValueError) as error:
            raise PipelineError(f"{path}: no reward model can be loaded from here: {error}") from error
        if self.model.config.num_labels != 1:
            raise PipelineError(
                f"{path}: a reward model has one output, this classifier {self.model.config.num_labels}."
            )
        check_head(self.model, self.tokenizer, path)
        self.model.to(device).eval().requires_grad_(False)
        self.unfinished_penalty, self.end_token_ids = unfinished_penalty, tuple(end_token_ids)
        self.batch_size = batch_size

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Any = None, **columns: Any
    ) -> list[float]:
        """Scores, one a completion."""
        if completion_ids is None or not self.end_token_ids:
            ended = [True] * len(completions)
        else:
            ended = [bool(ids) and ids[-1] in self.end_token_ids for ids in completion_ids]
        rows = [
            tokenise(self.tokenizer, prompt, completion, ended=end)
            for prompt, completion, end in zip(prompts, completions, ended, strict=True)
        ]
        scores = score_rows(self.model, rows, self.tokenizer.pad_token_id, self.batch_size)
        return [score - self.unfinished_penalty * (not end) for score, end in zip(scores, ended, strict=True)]


def tokenise(tokenizer: Any, prompt: str | Messages, completion: str | Messages, *, ended: bool = True) -> list[int]:
    """The token ids of prompt and completion as `RewardTrainer` (TRL 1.16) makes them of a row of its data."""
    if isinstance(prompt, str):
        assert isinstance(completion, str), "a text prompt has a text completion"
        text = prompt + completion
        if ended and not completion.endswith(tokenizer.eos_token):
            text += tokenizer.eos_token
        return list(tokenizer(text)["input_ids"])
    turns = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else list(completion)
    messages = [*prompt, *turns]
    if ended:
        return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text + str(turns[-1]["content"]), add_special_tokens=False)["input_ids"])


@torch.no_grad()
def score_rows(model: Any, rows: Sequence[Sequence[int]], pad: int, batch_size: int = 64) -> list[float]:
    """Scores of token rows, padded on the right batch by batch, in the order of `rows`."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    scores = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = len(rows[batch[0]])
        if limit is not None and width > limit:
            raise PipelineError(f"A text of {width} tokens exceeds the reward model's context of {limit}.")
        ids = torch.full((len(batch), width), pad, dtype=torch.long)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for i, row in enumerate(batch):
            ids[i, : len(rows[row])] = torch.tensor(rows[row], dtype=torch.long)
            mask[i, : len(rows[row])] = 1
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits[:, 0]
        for row, score in zip(batch, logits.float().tolist(), strict=True):
            scores[row] = score
    model.train(was_training)
    return scores


def check_head(model: Any, tokenizer: Any, path: str | Path) -> None:
    """Refuse a reward model that would look for the end of a text at another padding than its tokenizer writes."""
    found = model.config.get_text_config().pad_token_id
    if found != tokenizer.pad_token_id or found is None:
        raise PipelineError(
            f"{path}: the model takes token {found} for padding, its tokenizer {tokenizer.pad_token_id}: scores would be "
            f"read off padding. Set `pad_token_id` of config.json to the tokenizer's."
        )

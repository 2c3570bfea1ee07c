"""Batched generation with one behaviour for every stage: evaluation, fixed samples, the reward check, the chat."""

from __future__ import annotations

import contextlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)

from pipeline.errors import PipelineError
from pipeline.evaluation.banned import BannedWords


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    `text` keeps every special token but the one that ended it (a skipped `</think>` would move the working into the
    answer); `token_ids` keeps that one too. `ended` says whether an end token came within the limit. `certainty`, where it
    was asked for, is the probability of its tokens together, each taken for the most probable one, but for those with which it
    begins by repeating words of the prompt: a name that is hard to spell says nothing of what is known of its bearer.
    """

    text: str
    token_ids: list[int]
    ended: bool
    certainty: float | None = None


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """The ids that end a completion: the generation config's, the tokenizer's, or both where they differ."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = [] if configured is None else [configured] if isinstance(configured, int) else list(configured)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.append(tokenizer.eos_token_id)
    return ids


def line_end_ids(tokenizer: Any) -> list[int]:
    """The ids of all tokens with a line break in their text: alone, or grown together with a full stop."""
    ids = [[token] for token in range(len(tokenizer))]
    texts = tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)
    return [token for token, text in enumerate(texts) if "\n" in text]


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    n: int = 1,
    stop_token_ids: Sequence[int] | None = None,
    stop_strings: Sequence[str] = (),
    banned_words: Sequence[str] = (),
    certainty: bool = False,
    seed: int | None = None,
    on_text: Callable[[str], None] | None = None,
) -> list[Completion]:
    """Complete each prompt `n` times; prompt i's completions are at [i * n, (i + 1) * n).

    Prompts are rendered text (`render_prompt`), or token ids: no special token is added here. Greedy at temperature 0.
    The model's own generation config is set aside while it runs, so that a repetition penalty or a `top_k` that came with a
    checkpoint does not bend a measurement. Training mode, generation config and the state of torch's random
    generators are as before when it returns. Where a prompt leaves less room in the context than `max_new_tokens`, its
    completion stops where the context does. `stop_strings` cut the text, are not part of it, and do not count as ended.
    `banned_words` are texts that no completion may hold, in any case of letters.
    `on_text` is handed the text of a single prompt's completion as it is written, without special tokens.

    Raises:
        PipelineError: a prompt fills the whole context, or more than one completion is asked for without sampling.
    """
    if n > 1 and temperature <= 0:
        raise PipelineError(
            f"{n} completions a prompt were asked for at temperature {temperature}: they would be equal"
        )
    if on_text is not None and len(prompts) * n != 1:
        raise ValueError(f"on_text follows one completion, found {len(prompts) * n}")
    # Accelerate's own unwrapping imports DeepSpeed wherever it is installed.
    while hasattr(model, "module") and not hasattr(model, "generation_config"):
        model = model.module
    # PEFT's wrapper copies its generation config into the model below on every call, and leaves it there.
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    stops = end_token_ids(model, tokenizer) if stop_token_ids is None else list(stop_token_ids)
    rows = [ids for ids in _tokenize(tokenizer, prompts) for _ in range(n)]
    completions: list[Completion | None] = [None] * len(rows)
    banned = BannedWords(tokenizer, banned_words) if banned_words else None
    watch = _Certainty() if certainty else None
    with _held(model), _random_state(model.device, seed):
        for limit, batch in _batches(rows, max_new_tokens, context_length(model), batch_size):
            sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p} if temperature > 0 else {}
            config = GenerationConfig(
                max_new_tokens=limit, eos_token_id=stops or None, use_cache=True, do_sample=temperature > 0, **sampling
            )
            streamer = _Streamer(tokenizer, on_text) if on_text is not None else None
            chosen = [rows[i] for i in batch]
            outputs = _generate_batch(model, tokenizer, chosen, config, stop_strings, streamer, banned, watch)
            for place, (i, ids) in enumerate(zip(batch, outputs, strict=True)):
                one = _completion(tokenizer, ids, stops, stop_strings)
                if watch:
                    said = _repeated(tokenizer, one.token_ids, chosen[place])
                    one = replace(one, certainty=watch.of(place, said, len(one.token_ids)))
                completions[i] = one
    return [completion for completion in completions if completion is not None]


def render_prompt(
    tokenizer: Any,
    prompt: str | list[dict[str, Any]],
    *,
    chat: bool,
    few_shot: Sequence[dict[str, Any]] = (),
    **template_arguments: Any,
) -> str:
    """The text a model is asked with.

    A chat model gets its own chat template with the generation prompt. A base model gets a page of questions and
    answers that it can continue, `few_shot` rows (`prompt`, `answer`) first, in the layout of GPT-3's closed-book
    evaluations (Brown et al. 2020, appendix G):

        Question: ...
        Answer: ...

        Question: ...
        Answer:
    """
    if not chat:
        return beginning(tokenizer) + page(prompt, few_shot)
    messages = as_messages(prompt)
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **template_arguments)


def as_messages(prompt: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A prompt as messages: a text is the user's."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def page(prompt: str | list[dict[str, Any]], few_shot: Sequence[dict[str, Any]] = ()) -> str:
    """What `render_prompt` asks a base model with, without a beginning-of-sequence token."""
    messages = as_messages(prompt)
    blocks = [f"Question: {row['prompt']}\nAnswer: {row['answer']}\n\n" for row in few_shot]
    for message in messages:
        if message["role"] == "system":
            blocks.insert(0, f"{message['content']}\n\n")
        elif message["role"] == "user":
            blocks.append(f"Question: {message['content']}\nAnswer:")
        else:
            blocks.append(f" {message['content']}\n\n")
    return "".join(blocks)


def beginning(tokenizer: Any) -> str:
    """The beginning-of-sequence token where this tokenizer puts one before a text by itself, else nothing."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return ""
    return tokenizer.bos_token if tokenizer("")["input_ids"][:1] == [bos] else ""


def is_sharded(model: Any) -> bool:
    """Whether this rank holds only a part of the weights (ZeRO-3, FSDP): then every rank has to generate together."""
    return any(hasattr(parameter, "ds_id") or hasattr(parameter, "_local_tensor") for parameter in model.parameters())


def _tokenize(tokenizer: Any, prompts: Sequence[str] | Sequence[list[int]]) -> list[list[int]]:
    if not prompts:
        return []
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if not texts:
        return [list(prompt) for prompt in prompts if not isinstance(prompt, str)]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [list(row) or [start] for row in rows]  # an empty prompt means: write a document from its start


def context_length(model: Any) -> int | None:
    """Positions that the model was made for; None where its config does not say."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    return getattr(config, "max_position_embeddings", None)


def _batches(
    rows: list[list[int]], max_new_tokens: int, context: int | None, batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """(new tokens, indices of rows): rows with the same room in the context, longest first, of nearly equal length."""
    by_limit: dict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        limit = max_new_tokens if context is None else min(max_new_tokens, context - len(row))
        if limit <= 0:
            raise PipelineError(
                f"prompt {i} has {len(row)} tokens, which fills the model's context of {context}: "
                f"shorten the prompt, or take fewer few-shot rows"
            )
        by_limit[limit].append(i)
    for limit, indices in by_limit.items():
        indices.sort(key=lambda i: -len(rows[i]))  # longest first: a batch that does not fit in memory fails at once
        for start in range(0, len(indices), batch_size):
            yield limit, indices[start : start + batch_size]


def _generate_batch(
    model: Any,
    tokenizer: Any,
    rows: list[list[int]],
    config: GenerationConfig,
    stop_strings: Sequence[str],
    streamer: TextStreamer | None,
    banned: BannedWords | None,
    watch: _Certainty | None,
) -> list[list[int]]:
    """The new token ids of each row, padding after the end included."""
    width = max(len(row) for row in rows)
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = config.eos_token_id[0] if config.eos_token_id else 0
    config.pad_token_id = pad
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[i, width - len(row) :] = 1
    criteria = StoppingCriteriaList([_StopStrings(tokenizer, stop_strings, width)] if stop_strings else [])
    if banned is not None:
        banned.prompt_width = width
    if watch is not None:
        watch.steps = []
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
        stopping_criteria=criteria,
        logits_processor=LogitsProcessorList([one for one in (banned, watch) if one is not None]),
        streamer=streamer,
        # transformers would turn this on for every model of a process that has trained under ZeRO-3 or FSDP.
        synced_gpus=is_sharded(model) and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1,
    )
    return output[:, width:].tolist()


class _Certainty(LogitsProcessor):
    """Keeps how probable the most probable token of each row was, step by step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(scores.float().log_softmax(-1).amax(-1))
        return scores

    def of(self, row: int, start: int, end: int) -> float:
        """The probability of a row's tokens from `start` to before `end` together."""
        return math.exp(sum(float(step[row]) for step in self.steps[start:end]))


def _repeated(tokenizer: Any, ids: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens a completion begins with that are whole words of its prompt, in their order."""
    asked, number = tokenizer.decode(prompt, skip_special_tokens=True), 0
    for end in range(1, len(ids) + 1):
        said = tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        if ids[end - 1] in tokenizer.all_special_ids or said not in asked:
            break
        if re.search(rf"(?<!\w){re.escape(said)}(?!\w)", asked):
            number = end
    return number


class _Streamer(TextStreamer):
    """Hands on the text of a completion as soon as whole characters of it are there."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.on_text(text)


class _StopStrings(StoppingCriteria):
    """Ends a row when one of the strings stands in the last tokens that it wrote.

    transformers' own `stop_strings` first builds a table over the whole vocabulary, seconds for a large one; the exact
    cut is made on the finished text, so that looking at the tail is enough here.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str], prompt_width: int) -> None:
        self.tokenizer, self.strings, self.prompt_width = tokenizer, strings, prompt_width
        self.tail = max(len(string.encode()) for string in strings) + 4  # a token is at least one byte of text

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        tail = input_ids[:, max(self.prompt_width, input_ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(tail.tolist(), clean_up_tokenization_spaces=False)
        found = [any(string in text for string in self.strings) for text in texts]
        return torch.tensor(found, dtype=torch.bool, device=input_ids.device)


def _completion(tokenizer: Any, ids: list[int], stops: list[int], stop_strings: Sequence[str]) -> Completion:
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    text = _decode(tokenizer, ids[:end])
    if not any(string in text for string in stop_strings):
        return Completion(text, ids if end is None else ids[: end + 1], ended=end is not None)
    cut = min(text.find(string) for string in stop_strings if string in text)
    written = next(n for n in range(1, len(ids) + 1) if any(s in _decode(tokenizer, ids[:n]) for s in stop_strings))
    return Completion(text[:cut], ids[:written], ended=False)


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@contextlib.contextmanager
def _held(model: Any) -> Iterator[None]:
    """Evaluation mode and a neutral generation config for the time of the block."""
    modules = [module for module in model.modules() if module.training]
    configured = model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = configured
        for module in modules:  # one by one: a frozen part that was in evaluation mode stays there
            module.training = True


@contextlib.contextmanager
def _random_state(device: torch.device, seed: int | None) -> Iterator[None]:
    """Torch's generators of the CPU and of this device are afterwards as they were before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield

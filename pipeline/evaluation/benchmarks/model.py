"""This project's models as lm-evaluation-harness knows them: its scoring of probabilities, our generation and token ids."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from pipeline.evaluation.generation import Completion, beginning, context_length, generate
from pipeline.rewards.answer import visible_text


class Answer(str):
    """What a task judges of a completion, the text outside its think part; `completion` is all of it."""

    completion: Completion

    @classmethod
    def of(cls, completion: Completion) -> Answer:
        answer = cls(visible_text(completion.text) or "")
        answer.completion = completion
        return answer


class BenchmarkModel(HFLM):
    """A loaded model.

    Completions are written by `pipeline.evaluation.generation.generate`: with every end token that the checkpoint knows,
    without what its generation config would bend, think parts told from answers. Special tokens are those of the rendered
    prompt: a chat template's own, or the one beginning-of-sequence token that the tokenizer puts before a page by itself.

    Args:
        chat: Whether prompts are rendered in the tokenizer's chat template.
        accelerator: Of a run in several processes, which share the questions.
    """

    def __init__(self, model: Any, tokenizer: Any, *, chat: bool, batch_size: int, accelerator: Any = None) -> None:
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            add_bos_token=not chat and bool(beginning(tokenizer)),
        )
        if accelerator is not None:
            self.accelerator = accelerator
            self._rank, self._world_size = accelerator.process_index, accelerator.num_processes

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """One `Answer` a request. A prompt that leaves too little room in the context loses its beginning."""
        answers: list[Answer | None] = [None] * len(requests)
        alike: dict[str, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            alike[json.dumps(request.args[1], sort_keys=True)].append(place)
        context = context_length(self.model)
        for places in alike.values():
            settings: Any = normalize_gen_kwargs(requests[places[0]].args[1], self.max_gen_toks)
            # Where the task's limit leaves a prompt less than half of the context, the completion gives way.
            kept = None if context is None else max(context - settings["max_gen_toks"], context // 2)
            rows = [self.tok_encode(requests[place].args[0], left_truncate_len=kept) for place in places]
            completions = generate(
                self.model,
                self.tokenizer,
                rows,
                max_new_tokens=settings["max_gen_toks"],
                batch_size=self.batch_size,
                temperature=settings.get("temperature", 0.0),
                top_k=settings.get("top_k", 0),
                top_p=settings.get("top_p", 1.0),
                stop_strings=[text for text in settings["until"] if text],
                seed=self.rank,
            )
            for place, completion in zip(places, completions, strict=True):
                answers[place] = Answer.of(completion)
        return [answer for answer in answers if answer is not None]

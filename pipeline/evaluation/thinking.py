"""Generation with a budget for thought."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.evaluation.generation import Completion, generate

CLOSE = "\n</think>\n\n"


def generate_within(budget: int) -> Callable[..., list[Completion]]:
    """`generate`, in which thought that is still open after `budget` tokens is closed, and the model goes on to its answer.

    Budget forcing (Muennighoff et al. 2025, arXiv:2501.19393). `max_new_tokens` limits what comes after. A completion's tokens
    hold both parts and the closing between them, which the model did not write but reads.
    """

    def write(model: Any, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int, n: int = 1, **settings: Any):
        thoughts = generate(model, tokenizer, prompts, max_new_tokens=budget, n=n, **settings)
        going = [i for i, one in enumerate(thoughts) if not one.ended and len(one.token_ids) >= budget]
        closing = tokenizer(CLOSE, add_special_tokens=False)["input_ids"]
        read = []
        for i in going:
            prompt, written = prompts[i // n], list(thoughts[i].token_ids)
            if _is_open(prompt + tokenizer.decode(written, skip_special_tokens=False)):
                written += closing
            thoughts[i] = Completion(thoughts[i].text, written, ended=False)
            read.append(tokenizer(prompt, add_special_tokens=False)["input_ids"] + written)
        answers = generate(model, tokenizer, read, max_new_tokens=max_new_tokens, **settings) if read else []
        for i, answer in zip(going, answers, strict=True):
            before = tokenizer.decode(thoughts[i].token_ids, skip_special_tokens=False)
            thoughts[i] = Completion(before + answer.text, thoughts[i].token_ids + answer.token_ids, answer.ended)
        return thoughts

    return write


def _is_open(text: str) -> bool:
    return text.rfind("<think>") > text.rfind("</think>")

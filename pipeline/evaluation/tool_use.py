"""Generation with tools: a model writes until it calls one, is handed the result, and goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.evaluation.generation import Completion, context_length, generate
from pipeline.tools import run_call


@dataclass
class Episode:
    """What followed a prompt: turns of the model, and between them results of the tools that it called.

    Attributes:
        prompt_ids, token_ids: Tokens of the prompt, and all that came after it, in the order in which the model read them.
        mask: For each of `token_ids` whether the model wrote it (1) or a tool's turn holds it (0), as TRL's `tool_mask`.
        messages: The turns, parsed.
        answer: The last turn. Its text is empty where that was a call which nobody answered: it gave no answer.
    """

    prompt_ids: list[int]
    token_ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    answer: Completion = field(default_factory=lambda: Completion("", [], ended=False))


def generate_with_tools(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    tools: Sequence[Callable[..., Any]],
    *,
    max_new_tokens: int,
    rounds: int,
    n: int = 1,
    **settings: Any,
) -> list[Episode]:
    """Complete each prompt `n` times; prompt i's episodes are at [i * n, (i + 1) * n).

    The conversations that wait for a result go on together, in batches, for at most `rounds` rounds of results. Tokens
    are appended, never tokenised anew: the model reads on after exactly what it wrote. What TRL's GRPO trainer does,
    so that a model is asked as it was trained; tests/test_tools.py compares the tokens. An episode ends without an
    answer where its last turn still calls, or a result does not fit into the context.

    Args:
        prompts: Rendered with the tools listed.
        max_new_tokens: Of each turn.
        rounds: Of calls; what the last round's results are followed by is the answer.
        settings: As `pipeline.evaluation.generation.generate` takes them.
    """
    from trl.chat_template_utils import parse_response

    context = context_length(model)
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    episodes = [Episode(list(ids)) for ids in encoded for _ in range(n)]
    going: list[Episode] = []
    for number in range(rounds + 1):
        if number == 0:
            waiting = episodes
            turns = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, n=n, **settings)
        else:
            waiting = [one for one in going if _append_results(one, tokenizer, tools, context)]
            read = [one.prompt_ids + one.token_ids for one in waiting]
            turns = generate(model, tokenizer, read, max_new_tokens=max_new_tokens, **settings)
        going = []
        for one, turn in zip(waiting, turns, strict=True):
            prefix = one.prompt_ids + one.token_ids
            one.token_ids += turn.token_ids
            one.mask += [1] * len(turn.token_ids)
            one.messages.append(parse_response(tokenizer, turn.token_ids, prefix=prefix, tools=list(tools)))
            if one.messages[-1].get("tool_calls"):
                going.append(one)
            else:
                one.answer = turn
        if not going:
            break
    return episodes


def _append_results(episode: Episode, tokenizer: Any, tools: Sequence[Callable[..., Any]], context: int | None) -> bool:
    """Run the calls of an episode's last turn and append their results; False where they do not fit."""
    results = [run_call(tools, call) for call in episode.messages[-1]["tool_calls"]]
    ids = result_ids(tokenizer, results)
    if context is not None and len(episode.prompt_ids) + len(episode.token_ids) + len(ids) >= context:
        return False
    episode.messages += results
    episode.token_ids += ids
    episode.mask += [0] * len(ids)
    return True


def result_ids(tokenizer: Any, results: Sequence[dict[str, Any]]) -> list[int]:
    """Tokens between the stop token of a turn that calls and the next turn of the model, as the template has them.

    Found as TRL finds them: by rendering a conversation with and without the results.
    """
    call = {"type": "function", "function": {"name": results[0]["name"], "arguments": {}}}
    before = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    head, whole = (
        tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=True, return_dict=False)
        for messages, prompt in ((before, False), ([*before, *results], True))
    )
    ends = [i for i, token in enumerate(head) if token == tokenizer.eos_token_id]
    return list(whole[ends[-1] + 1 if ends else len(head) :])

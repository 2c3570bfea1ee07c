"""The same few prompts, answered again and again while a model trains, for people to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from pipeline.evaluation.generation import Completion, beginning, generate, is_sharded, render_prompt
from pipeline.evaluation.tool_use import generate_with_tools

TOOL_ROUNDS = 4


class SamplesCallback(TrainerCallback):
    """Writes `samples.jsonl`: {"step", "prompt", "completion", "ended"}, greedy, at the start, at intervals, at the end.

    Training goes on bit for bit as without it: no random number is drawn, and the model is back in training mode
    afterwards. Where every rank holds the whole weights the first one writes and the others wait at their next
    gradient exchange; where weights are sharded (ZeRO-3, FSDP) all ranks generate the same completions together.

    Args:
        tokenizer: renders the prompts.
        prompts: text or messages. A chat model is asked them in its template; any other model continues the text.
        path: the file. Lines beyond the step at which training resumes are dropped.
        every: optimiser steps between two answers; 0 means at the start and the end only.
        tools: what a chat model may call; its completion then holds the whole episode, results included.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompts: Sequence[str | list[dict[str, Any]]],
        path: str | Path,
        *,
        every: int,
        chat: bool,
        max_new_tokens: int = 64,
        batch_size: int = 32,
        tools: Sequence[Callable[..., Any]] = (),
    ) -> None:
        self.tokenizer, self.prompts, self.path, self.every = tokenizer, list(prompts), Path(path), every
        self.max_new_tokens, self.batch_size, self.tools = max_new_tokens, batch_size, list(tools)
        listed: dict[str, Any] = {"tools": self.tools} if tools else {}
        self.rendered = [
            render_prompt(tokenizer, prompt, chat=True, **listed) if chat else beginning(tokenizer) + as_text(prompt)
            for prompt in self.prompts
        ]
        self.last_step: int | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._drop_after(state.global_step)
        if state.global_step == 0:
            self._write(model, state)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.every and state.global_step % self.every == 0:
            self._write(model, state)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step != self.last_step:
            self._write(model, state)

    def _write(self, model: Any, state: TrainerState) -> None:
        self.last_step = state.global_step
        if not self.rendered or not (state.is_world_process_zero or is_sharded(model)):
            return
        lines = self.lines(model)
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                for line in lines:
                    file.write(json.dumps({"step": state.global_step, **line}, ensure_ascii=False) + "\n")

    def lines(self, model: Any) -> list[dict[str, Any]]:
        """What is written of the model as it is now, a line a completion."""
        _, completions = self.written(model, TOOL_ROUNDS)
        return [
            {"prompt": as_text(prompt), "completion": completion.text, "ended": completion.ended}
            for prompt, completion in zip(self.prompts, completions, strict=True)
        ]

    def written(self, model: Any, tool_rounds: int, **settings: Any) -> tuple[list[Completion], list[Completion]]:
        """The answers, and all that was written up to them: with tools whole episodes, results included."""
        settings |= {"max_new_tokens": self.max_new_tokens, "batch_size": self.batch_size}
        if not self.tools:
            answers = generate(model, self.tokenizer, self.rendered, **settings)
            return answers, answers
        episodes = generate_with_tools(model, self.tokenizer, self.rendered, self.tools, rounds=tool_rounds, **settings)
        return [one.answer for one in episodes], [
            Completion(self.tokenizer.decode(one.token_ids), one.token_ids, one.answer.ended) for one in episodes
        ]

    def _drop_after(self, step: int) -> None:
        """Keep what a resumed run has answered up to `step`; a run that starts anew keeps nothing."""
        if not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one
        kept = [line for line in whole if json.loads(line)["step"] <= step] if step else []
        self.path.write_text("".join(kept), encoding="utf-8")
        self.last_step = json.loads(kept[-1])["step"] if kept else None


def as_text(prompt: str | list[dict[str, Any]]) -> str:
    """What a reader sees of a prompt."""
    return prompt if isinstance(prompt, str) else "\n".join(str(message["content"]) for message in prompt)

"""`pipeline chat`: talk to any checkpoint in the terminal, token by token."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, TextIO

HELP = "/new starts anew, /quit (or the end of the input) leaves"

# What a model writes must not move the cursor or recolour the terminal.
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

_DIM, _PLAIN = "\033[2m", "\033[0m"


def chat(
    path: str | Path,
    *,
    temperature: float = 0.7,
    max_new_tokens: int = 256,
    system: str | None = None,
    think: str = "auto",
    source: TextIO | None = None,
    target: TextIO | None = None,
) -> None:
    """Answer line after line of `source` until it ends.

    A chat model sees the conversation so far in its chat template, a base model goes on with the line. What a model
    thinks is shown dimmed on a terminal; it stays out of the history, as the template of today's reasoning models has
    it (Qwen3).

    Args:
        path: a stage directory, a Hugging Face model directory, or a hub id.
        temperature: 0 for greedy answers.
        max_new_tokens: the limit of an answer.
        system: a system message, for chat models.
        think: whether a chat model thinks first: as it chooses (auto), always (on) or never (off).
        source, target: standard input and output by default; a pipe will do.

    Raises:
        PipelineError: no model can be loaded from there.
    """
    from transformers.utils import logging

    from pipeline.conversation.template import refuse_modeless_template
    from pipeline.errors import PipelineError
    from pipeline.evaluation.loading import load_checkpoint

    source, target = source or sys.stdin, target or sys.stdout
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    loaded = load_checkpoint(path)
    if system and not loaded.chat:
        raise PipelineError(f"--system: {path} is a base model, which continues text and has no system message")
    if think != "auto" and not loaded.chat:
        raise PipelineError(f"--think: {path} is a base model, which continues text and opens no turn")
    if think != "auto":
        refuse_modeless_template(loaded.tokenizer, f"--think {think}: {path}")
    what = "answers in turns" if loaded.chat else "continues what you write"
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    print(f"{path}: {loaded.kind} model of {parameters:,} parameters; it {what}. {HELP}.", file=target, flush=True)
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    while (line := _read(source, target)) is not None:
        if line in ("/quit", "/exit"):
            return
        if line == "/new":
            messages = list(start)
            print("(a new conversation)", file=target, flush=True)
        elif line.startswith("/"):
            print(f"no command {line.split()[0]}: {HELP}", file=target, flush=True)
        elif line.strip():
            messages.append({"role": "user", "content": line})
            try:
                answer = _answer(loaded, messages, len(start), temperature, max_new_tokens, target, think)
                messages.append({"role": "assistant", "content": answer})
            except PipelineError as error:
                print(f"({error})", file=target, flush=True)
                messages.pop()


def _read(source: TextIO, target: TextIO) -> str | None:
    """The next line without its end; None where the input ends."""
    interactive = source.isatty()
    if interactive and source is sys.stdin:
        import readline  # noqa: F401  (gives input() a history and line editing)

        try:
            return input("> ")
        except (EOFError, KeyboardInterrupt):
            print(file=target)
            return None
    line = source.readline()
    if not line:
        return None
    print(f"> {line.rstrip()}", file=target, flush=True)
    return line.rstrip("\n")


def _answer(
    loaded: Any,
    messages: list[dict[str, str]],
    start: int,
    temperature: float,
    max_new_tokens: int,
    target: TextIO,
    think: str,
) -> str:
    """Stream the answer to the last of `messages`; returns what of it belongs into the history.

    Turns after the first `start` messages that no longer fit into the context are dropped, the oldest first.
    """
    from pipeline.evaluation.generation import beginning, context_length, generate, render_prompt
    from pipeline.evaluation.scorers import visible_answer

    if loaded.chat:
        room = (context_length(loaded.model) or 1 << 30) - 1
        mode: dict[str, Any] = {} if think == "auto" else {"think": think}
        rendered, before = render_prompt(loaded.tokenizer, messages, chat=True, **mode), len(messages)
        wanted = room - min(max_new_tokens, room // 2)
        while (
            len(loaded.tokenizer(rendered, add_special_tokens=False)["input_ids"]) > wanted
            and len(messages) > start + 1
        ):
            del messages[start : start + 2]
            rendered = render_prompt(loaded.tokenizer, messages, chat=True, **mode)
        if len(messages) < before:
            print(f"(the oldest {before - len(messages)} messages no longer fit)", file=target, flush=True)
    else:
        rendered = beginning(loaded.tokenizer) + messages[-1]["content"]
    screen = Screen(target, thinking=rendered.rstrip().endswith("<think>"))
    interrupted = False
    opened = "<think>\n" if think == "on" else ""  # by the prompt
    try:
        (completion,) = generate(
            loaded.model,
            loaded.tokenizer,
            [rendered],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            # Torch's state is as before after each call, so every answer needs a seed of its own.
            seed=int.from_bytes(os.urandom(4)) if temperature > 0 else None,
            on_text=screen.write,
        )
    except KeyboardInterrupt:
        interrupted = True
    screen.end()
    if interrupted:
        print("(interrupted)", file=target, flush=True)
        return visible_answer(opened + screen.text)
    if not completion.ended and loaded.chat:
        print(
            f"(cut after {len(completion.token_ids)} tokens; --max_new_tokens sets the limit)", file=target, flush=True
        )
    return visible_answer(opened + completion.text) if loaded.chat else completion.text


class Screen:
    """Writes text as it comes, what stands between think markers dimmed where the target is a terminal."""

    def __init__(self, target: TextIO, thinking: bool = False) -> None:
        self.target, self.thinking, self.text = target, thinking, ""
        self.colour = target.isatty()
        if self.colour and thinking:
            target.write(_DIM)

    def write(self, text: str) -> None:
        self.text += text
        if self.colour:
            text = text.translate(_CONTROLS)  # then the markers: each is a single token, so it arrives whole
            text = text.replace("<think>", f"{_DIM}<think>").replace("</think>", f"</think>{_PLAIN}")
        self.target.write(text)
        self.target.flush()

    def end(self) -> None:
        self.target.write(f"{_PLAIN}\n" if self.colour else "\n")
        self.target.flush()

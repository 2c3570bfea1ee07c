"""The tokens that every tokenizer of this project is born with, and the chat templates that use them.

Special tokens are reserved before the first training step, so that no stage ever has to resize an embedding.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

CONTROL_TOKENS = (END_OF_TEXT, PAD, TURN_START, TURN_END)
"""Tokens with ids 0 to 3. They delimit, so decoding with `skip_special_tokens=True` drops them."""

CONTENT_MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Tokens with ids 4 to 9: single tokens, but text that readers and parsers want to see, so not `special` (as in Qwen3)."""

SPECIAL_TOKENS = CONTROL_TOKENS + CONTENT_MARKERS

TEMPLATE_FOLDER = Path(__file__).parent / "templates"

RESPONSE_TEMPLATE: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}
"""How transformers' `parse_response` reads a turn back into a message (transformers ≥ 5.13, "response parsing").

TRL's tool loop needs it, and its GRPO trainer then hands rewards the parsed message: thinking in `reasoning_content`,
calls in `tool_calls`, the rest in `content`. Equal to the one that TRL gives the Qwen3 template.
"""


def template_names() -> list[str]:
    """Names of the shipped chat templates."""
    return sorted(path.stem for path in TEMPLATE_FOLDER.glob("*.jinja"))


def read_template(name: str = "chatml") -> str:
    """A shipped chat template by name, or any Jinja file by path.

    Raises:
        PipelineError: Neither a shipped template nor a file.
    """
    path = TEMPLATE_FOLDER / f"{name}.jinja"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise PipelineError(
            f"chat template {name}: neither a file nor one of the shipped templates ({', '.join(template_names())})."
        )
    return path.read_text(encoding="utf-8").rstrip("\n")


def set_chat_template(tokenizer: "PreTrainedTokenizerBase", name: str = "chatml") -> None:
    """Give a tokenizer a chat template and the response template that reads its turns back.

    Both survive `save_pretrained`. A ChatML template needs `<|im_start|>` and `<|im_end|>` in the vocabulary.

    Raises:
        PipelineError: A control token of the template is not a single token of the tokenizer.
    """
    template = read_template(name)
    missing = [token for token in (TURN_START, TURN_END) if token in template and not is_one_token(tokenizer, token)]
    if missing:
        raise PipelineError(
            f"chat template {name}: the tokenizer has no single token for {' and '.join(missing)}. "
            f"Build it with `add_special_tokens: true`, or choose a template made for it."
        )
    tokenizer.chat_template = template
    if TURN_END in template:
        tokenizer.response_template = copy.deepcopy(RESPONSE_TEMPLATE)


def is_one_token(tokenizer: "PreTrainedTokenizerBase", token: str) -> bool:
    """Whether `token` is one entry of the vocabulary."""
    return token in tokenizer.get_vocab()


def has_turn_marks(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer has a chat template, so that its model can be asked in turns."""
    return bool(getattr(tokenizer, "chat_template", None))


def refuse_toolless_template(tokenizer: "PreTrainedTokenizerBase", source: str) -> None:
    """Raise `PipelineError` unless the template lists tools, renders calls and results, and its calls can be read back."""
    from trl.chat_template_utils import is_chat_template_prefix_preserving, supports_tool_calling

    function = {"name": "sentinel", "description": "x", "parameters": {"type": "object", "properties": {}}}
    lacks = ""
    if not has_turn_marks(tokenizer) or not supports_tool_calling(tokenizer):
        lacks = "does not render calls of tools and their results"
    elif "sentinel" not in str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], tools=[{"type": "function", "function": function}], tokenize=False
        )
    ):
        lacks = "does not list the tools that are there"
    elif not is_chat_template_prefix_preserving(tokenizer):
        lacks = "renders earlier turns differently once a result follows"
    elif getattr(tokenizer, "response_template", None) is None:
        lacks = "comes without a response_template, so that no call could be read back"
    if lacks:
        raise PipelineError(
            f"{source}: its chat template {lacks}. Name one that knows tools in chat_template_path (shipped: "
            f"{', '.join(template_names())}), or import the model with `chat_template_path`."
        )


def refuse_modeless_template(tokenizer: "PreTrainedTokenizerBase", source: str) -> None:
    """Raise `PipelineError` unless the chat template opens a turn differently under `think: on` and `think: off`."""
    messages = [{"role": "user", "content": "x"}]
    opened = (
        {
            str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, think=mode))
            for mode in ("on", "off")
        }
        if has_turn_marks(tokenizer)
        else set()
    )
    if len(opened) < 2:
        raise PipelineError(
            f"{source}: its chat template knows no `think` mode. Leave out think, or name a template that does in "
            f"chat_template_path (shipped: {', '.join(template_names())})."
        )


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The token that ends an assistant's turn in the tokenizer's chat template: what the model must learn, and generation
    stop at.

    Raises:
        PipelineError: There is no template, or a turn ends in ordinary text.
    """
    if not tokenizer.chat_template:
        raise PipelineError(
            "The tokenizer has no chat template, but the data are conversations. Name one in chat_template_path "
            "(a Jinja file, or a model whose template to take), or start from a tokenizer of the tokenizer stage."
        )
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = [
        token for token in tokenizer.convert_ids_to_tokens(ids) if tokenizer.convert_tokens_to_string([token]).strip()
    ]
    if tokens[-1] not in tokenizer.all_special_tokens and tokens[-1] not in tokenizer.get_added_vocab():
        raise PipelineError(
            f"The chat template ends an assistant's turn in {tokens[-1]!r}, which is no special token: nothing would stop "
            f"generation. Name the stop token in eos_token."
        )
    return tokens[-1]


def set_marked_template(tokenizer: "PreTrainedTokenizerBase", template: str | None = None) -> str | None:
    """Give a tokenizer from elsewhere a chat template that marks assistant turns, without which none would be trained.

    In this order: the template named; the tokenizer's own where it has marks; TRL's marked version of it where TRL knows it
    to the letter; this project's ChatML for tokenizers with ChatML tokens.

    Returns:
        What was done, for the reader; None for a tokenizer without a template (a base model).

    Raises:
        PipelineError: The tokenizer has a template that marks nothing, and none of the ways above applies.
    """
    if template is not None:
        set_chat_template(tokenizer, template)
        return f"chat template {template}"
    if not tokenizer.chat_template:
        return None
    if "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
        return "its own chat template, which marks assistant turns"
    from trl.chat_template_utils import get_training_chat_template

    try:
        marked = get_training_chat_template(tokenizer)
    except ValueError:
        marked = None
    if marked is not None:
        tokenizer.chat_template = marked
        return "TRL's training version of its chat template"
    if is_one_token(tokenizer, TURN_START) and is_one_token(tokenizer, TURN_END):
        set_chat_template(tokenizer)
        return "its chat template marks no assistant turns: ChatML of this project instead (no default system message)"
    raise PipelineError(
        "The chat template marks no assistant turns ({% generation %}), and TRL knows no marked version of it: nothing would "
        "be trained. Name a Jinja file with the marks in chat_template_path."
    )

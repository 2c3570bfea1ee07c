"""Checkpoints from elsewhere, made fit for this pipeline: Hugging Face weights, a padding token, marked assistant turns."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from pipeline.errors import PipelineError

# Names that checkpoints give to a token that pads, or that they reserve and never use; the first one found is taken.
PADDING_NAMES = (
    *("<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>", "<|endoftext|>"),
    *("<|reserved_special_token_0|>", "<|reserved_0|>", "<unused0>", "<|extra_0|>", "<file_sep>"),
)


def load_foreign(source: str, *, revision: str | None = None) -> tuple[Any, PreTrainedTokenizerBase]:
    """Model in float32 and tokenizer of a GGUF file, `package:NAME` (a GGUF in a Python package), a directory or a hub id.

    Raises:
        PipelineError: Nothing can be loaded from there; the message says what was tried.
    """
    folder, gguf = _locate(source)
    options: dict[str, Any] = {"revision": revision} | ({"gguf_file": gguf} if gguf else {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    except ImportError as error:
        raise PipelineError(f"{source}: {error}. GGUF files need `pip install gguf`.") from error
    except (OSError, ValueError, KeyError) as error:
        raise PipelineError(f"{source}: no checkpoint can be loaded from here: {error}") from error
    return (dequantised(model) if gguf else model), tokenizer


def dequantised(model: Any) -> Any:
    """A model read from GGUF as an ordinary float32 one; transformers refuses to save what it believes to be quantised."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    ordinary = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    ordinary.load_state_dict(model.state_dict(), strict=True)
    return ordinary  # GGUF holds no generation config: the one that transformers made up is left behind


def give_padding(tokenizer: PreTrainedTokenizerBase, model: Any, pad_token: str | None, source: str) -> str:
    """A padding token that is not the EOS: the recipe's, the tokenizer's own, or one that the checkpoint never uses.

    Raises:
        PipelineError: None is found, or the one named is not in the vocabulary or is the EOS.
    """
    vocabulary = tokenizer.get_vocab()
    ends = _end_ids(tokenizer, model)
    if pad_token is not None and (pad_token not in vocabulary or vocabulary[pad_token] in ends):
        state = "ends generation" if pad_token in vocabulary else "is not in the vocabulary"
        raise PipelineError(f"pad_token: {pad_token!r} of {source} {state}; name another token.")
    if pad_token is None and tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in ends:
        pad_token = str(tokenizer.pad_token)
    if pad_token is None:
        spare = (name for name in PADDING_NAMES if name in vocabulary and vocabulary[name] not in ends)
        pad_token = next(spare, None)
    if pad_token is None:
        raise PipelineError(
            f"{source}: the tokenizer has no padding token of its own and no token that is known to be unused. Name one of "
            f"its vocabulary in pad_token."
        )
    tokenizer.pad_token = pad_token
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return pad_token


def give_ends(tokenizer: PreTrainedTokenizerBase, model: Any, end_of_turn: str | None) -> None:
    """Make the end of a turn the EOS of tokenizer and model, and let generation stop at whatever ended it before too."""
    before = _end_ids(tokenizer, model)
    if end_of_turn is not None:
        tokenizer.eos_token = end_of_turn
    model.config.eos_token_id = tokenizer.eos_token_id
    ends = [tokenizer.eos_token_id, *sorted(before - {tokenizer.eos_token_id, tokenizer.pad_token_id})]
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]


def _end_ids(tokenizer: PreTrainedTokenizerBase, model: Any) -> set[int]:
    configured = model.generation_config.eos_token_id
    ids = {configured} if isinstance(configured, int) else set(configured or ())
    return ids | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set())


def _locate(source: str) -> tuple[str, str | None]:
    """(directory or hub id, name of a GGUF file in it or None)."""
    if source.startswith("package:"):
        name = source.removeprefix("package:")
        found = importlib.util.find_spec(name)
        folders = list(found.submodule_search_locations or ()) if found else []
        files = sorted(path for folder in folders for path in Path(folder).rglob("*.gguf"))
        if not files:
            state = "holds no .gguf file" if found else "is not installed"
            raise PipelineError(f"{source}: the Python package {name} {state}.")
        return str(files[0].parent), files[0].name
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise PipelineError(f"{source}: no such file.")
        return str(path.parent), path.name
    return (str(path) if path.is_dir() else source), None

"""A checkpoint ready to generate: whole weights on this process's device, its tokenizer, and how it is to be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoint import looks_like_a_path
from pipeline.errors import PipelineError
from pipeline.manifest import MANIFEST, read_manifest


@dataclass(frozen=True)
class Loaded:
    """`kind` is "base" for a model that continues text, anything else for one that answers in its chat template."""

    model: Any
    tokenizer: Any
    kind: str

    @property
    def chat(self) -> bool:
        return self.kind != "base"


def load_checkpoint(path: str | Path, *, kind: str | None = None, device: Any = None) -> Loaded:
    """Load a stage directory, any Hugging Face model directory, or a hub id, for generation.

    Precision follows the device: bfloat16 on a GPU that has it, float32 elsewhere.

    Args:
        kind: how to ask the model; by default what the manifest says, or else "chat" where the tokenizer has a chat
            template, or else "base".
        device: by default the GPU where there is one.

    Raises:
        PipelineError: there is no causal language model with a tokenizer, or a stage that did not complete.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from pipeline.training.distributed import whole_weights

    logging.disable_progress_bar()
    kind = kind or _kind(Path(path))
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()
    try:
        with whole_weights():
            tokenizer = AutoTokenizer.from_pretrained(path)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if half else torch.float32)
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"{path}: no causal language model with a tokenizer can be loaded from here: {error}"
        ) from error
    kind = kind or ("chat" if tokenizer.chat_template else "base")
    if kind != "base" and not tokenizer.chat_template:
        raise PipelineError(
            f"{path}: a model of kind {kind} is asked in its chat template, but its tokenizer has none. "
            f"Ask it as a base model (kind: base), or give the tokenizer a template."
        )
    return Loaded(model.to(device).eval(), tokenizer, kind)


def look_at(path: str | Path) -> None:
    """Raises `PipelineError` where, as far as its config tells, `load_checkpoint` would."""
    from transformers import AutoConfig

    _kind(Path(path))
    if looks_like_a_path(str(path)) and not Path(path).exists():
        raise PipelineError(f"{path}: there is no such folder (from {Path.cwd()}); expected a checkpoint")
    try:
        AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path}: no model's config can be read here, expected a checkpoint: {error}") from error


def _kind(path: Path) -> str | None:
    """The kind that a stage directory declares; None for an imported or a foreign model."""
    if not (path / MANIFEST).is_file():
        return None
    manifest = read_manifest(path)
    if manifest.get("status") != "complete":
        raise PipelineError(
            f"{path}: the {manifest.get('stage')} stage that writes it is not complete: run it to its end"
        )
    kind = manifest.get("kind")
    if kind in ("world", "corpus", "tokenizer", "report", "reward"):
        raise PipelineError(f"{path}: holds a {kind}, expected a model")
    return kind if kind != "imported" else None

"""Defaults that follow the device, and what the device can reach at most."""

import importlib.util
from collections.abc import Iterable
from typing import Any

import torch

# Dense bfloat16 peak in FLOP/s, from the makers' data sheets (without sparsity), by a part of torch's device name.
# The first match counts, so longer names stand before their prefixes.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def on_gpu() -> bool:
    """Whether an NVIDIA GPU is there to be used."""
    return torch.cuda.is_available()


def training_defaults() -> dict[str, Any]:
    """Values of TRL's configs that follow the device; a recipe's own values win.

    On a GPU: bfloat16 autocast over float32 weights where the chip has it, and activation checkpointing as TRL has it.
    On a CPU: float32 and no checkpointing. TRL's default of bfloat16 is ten times slower on CPUs without it, gives the
    same figures to four digits, and so nothing would warn.
    """
    if on_gpu():
        bf16 = torch.cuda.is_bf16_supported()
        return {"bf16": bf16, "tf32": torch.cuda.get_device_capability() >= (8, 0)}
    return {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False}


def attention_implementation() -> str | None:
    """FlashAttention 2 where it is installed and the GPU has bfloat16; elsewhere None: transformers then takes torch's
    scaled dot product attention, or its own plain one for the architectures that lack it."""
    flash = on_gpu() and torch.cuda.is_bf16_supported() and importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if flash else None


def peak_flops() -> float | None:
    """Dense bfloat16 peak of this GPU in FLOP/s, or None where it is not known (all CPUs): then there is no MFU."""
    if not on_gpu():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def size_of(parameters: Iterable[torch.nn.Parameter]) -> int:
    """How many numbers parameters hold, those that ZeRO-3 has sharded away included."""
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)


def flops_per_token(model: Any, context: int) -> float:
    """Training FLOPs a token, forward and backward: 6 N + 12 layers x hidden x context.

    N counts the parameters in matrix products (input embeddings are a look-up, unless tied to the head). Chowdhery et
    al. 2022 (PaLM), appendix B.

    Args:
        model: A transformers causal language model (or a PEFT wrapper of one).
        context: Tokens that a position attends to at most: the row length.
    """
    config = model.config.get_text_config()
    parameters = size_of(model.parameters())
    if not getattr(config, "tie_word_embeddings", False):
        parameters -= size_of([model.get_input_embeddings().weight])
    attention = 12 * getattr(config, "num_hidden_layers", 0) * getattr(config, "hidden_size", 0) * context
    return float(6 * parameters + attention)


def peak_memory() -> int:
    """The most bytes that this process held so far: of the GPU where there is one, else of the machine's memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

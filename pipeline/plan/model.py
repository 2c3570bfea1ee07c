"""Parameters of a model and the memory to train it, from its config and without weights."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.plan.hub import Hub
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

OPTIMIZER_BYTES = (("8bit", 2), ("adafactor", 0), ("sgd", 0), ("lion", 4), ("muon", 4), ("rmsprop", 4), ("adagrad", 4))
"""Bytes of optimizer state a trained parameter, by a part of the optimizer's name; 8 (two moments) for all others."""


@dataclass(frozen=True)
class Model:
    """A model as its config describes it. `parameters` counts tied weights once; `trainable` are an adapter's, if any."""

    config: PretrainedConfig
    parameters: int
    trainable: int

    @property
    def adapted(self) -> bool:
        return self.trainable != self.parameters

    def merged(self) -> Model:
        """The model that a stage hands over: an adapter is merged into it."""
        return dataclasses.replace(self, trainable=self.parameters)


def find_model(
    recipe: Recipe, parent: Model | None, vocabulary: int | None, hub: Hub
) -> tuple[Model | None, str | None]:
    """The model of a training recipe, or None and the reason why it cannot be known yet.

    Args:
        recipe: the recipe.
        parent: the model that an earlier recipe of the folder hands over.
        vocabulary: size of the vocabulary that an earlier tokenizer recipe makes.
        hub: to be asked for a config.

    Raises:
        PipelineError: when no causal language model can be built from the config.
    """
    from transformers import AutoConfig

    name, values = recipe.get("model_name_or_path"), recipe.get("model_config")
    if parent is not None:
        return count(parent.config, recipe), None
    if values:
        size = values.get("vocab_size") or vocabulary or vocabulary_of(recipe.get("tokenizer"))
        if size is None:
            return None, "parameters are known once the tokenizer is there"
        try:
            config = AutoConfig.for_model(**{"vocab_size": size, **values})
        except Exception:  # the complaint about `model_config` says why
            return None, "parameters are unknown: model_config makes no model"
        return count(config, recipe), None
    folder = Path(name or "").expanduser()
    if name and not folder.is_dir():
        folder = hub.config_folder(name, recipe.get("model_revision")) or folder
    if not name or not (folder / "config.json").is_file():
        return None, f"parameters are known once {name} is there" if name else None
    return count(AutoConfig.from_pretrained(folder), recipe), None


def count(config: PretrainedConfig, recipe: Recipe) -> Model:
    """Count the parameters on the meta device: exact for every architecture, and no memory is touched."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            adapter = _adapter(recipe)
            if adapter is None:
                return Model(config, parameters, parameters)
            from peft import get_peft_model

            adapted = get_peft_model(model, adapter).parameters()
            return Model(config, parameters, sum(one.numel() for one in adapted if one.requires_grad))
    except (ValueError, TypeError, ImportError) as error:
        raise PipelineError(f"no causal language model can be built from its config: {error}") from error


def vocabulary_of(folder: str | None) -> int | None:
    """Size of the vocabulary of a tokenizer directory, added tokens included; None where it is not there yet."""
    path = Path(folder or "").expanduser() / "tokenizer.json"
    if not folder or not path.is_file():
        return None
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    added = [token["id"] + 1 for token in tokenizer.get("added_tokens", [])]
    return max([len(tokenizer["model"]["vocab"]), *added])


def memory(recipe: Recipe, model: Model, config_type: type, length: int) -> dict[str, int]:
    """Bytes of one process without sharding: `memory` of weights, gradients and optimizer, and `activations`, roughly.

    Activations follow Korthikanti et al. 2022 (Reducing Activation Recomputation in Large Transformer Models) without
    the attention matrices, which fused attention does not keep: 34 bytes a token, layer and hidden unit at 16 bits, twice
    that in float32, 2 (4) with recomputation; and the logits twice in float32. Generation is not counted.

    Args:
        recipe: the recipe.
        model: its model.
        config_type: TRL's config of the stage.
        length: tokens of a row.
    """
    width: float = BYTES.get(recipe.get("dtype") or "float32", 4)
    trained_width = 4 if model.adapted else width
    if recipe.get("load_in_4bit") or recipe.get("load_in_8bit"):
        width = 0.5 if recipe.get("load_in_4bit") else 1
    optimizer = str(recipe.get("optim", "adamw"))
    state = next((size for part, size in OPTIMIZER_BYTES if part in optimizer), 8)
    copies = 2 if recipe.get("beta") and not model.adapted else 1  # a KL term keeps the reference model
    weights = copies * width * model.parameters + (trained_width * model.trainable if model.adapted else 0)
    tokens = recipe.setting("per_device_train_batch_size", config_type) * length
    return {
        "memory": math.ceil(weights + (trained_width + state) * model.trainable),
        "activations": _activations(recipe, model.config.get_text_config(), tokens),
    }


def _activations(recipe: Recipe, config: Any, tokens: int) -> int:
    from pipeline.training.device import training_defaults

    device = training_defaults()
    half = recipe.get("bf16", device["bf16"]) or recipe.get("fp16", False)
    a_layer = (34 if half else 68) * tokens * config.hidden_size
    if recipe.get("gradient_checkpointing", device.get("gradient_checkpointing", True)):
        layers = a_layer + a_layer // 17 * config.num_hidden_layers
    else:
        layers = a_layer * config.num_hidden_layers
    return layers + 2 * 4 * tokens * config.vocab_size


def _adapter(recipe: Recipe) -> Any:
    """The LoRA config of a recipe, or None without `use_peft`."""
    if not recipe.get("use_peft"):
        return None
    from trl import ModelConfig, get_peft_config

    return get_peft_config(recipe.config(ModelConfig))

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

MOMENTS = {"adafactor": 0, "sgd": 0, "lion": 1, "muon": 1, "rmsprop": 1, "adagrad": 1}
"""Values that an optimizer keeps for each trained parameter, by a part of its name; 2 (Adam's) for all others."""


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


def new_model(recipe: Recipe, vocabulary: int | None) -> tuple[Model | None, str]:
    """The model of `model_config`, or None and why it cannot be known yet.

    Args:
        recipe: the recipe.
        vocabulary: size of the vocabulary that an earlier tokenizer recipe makes.
    """
    from transformers import AutoConfig

    values = recipe.get("model_config")
    size = values.get("vocab_size") or vocabulary or vocabulary_of(recipe.get("tokenizer"))
    if size is None:
        return None, "parameters are known once the tokenizer is there"
    try:
        config = AutoConfig.for_model(**{"vocab_size": size, **values})
    except Exception:  # the complaint about `model_config` says why
        return None, "parameters are unknown: model_config makes no model"
    return count(config, recipe), ""


def find_model(recipe: Recipe, name: str | None, hub: Hub) -> tuple[Model | None, str]:
    """The model in a folder or on the hub, or None and why it cannot be known yet."""
    from transformers import AutoConfig

    folder = Path(name or "").expanduser()
    if name and not folder.is_dir():
        folder = hub.config_folder(name, recipe.get("model_revision") or recipe.get("revision")) or folder
    if not name or not (folder / "config.json").is_file():
        return None, f"parameters are known once {name} is there" if name else ""
    return count(AutoConfig.from_pretrained(folder), recipe), ""


def count(config: PretrainedConfig, recipe: Recipe) -> Model:
    """Count the parameters on the meta device: exact for every architecture, and no memory is touched.

    Raises:
        PipelineError: when the config makes no causal language model.
    """
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
    except Exception as error:  # what an architecture raises on figures that do not go together is its own affair
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
    that in float32; with recomputation 2 a layer and 34 once; and the logits twice in float32. Generation is not counted.

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
    optimizer = recipe.get("optim", "adamw")
    moments = next((number for part, number in MOMENTS.items() if part in optimizer), 2)
    state = moments * (1 if "8bit" in optimizer else trained_width)
    held = any(one.name == "beta" for one in dataclasses.fields(config_type)) and recipe.setting("beta", config_type)
    # a KL term, and preference losses, keep the reference model, unless its log-probabilities were computed before
    copies = 2 if held and not model.adapted and not recipe.get("precompute_ref_log_probs") else 1
    weights = copies * width * model.parameters + (trained_width * model.trainable if model.adapted else 0)
    tokens = recipe.setting("per_device_train_batch_size", config_type) * length
    trained = math.ceil(weights + (trained_width + state) * model.trainable)
    return {"memory": trained} | _activations(recipe, model.config.get_text_config(), tokens)


def precision(recipe: Recipe) -> str:
    """What the activations were estimated for: the recipe's own words, or what this machine would do without them."""
    half, recomputed = _half(recipe), _recomputed(recipe)
    return f"{'16 bits' if half else 'float32'}, activations {'recomputed' if recomputed else 'kept'}"


def _activations(recipe: Recipe, config: Any, tokens: int) -> dict[str, int]:
    hidden, layers, vocabulary = (
        getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size")
    )
    if hidden is None or layers is None or vocabulary is None:  # a few architectures have no such figures
        return {}
    unit = (1 if _half(recipe) else 2) * tokens * hidden
    kept = 2 * unit * layers + 34 * unit if _recomputed(recipe) else 34 * unit * layers
    return {"activations": kept + 2 * 4 * tokens * vocabulary}


def _half(recipe: Recipe) -> bool:
    return bool(recipe.get("bf16", _device_defaults()["bf16"]) or recipe.get("fp16"))


def _recomputed(recipe: Recipe) -> bool:
    # TRL's own default is to recompute; the device's defaults may say otherwise
    return bool(recipe.get("gradient_checkpointing", _device_defaults().get("gradient_checkpointing", True)))


def _device_defaults() -> dict[str, Any]:
    from pipeline.training.device import training_defaults

    return training_defaults()


def _adapter(recipe: Recipe) -> Any:
    """The LoRA config of a recipe, or None without `use_peft`."""
    if not recipe.get("use_peft"):
        return None
    from trl import ModelConfig, get_peft_config

    return get_peft_config(recipe.config(ModelConfig))

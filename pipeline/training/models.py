"""Models and tokenizers into and out of the training stages."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from trl import ModelConfig, get_peft_config, get_quantization_config

from pipeline.errors import PipelineError
from pipeline.training.device import attention_implementation
from pipeline.training.distributed import whole_weights

# The reload check compares logits computed twice from equal weights: only the order of float32 sums may differ.
RELOAD_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def load_tokenizer(path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a stage directory, a Hugging Face model directory, or a hub id.

    Raises:
        PipelineError: There is none, it has no padding token, or its padding token is its EOS: every EOS would then be
            masked as padding and the model would never learn to stop (huggingface/trl#1623).
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path}: no tokenizer can be loaded from here: {error}") from error
    return tokenizer


def check_padding(tokenizer: PreTrainedTokenizerBase, path: str, pad_token: str | None = None) -> None:
    """Give the tokenizer the recipe's `pad_token`, and refuse to train with padding that is no token of its own."""
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise PipelineError(f"pad_token: {pad_token!r} is not in the vocabulary of the tokenizer in {path}.")
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        found = (
            "no padding token" if tokenizer.pad_token_id is None else f"{tokenizer.pad_token!r} as padding and as EOS"
        )
        spare = [token for token in tokenizer.all_special_tokens if token != tokenizer.eos_token]
        raise PipelineError(
            f"{path}: the tokenizer has {found}. Padding is masked out of the loss, so the model would never learn to "
            f"stop. Set `pad_token` in the recipe to another token of the vocabulary"
            + (f" (it has {', '.join(repr(token) for token in spare[:5])})." if spare else ".")
            + " `pipeline import` gives an imported checkpoint one."
        )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: Any, path: str) -> None:
    """Refuse a tokenizer whose ids reach beyond the embedding; a smaller one (padded embedding) is fine."""
    rows = model.get_input_embeddings().weight.shape[0]
    if rows == 0:  # A parameter that ZeRO-3 has sharded shows no rows; the config still does.
        rows = model.config.get_text_config().vocab_size
    if len(tokenizer) > rows:
        raise PipelineError(
            f"The tokenizer has {len(tokenizer)} tokens, but the embedding of {path} only {rows} rows. Name the tokenizer "
            f"that the model was trained with, or a model with `vocab_size` of at least {len(tokenizer)}."
        )


def check_context(model: PreTrainedModel, length: int | None, recipe: Any) -> None:
    """Refuse rows longer than the positions that the model knows."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and length is not None and length > context:
        raise PipelineError(
            f"{recipe.path}: rows of {length} tokens, but the model has max_position_embeddings {context}. Lower max_length "
            f"(or max_completion_length), or take a model with a longer context."
        )


def model_arguments(recipe: Any) -> ModelConfig:
    """TRL's model arguments of a recipe."""
    return recipe.config(ModelConfig)


def source_of(recipe: Any) -> str:
    """The checkpoint that the recipe starts from. Raises `PipelineError` where it names none."""
    path = recipe.get("model_name_or_path")
    if not path:
        raise PipelineError(f"{recipe.path}: model_name_or_path is missing: expected the model to train.")
    return str(path)


def load_model(recipe: Any, path: str | None = None, *, scores: bool = False) -> PreTrainedModel:
    """The causal language model that the recipe names, or the one in `path`, in float32 unless the recipe says otherwise,
    quantised when it says so.

    With `scores` its head is replaced by one with a single output, drawn from torch's generator: a reward model to be.

    Build the trainer's arguments first: DeepSpeed ZeRO-3 shards the weights while they load, and learns of that there.
    """
    arguments = model_arguments(recipe)
    path = path or source_of(recipe)
    options: dict[str, Any] = {
        "revision": arguments.model_revision,
        "trust_remote_code": recipe.get("trust_remote_code", False),
        "attn_implementation": arguments.attn_implementation or attention_implementation(),
        "dtype": recipe.get("dtype", "float32"),
    }
    quantization = get_quantization_config(arguments)
    if quantization is not None:
        options["quantization_config"] = quantization
    options |= dict(recipe.get("model_init_kwargs") or {})
    try:
        if scores:
            from trl.trainer.reward_trainer import suppress_seqcls_warning

            with suppress_seqcls_warning():  # the head is new on purpose
                return AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, **options)
        return AutoModelForCausalLM.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path}: no causal language model can be loaded from here: {error}") from error


def new_model(model_config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, *, attention: str | None = None) -> Any:
    """A causal language model with random weights in float32.

    Args:
        model_config: Values of a transformers config; `model_type` names the architecture. Vocabulary size and token ids
            come from the tokenizer, unless a larger `vocab_size` (an embedding padded for speed) is given.
        tokenizer: The tokenizer that the model will be trained with.
        attention: Name of an attention implementation; follows the device by default.
    """
    values = {"vocab_size": len(tokenizer), **model_config}
    config = AutoConfig.for_model(
        **values,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention or attention_implementation()
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def peft_config(recipe: Any, *, scores: bool = False) -> Any:
    """The LoRA config of a recipe, or None without `use_peft`. With `scores` the new head is trained and saved whole."""
    arguments = model_arguments(recipe)
    if scores:
        arguments.lora_task_type = "SEQ_CLS"
    return get_peft_config(arguments)


def probe_tokens(vocabulary: int, length: int = 48) -> torch.Tensor:
    """Fixed token ids, shape (1, length), on which a model is compared before saving and after loading."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (1, length), generator=generator)


@torch.no_grad()
def probe_logits(model: Any, vocabulary: int) -> torch.Tensor:
    """Logits on the probe tokens in float32 on the CPU. All ranks must take part.

    Returns:
        Of a language model shape (1, length, vocabulary); of a reward model the scores of the probe whole and of half of it
        behind padding, shape (2, 1): they differ too where the place of the last token is lost.
    """
    was_training = model.training
    model.eval()
    device = next(parameter.device for parameter in model.parameters())
    tokens = probe_tokens(vocabulary)
    inputs = {"input_ids": tokens}
    if is_classifier(model):
        half = tokens.clone()
        half[:, tokens.shape[1] // 2 :] = model.config.get_text_config().pad_token_id
        inputs = {
            "input_ids": torch.cat((tokens, half)),
            "attention_mask": torch.ones(2, tokens.shape[1], dtype=torch.long),
        }
        inputs["attention_mask"][1, tokens.shape[1] // 2 :] = 0
    logits = model(**{name: tensor.to(device) for name, tensor in inputs.items()}, use_cache=False).logits
    model.train(was_training)
    return logits.float().cpu()


def is_classifier(model: Any) -> bool:
    """Whether a model (or PEFT's wrapper of one) is a sequence classifier, as reward models are."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(model).__name__.endswith("ForSequenceClassification")


def merge_adapter(base: str, adapter: Path, recipe: Any, *, scores: bool = False) -> PreTrainedModel:
    """A LoRA adapter folded into its base model. A base trained in 4 or 8 bits is loaded in its own precision for it."""
    from peft import PeftModel

    dtype = recipe.get("dtype", "float32")
    with whole_weights():
        if scores:
            model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=dtype)
        else:
            model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def check_reload(
    directory: Path, expected: torch.Tensor, dtype: torch.dtype, vocabulary: int, *, tolerance_of: torch.dtype
) -> float:
    """Load a saved checkpoint into a fresh model, and compare its logits with those of the model that was saved.

    Args:
        directory: Where config, weights and tokenizer were saved.
        expected: `probe_logits` of the model in memory.
        dtype: Precision of the weights in memory.
        vocabulary: Number of token ids to draw the probe from.
        tolerance_of: Precision of the computation (bfloat16 under autocast), which bounds the difference allowed.

    Returns:
        The largest absolute difference.

    Raises:
        PipelineError: The logits differ: the save lost or changed weights (huggingface/peft#2892 and its like).
    """
    config = AutoConfig.from_pretrained(directory)
    scores = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    auto_class = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    with whole_weights():
        model = auto_class.from_pretrained(directory, dtype=dtype)
    found = probe_logits(model, vocabulary)
    difference = (found - expected).abs().max().item() if found.shape == expected.shape else float("inf")
    scale = max(1.0, expected.abs().max().item())
    if not difference <= RELOAD_TOLERANCE.get(tolerance_of, 1e-4) * scale:
        raise PipelineError(
            f"{directory}: the saved {config.model_type} checkpoint gives other logits than the trained model "
            f"(largest difference {difference:.3g}). The weights were not saved whole; the training state is kept, so "
            f"that the same command tries again."
        )
    AutoTokenizer.from_pretrained(directory)
    return difference

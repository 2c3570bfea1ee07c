"""Values that are right one by one and wrong together, found before anything is trained."""

from __future__ import annotations

import copy
import dataclasses
import re
import warnings
from collections.abc import Collection, Iterator
from typing import Any

from pipeline.recipe.source import nearest

ROPE = {"rope_theta", "rope_scaling", "partial_rotary_factor"}
"""Keys that transformers still moves into `rope_parameters`."""

Finding = tuple[str, str]
"""The key that a complaint is filed under, and its text."""

ADDS_UP_TOKENS = ("bnpo", "dr_grpo", "dapo", "cispo")
"""GRPO's losses that are sums over tokens, not means of completions' means."""

SAME_AT_RATIO_ONE = {"sapo": "grpo", "cispo": "dapo", "vespo": "dapo"}
"""GRPO's losses that have the gradient of another one where all ratios of policies are 1 (tests/test_loss.py)."""

HARDWARE = {
    # A recipe for a GPU is planned on a laptop: what asks for a device is left to the machine that trains
    *("bf16", "fp16", "tf32", "bf16_full_eval", "fp16_full_eval", "use_cpu", "torch_compile"),
    *("torch_compile_backend", "torch_compile_mode", "deepspeed", "fsdp", "fsdp_config", "ddp_backend"),
}


def built(config_type: type, values: dict[str, Any], world_size: int) -> Iterator[Finding]:
    """What the dataclass itself refuses when it is built from `values`.

    It is built without touching a device: transformers' own construction starts the process group and remembers the
    device for the whole process, which a plan must not do and a training run must not do twice.
    """
    import torch
    from transformers import TrainingArguments

    bystander = type(
        config_type.__name__, (config_type,), {"device": torch.device("cpu"), "n_gpu": 0, "world_size": world_size}
    )
    # DatasetMixtureConfig replaces the mappings in the list that it is given
    kept = copy.deepcopy({key: value for key, value in values.items() if key not in HARDWARE})
    if issubclass(config_type, TrainingArguments):
        kept |= {"use_cpu": True, "bf16": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the trainer's own construction gives the same warnings again
            bystander(**kept)
    except Exception as error:  # whatever a dataclass raises here is about the values it was given
        text = str(error)
        named = [key for key in values if re.search(rf"\b{key}\b", text)]
        yield (named[0] if named else ""), text


def precision(values: dict[str, Any]) -> Iterator[Finding]:
    """`bf16` and `fp16` exclude each other; `built` leaves both to the machine that trains."""
    for suffix in ("", "_full_eval"):
        if values.get(f"bf16{suffix}") and values.get(f"fp16{suffix}"):
            yield f"fp16{suffix}", f"true together with bf16{suffix}: true; choose one of them"


def new_model(values: dict[str, Any]) -> Iterator[Finding]:
    """A `model_config` against the config class of its architecture, which swallows keys that it does not know."""
    from transformers import CONFIG_MAPPING, AutoConfig

    name = values.get("model_type")
    if not isinstance(name, str) or name not in CONFIG_MAPPING:
        hint = nearest(str(name), CONFIG_MAPPING.keys())
        found = "is missing" if name is None else f"{name!r} is no architecture of transformers"
        yield "model_config.model_type", f"{found}: expected llama, qwen3, gpt2 or the like{hint}"
        return
    config_type = CONFIG_MAPPING[name]
    known = {"model_type", "dtype", *ROPE, *config_type.attribute_map}
    known |= {field.name for field in dataclasses.fields(config_type) if field.init}
    unknown = [key for key in values if key not in known]
    for key in unknown:
        yield f"model_config.{key}", f"unknown key of {config_type.__name__}{nearest(key, known)}"
    try:
        AutoConfig.for_model(**copy.deepcopy({key: value for key, value in values.items() if key not in unknown}))
    except Exception as error:  # transformers validates its configs with errors of several libraries
        yield "model_config", " ".join(str(error).split())


def generation(values: dict[str, Any], defaults: dict[str, Any], world_size: int) -> Iterator[Finding]:
    """GRPO's groups: every generation batch holds whole groups."""
    both = defaults | values
    if both["generation_batch_size"] is not None and both["steps_per_generation"] is not None:
        yield "generation_batch_size", "set together with steps_per_generation; leave one of them out"
        return
    per_device, group = both["per_device_train_batch_size"], both["num_generations"]
    one_step = per_device * world_size
    if both["generation_batch_size"] is not None:
        batch = both["generation_batch_size"]
        if batch % one_step:
            yield (
                "generation_batch_size",
                f"{batch} is not a multiple of per_device_train_batch_size x processes = {per_device} x {world_size}; "
                f"the nearest is {max(1, round(batch / one_step)) * one_step}",
            )
            return
        steps = batch // one_step
    else:
        steps = both["steps_per_generation"] or both["gradient_accumulation_steps"]
        batch = one_step * steps
    if batch % group:
        sizes = f"per_device_train_batch_size {per_device} x processes {world_size} x steps_per_generation {steps}"
        fitting = _next_fitting(per_device, world_size * steps, group)
        divisors = [size for size in range(2, batch + 1) if batch % size == 0]
        advice = [f"num_generations: {min(divisors, key=lambda size: (abs(size - group), size))}"] if divisors else []
        advice.append(f"per_device_train_batch_size: {fitting}")
        advice.append(f"{_next_fitting(world_size, per_device * steps, group)} processes")
        yield (
            "num_generations",
            f"{group} does not divide the generation batch of {batch} completions ({sizes}); "
            f"nearest that work: {' or '.join(advice)}",
        )
    yield from _evaluation_groups(both, world_size)


def policy_loss(both: dict[str, Any]) -> Iterator[Finding]:
    """Variants of GRPO's loss that are something else than they are called with the other keys as they stand."""
    loss, level = both["loss_type"], both["importance_sampling_level"]
    if level == "sequence" and loss in ADDS_UP_TOKENS:
        yield (
            "importance_sampling_level",
            f"sequence with loss_type {loss}, which adds up tokens, so that a completion weighs by its length; "
            "GSPO is loss_type: grpo with it",
        )
    if loss == "luspo" and level != "sequence":
        yield "loss_type", "luspo is made of ratios of whole completions: set importance_sampling_level: sequence"
    if loss == "vespo" and level == "sequence":
        yield "loss_type", "vespo makes ratios of whole completions itself: leave out importance_sampling_level"
    if loss == "cispo" and (both["epsilon_high"] is None or both["epsilon_high"] < 1):
        yield (
            "epsilon_high",
            f"found {both['epsilon_high']}: with loss_type cispo it is the largest ratio itself, not its distance from 1, and "
            f"below 1 (epsilon's {both['epsilon']} where it is missing) it scales every step down; ScaleRL takes 5.0",
        )


def idle_keys(both: dict[str, Any], given: Collection[str], world_size: int = 1) -> list[str]:
    """What a recipe asks for in vain where every completion is used in one optimizer step only: the policy is then still
    the one that sampled it, all ratios are 1, and variants of the loss differ by how they add up tokens, if at all."""
    per_step, accumulation = both["per_device_train_batch_size"] * world_size, both["gradient_accumulation_steps"]
    batch = both["generation_batch_size"]
    steps = both["steps_per_generation"] or (batch // per_step if batch else accumulation)
    if accumulation % (steps * both["num_iterations"]):
        return []
    loss = both.get("loss_type")
    idle = [
        key for key in ("epsilon", "epsilon_high", "delta") if key in given and (loss, key) != ("cispo", "epsilon_high")
    ]
    if both.get("importance_sampling_level") == "sequence" and loss != "luspo":
        idle.append("importance_sampling_level")
    if loss in SAME_AT_RATIO_ONE:
        idle.append(f"loss_type: {loss} (the same as {SAME_AT_RATIO_ONE[loss]})")
    return idle


def _evaluation_groups(both: dict[str, Any], world_size: int) -> Iterator[Finding]:
    if both["eval_strategy"] == "no":
        return
    key = "num_generations_eval" if both["num_generations_eval"] else "num_generations"
    per_device, group = both["per_device_eval_batch_size"], both[key]
    if per_device * world_size % group:
        fitting = _next_fitting(per_device, world_size, group)
        yield (
            "per_device_eval_batch_size",
            f"{per_device} x processes {world_size} is not a multiple of {key} {group}; "
            f"nearest that works: {fitting}, or set num_generations_eval",
        )


def _next_fitting(size: int, times: int, group: int) -> int:
    """The smallest batch of at least `size` of which `times` hold whole groups."""
    return next(fitting for fitting in range(size, size + group) if fitting * times % group == 0)

"""Values that are right one by one and wrong together, found before anything is trained."""

from __future__ import annotations

import copy
import dataclasses
import re
import warnings
from collections.abc import Iterator
from typing import Any

from pipeline.recipe.source import nearest

ROPE = {"rope_theta", "rope_scaling", "partial_rotary_factor"}
"""Keys that transformers still moves into `rope_parameters`."""

Finding = tuple[str, str]
"""The key that a complaint is filed under, and its text."""

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
    """GRPO's groups: every generation batch holds whole groups, and a checkpoint falls between two of them."""
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
    if "save_steps" in values and both["save_steps"] >= 1:
        yield from _save_boundary(both, steps)


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


def _save_boundary(both: dict[str, Any], steps: int) -> Iterator[Finding]:
    """TRL saves neither the buffered completions nor its place among them: only between two generations is a resumed
    run the uninterrupted one."""
    if both["save_strategy"] != "steps":
        return
    save, accumulation = int(both["save_steps"]), both["gradient_accumulation_steps"]
    period = steps * both["num_iterations"]
    if save * accumulation % period:
        fitting = min(
            (size for size in range(1, save + period + 1) if size * accumulation % period == 0),
            key=lambda size: (abs(size - save), size),
        )
        yield (
            "save_steps",
            f"{save} falls inside a generation phase, from where a run cannot be resumed exactly (steps_per_generation "
            f"{steps} x num_iterations {both['num_iterations']} / gradient_accumulation_steps {accumulation}); "
            f"nearest that works: {fitting}",
        )


def _next_fitting(size: int, times: int, group: int) -> int:
    """The smallest batch of at least `size` of which `times` hold whole groups."""
    return next(fitting for fitting in range(size, size + group) if fitting * times % group == 0)

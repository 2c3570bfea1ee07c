"""One training run from its trainer to its hand-over: resume, train, save, reload, publish."""

import gc
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState
from transformers.utils import logging as transformers_logging

from pipeline.checkpoint import StageDirectory
from pipeline.errors import PipelineError
from pipeline.training import distributed
from pipeline.training.callbacks import MetricsFile, Progress, Rails, StopOnNonFinite, quiet
from pipeline.training.device import peak_memory, training_defaults
from pipeline.training.models import check_reload, is_classifier, merge_adapter, probe_logits
from pipeline.training.rails import stopped_by
from pipeline.training.resume import newest_checkpoint
from pipeline.training.tracking import tracking_defaults


def config(recipe: Any, config_type: type, directory: StageDirectory, **defaults: Any) -> Any:
    """A TRL config: the recipe's own values over `defaults` over what follows from the device and this project.

    Resumable state goes to `checkpoints/` in the stage's directory. Build it before the model: DeepSpeed learns from it how
    to load weights.
    """
    quiet_libraries()
    common = {"save_total_limit": 2, "logging_first_step": True, "report_to": "none", **training_defaults()}
    common |= tracking_defaults(recipe, directory.path)
    values = recipe.config_values(config_type, **common, **defaults)
    fixed = {
        "output_dir": str(directory.checkpoints),
        "disable_tqdm": True,
        "include_num_input_tokens_seen": "no",  # the trainers count them, and the Trainer would count them again
    }
    return config_type(**{**values, **fixed})


def quiet_libraries() -> None:
    """Take away progress bars and notices that say nothing about the run; warnings about it stay."""
    from datasets.utils import logging as datasets_logging

    os.environ.setdefault("TQDM_DISABLE", "1")  # TRL's own bar over precomputed log-probabilities
    transformers_logging.disable_progress_bar()
    datasets_logging.disable_progress_bar()
    for name in ("bitsandbytes", "deepspeed", "DeepSpeed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # what they log, they raise too
    # DeepSpeed's calls of names that torch 2.13 has new ones for: some at every step
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


def say(text: str) -> None:
    """Print once, from the main process."""
    if distributed.is_main():
        print(text, flush=True)


def check_launch(trainer: Any) -> None:
    """Stop where this run is not the one that the launcher was asked for."""
    accelerator = trainer.accelerator
    distributed.check(distributed.asked_for(), accelerator.num_processes, accelerator.distributed_type)


def train(
    trainer: Any,
    directory: StageDirectory,
    recipe: Any,
    *,
    context: int,
    base: str | None = None,
    tokenizer: Any = None,
    facts: Any = None,
    rails: Rails | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Train from the newest whole checkpoint, if any, to the end, and publish the model.

    Args:
        trainer: A TRL trainer, its `args.output_dir` being `directory.checkpoints`.
        directory: The stage's directory.
        recipe: The recipe.
        context: Tokens of a row, for the FLOPs.
        base: Where the weights came from; needed to merge a LoRA adapter.
        tokenizer: What to hand over, where it is not the one that the trainer works with.
        facts: More entries for the manifest.
        rails: What may end the run before its last step.
        check: Called with the folder of the saved model before it is published; raises where it is not the trained one.

    Raises:
        PipelineError: Nothing was trained, the loss is no number, a rail stopped the run, or the saved model is not the
            trained one.
    """
    transformers_logging.set_verbosity_error()
    quiet(trainer)
    world_size = trainer.accelerator.num_processes
    metrics = MetricsFile(directory.path / "metrics.jsonl", trainer.model, context, world_size)
    for callback in (StopOnNonFinite(), metrics, Progress(recipe.stage, metrics), *([rails] if rails else [])):
        trainer.add_callback(callback)
    resume = newest_checkpoint(directory.checkpoints, world_size) if directory.checkpoints.is_dir() else None
    directory.note_progress()
    make_no_step_beyond_the_last(trainer)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if trainer.state.global_step == 0:
        raise PipelineError(
            f"{recipe.path}: no optimizer step was made: the training data is smaller than one batch, or every row was "
            f"dropped. Give more rows, or a smaller batch."
        )
    facts = dict(facts or {})
    if rails and rails.tripped:
        if rails.action == "stop":
            raise stopped_by(rails.tripped, recipe.stage)
        facts["rolled_back"] = _roll_back(trainer, rails, recipe.stage)
    totals = metrics.totals
    final = {key: value for key, value in metrics.last_logs.items() if key != "num_tokens"}
    final |= _last_evaluation(trainer)
    hand_over(
        trainer,
        directory,
        recipe,
        base=base,
        tokenizer=tokenizer or trainer.processing_class,
        metrics=final,
        check=check,
        steps=trainer.state.global_step,
        tokens=int(totals["tokens"]),
        tokens_per_second=round(totals["tokens"] / totals["seconds"], 1) if totals["seconds"] else None,
        flops=totals["flops"],
        peak_memory=peak_memory(),
        world_size=world_size,
        **facts,
    )


def _roll_back(trainer: Any, rails: Rails, stage: str) -> dict[str, Any]:
    """Put the weights of the newest checkpoint from before the rail saw anything wrong back into the model."""
    assert rails.tripped is not None
    last = trainer.state.global_step
    good = newest_checkpoint(Path(trainer.args.output_dir), trainer.accelerator.num_processes, up_to=rails.good_step())
    if good is None:
        raise PipelineError(
            f"{stopped_by(rails.tripped, stage)} There is no checkpoint from step {rails.good_step()} or before to roll back "
            f"to: lower save_steps, or raise save_total_limit."
        )
    trainer._load_from_checkpoint(str(good))
    trainer.state.global_step = TrainerState.load_from_json(str(good / "trainer_state.json")).global_step
    say(f"{stage}  rolled back from step {last} to {good.name}")
    return {"rail": rails.tripped["rail"], "from_step": last, "to_step": trainer.state.global_step}


def make_no_step_beyond_the_last(trainer: Any) -> None:
    """Let a run that was stopped after its last step, but before its hand-over, make no further one when it goes on.

    The Trainer looks whether it is done only after a step (transformers 5.17).
    """
    read = trainer.get_batch_samples

    def read_unless_done(*args: Any) -> Any:
        if trainer.state.global_step >= trainer.state.max_steps:
            trainer.control.should_training_stop = True
            return [], None
        return read(*args)

    trainer.get_batch_samples = read_unless_done


def hand_over(
    trainer: Any,
    directory: StageDirectory,
    recipe: Any,
    *,
    base: str | None,
    tokenizer: Any,
    metrics: dict[str, Any],
    check: Callable[[Path], None] | None = None,
    **facts: Any,
) -> None:
    """Save aside, load again in a fresh model, compare logits, publish. All ranks must take part.

    A LoRA adapter is merged into its base, so that the next stage reads an ordinary checkpoint (a reference model or a
    vocabulary that does not match the adapter is how hand-overs fail: huggingface/trl#1193, hiyouga/LLaMA-Factory#8974);
    the adapter itself is kept in `adapter/`.
    """
    accelerator = trainer.accelerator
    vocabulary = len(tokenizer)
    peft = hasattr(trainer.model, "peft_config")
    quantised = any(getattr(trainer.model, f"is_loaded_in_{bits}bit", False) for bits in (4, 8))
    expected = None if quantised else probe_logits(trainer.model, vocabulary)
    aside = directory.aside
    accelerator.wait_for_everyone()
    save_whole(trainer, aside / "adapter" if peft else aside)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        in_memory = next(trainer.model.parameters()).dtype
        compared = torch.bfloat16 if trainer.args.bf16 else torch.float16 if trainer.args.fp16 else in_memory
        if peft:
            assert base is not None
            classifier = is_classifier(trainer.model)
            merged = merge_adapter(base, aside / "adapter", recipe, scores=classifier)
            if not classifier:
                merged.generation_config = trainer.model.generation_config
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                setattr(merged.config.get_text_config(), name, getattr(trainer.model.config.get_text_config(), name))
            merged.save_pretrained(aside)
            in_memory = merged.dtype
            if expected is None:  # quantisation error stands between the base and its merge, so that is its own measure
                expected, compared = probe_logits(merged, vocabulary), in_memory
        tokenizer.save_pretrained(aside)
        for leftover in aside.rglob("training_args.bin"):
            leftover.unlink()
        gc.collect()
        assert expected is not None
        check_reload(aside, expected, in_memory, vocabulary, tolerance_of=compared)
        if check is not None:
            check(aside)
        directory.publish(metrics, **facts)
    accelerator.wait_for_everyone()
    directory.complete = True


def save_whole(trainer: Any, folder: Path) -> None:
    """`trainer.save_model` with all weights in one place: under FSDP with sharded checkpoints, the default of FSDP2, it would
    write nothing, without a word (transformers 5.17). All ranks must take part."""
    plugin = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    if plugin is None:
        trainer.save_model(str(folder))
        return
    sharded = plugin.state_dict_type
    plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(folder))
    plugin.set_state_dict_type(sharded)


def _last_evaluation(trainer: Any) -> dict[str, float]:
    """The last `eval_` figures that were logged."""
    logs: dict[str, float] = {}
    for entry in trainer.state.log_history:
        logs |= {key: value for key, value in entry.items() if key.startswith("eval_") and isinstance(value, float)}
    return {key: value for key, value in logs.items() if not key.endswith(("runtime", "per_second"))}

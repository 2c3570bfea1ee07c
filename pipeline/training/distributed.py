"""What the launcher was asked for against what the processes got.

Some configurations start fewer processes than they name, or processes that never synchronise, without a word:
`distributed_type: MULTI_CPU` without mpirun starts one process; FSDP on a CPU becomes plain DDP; several processes without
`use_cpu` train apart and write to one directory. A run that is not what was asked for must not start.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env

from pipeline.errors import PipelineError


def is_main() -> bool:
    """Whether this process is the one that writes; known before any process group exists."""
    return int(os.environ.get("RANK", "0")) == 0


def processes() -> PartialState:
    """The processes of this run and the device of this one, on the CPU where there is no GPU or the launcher says so."""
    return PartialState(cpu=not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"))


def barrier() -> Callable[[], None]:
    """A barrier over all processes of this run; does nothing in a single process."""
    return processes().wait_for_everyone


def leave() -> None:
    """End the process group, after the last collective of a run that succeeded.

    A process that exits inside a group can be aborted by gloo's threads (SIGABRT, "terminate called without an active
    exception": pytorch#190489), and NCCL warns. Not for a failed run: the others may be waiting in a collective, and so
    would this one.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def whole_weights() -> Iterator[None]:
    """Load a model as one process would, also in one that has just trained under ZeRO-3 or FSDP.

    There `from_pretrained` would hand each rank a shard, or the weights to the first rank only.
    """
    from transformers.integrations import deepspeed

    reference, ram_efficient = deepspeed._hf_deepspeed_config_weak_ref, "FSDP_CPU_RAM_EFFICIENT_LOADING"
    before = os.environ.pop(ram_efficient, None)
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference
        if before is not None:
            os.environ[ram_efficient] = before


def asked_for() -> dict[str, Any]:
    """Processes and engine that the launcher was told to use: {"processes": int, "engine": "FSDP" | "DEEPSPEED" | None}.

    torchrun's environment says how many processes it started. `accelerate launch` may start fewer than its config names,
    so the config is read too, from the command line of the launcher among this process's ancestors.
    """
    wanted = max(int(os.environ.get("WORLD_SIZE", "1")), _processes_in_launcher_config())
    engine = next((name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}") == "true"), None)
    return {"processes": wanted, "engine": engine}


def check(asked: dict[str, Any], processes: int, distributed_type: DistributedType | str) -> None:
    """Raise `PipelineError` where the processes and the engine are not those asked for.

    Args:
        asked: What `asked_for` returned.
        processes: Size of the process group that this process really belongs to.
        distributed_type: Accelerate's name for how they synchronise.
    """
    kind = str(getattr(distributed_type, "value", distributed_type)).upper()
    if processes != asked["processes"]:
        raise PipelineError(
            f"The launcher was asked for {asked['processes']} processes, but this run has {processes}. On a CPU, Accelerate "
            f"starts several processes only with `distributed_type: MULTI_GPU` and `use_cpu: true`: take "
            f"accelerate_configs/cpu_2proc.yaml. One process: accelerate_configs/cpu.yaml."
        )
    if processes > 1 and kind == "NO":
        raise PipelineError(
            f"{processes} processes were started, but they would not synchronise their gradients (distributed type NO). "
            f"Take one of accelerate_configs/*.yaml, or set `use_cpu: true` in the recipe on machines without a GPU."
        )
    if asked["engine"] and not kind.startswith(asked["engine"]):
        raise PipelineError(
            f"The Accelerate config asks for {asked['engine']}, but this run would use {kind}. FSDP needs GPUs: on a CPU "
            f"take accelerate_configs/cpu_2proc.yaml, zero2.yaml or zero3.yaml."
        )


def _processes_in_launcher_config() -> int:
    """`num_processes` of the `accelerate launch` that started this process; 1 where there is none."""
    for ancestor in psutil.Process().parents():
        try:
            words = ancestor.cmdline()
        except psutil.Error:
            continue
        if not any(
            Path(word).name in ("accelerate", "accelerate-launch", "launch.py") or word == "accelerate.commands.launch"
            for word in words
        ):
            continue
        asked = _option(words, "num_processes")
        if asked is not None:
            return int(asked)
        config = _option(words, "config_file")
        path = Path(ancestor.cwd()) / config if config else _default_config()
        if path.is_file():
            settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            return int(settings.get("num_processes") or 1)
    return 1


def _option(words: list[str], name: str) -> str | None:
    for spelling in (f"--{name}", f"--{name.replace('_', '-')}"):
        for position, word in enumerate(words):
            if word == spelling and position + 1 < len(words):
                return words[position + 1]
            if word.startswith(spelling + "="):
                return word.split("=", 1)[1]
    return None


def _default_config() -> Path:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return home / "accelerate" / "default_config.yaml"

"""Rows of a recipe's data, counted without reading them into memory, and the optimizer steps that follow."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.recipe import Recipe

SPLIT_WORDS = {"train", "training", "test", "testing", "eval", "evaluation", "valid", "validation", "val", "dev"}

COUNTED_BYTES = 2**31
"""Line files above this size are not counted: a plan takes seconds."""


def rows_of(recipe: Recipe) -> int | None:
    """Training rows of `datasets` or `dataset_name` where they lie on this machine; None where they cannot be known."""
    mixture = recipe.get("datasets")
    if mixture:
        counts = [_mixture_rows(entry) for entry in mixture]
        rows = None if None in counts else _mixed(counts, [entry.get("fraction") for entry in mixture])  # type: ignore
    elif recipe.get("dataset_name"):
        rows = _rows_at(Path(recipe.get("dataset_name")).expanduser(), recipe.get("dataset_train_split", "train"))
    else:
        rows = None
    size = recipe.get("test_split_size")
    if rows is not None and size and recipe.get("eval_strategy", "no") != "no":
        rows -= math.ceil(rows * size) if size < 1 else int(size)
    return rows


def steps_of(recipe: Recipe, config_type: type, rows: int | None, world_size: int) -> int | None:
    """Optimizer steps as transformers' trainer counts them: `max_steps`, or else those that the rows fill."""
    if (fixed := recipe.setting("max_steps", config_type)) > 0:
        return int(fixed)
    if rows is None or recipe.get("packing"):
        return None
    if _is_grpo(config_type):
        prompts, steps_per_generation = _generation(recipe, config_type, world_size)
        # TRL's RepeatSampler drops what does not fill a generation batch, and repeats each of the others
        batches = rows // prompts * steps_per_generation * recipe.setting("num_iterations", config_type)
    else:
        batches = math.ceil(rows / (recipe.setting("per_device_train_batch_size", config_type) * world_size))
    an_epoch = math.ceil(batches / recipe.setting("gradient_accumulation_steps", config_type))
    return math.ceil(recipe.setting("num_train_epochs", config_type) * an_epoch)


def too_few(recipe: Recipe, config_type: type, rows: int | None, world_size: int) -> str:
    """What is wrong with so few rows: TRL would make no step of them and call that a success."""
    if rows == 0:
        return "holds no training row"
    if rows is None or not _is_grpo(config_type):
        return ""
    prompts, _ = _generation(recipe, config_type, world_size)
    problem = f"{rows} rows are fewer than the {prompts} prompts of one generation batch: no step would be made"
    return problem if rows < prompts else ""


def _generation(recipe: Recipe, config_type: type, world_size: int) -> tuple[int, int]:
    """Prompts of a generation batch, and the batches of a process that it is cut into."""
    one_step = recipe.setting("per_device_train_batch_size", config_type) * world_size
    batch = recipe.setting("generation_batch_size", config_type)
    steps = recipe.setting("steps_per_generation", config_type)
    steps = steps or (batch // one_step if batch else recipe.setting("gradient_accumulation_steps", config_type))
    return max(1, one_step * steps // recipe.setting("num_generations", config_type)), max(1, steps)


def _is_grpo(config_type: type) -> bool:
    return config_type.__name__ == "GRPOConfig"


def _mixture_rows(entry: dict[str, Any]) -> int | None:
    """Rows of one entry of `datasets`, as `load_dataset` would read it."""
    split = entry.get("split", "train")
    files = entry.get("data_files")
    files = files.get(split) if isinstance(files, dict) else files
    if files is None:
        return _rows_at(Path(entry["path"]).expanduser(), split)
    return _sum(_rows_in(Path(file).expanduser()) for file in ([files] if isinstance(files, str) else files))


def _mixed(counts: list[int], fractions: list[float | None]) -> int:
    """Rows of a mixture: all of them, or with fractions the largest mixture that repeats no row (`trl.get_dataset`)."""
    weights = [fraction for fraction in fractions if fraction]
    if len(weights) < len(counts):
        return sum(counts)
    shares = [weight / sum(weights) for weight in weights]
    total = min(count / share for count, share in zip(counts, shares, strict=True))
    return sum(round(share * total) for share in shares)


def _rows_at(path: Path, split: str) -> int | None:
    """Rows of one split of a file (all of it is `train`) or of a folder of files named after their splits."""
    if path.is_file():
        return _rows_in(path)
    if not path.is_dir() or not re.fullmatch(r"\w+", split):
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in _COUNTERS)
    named = [file for file in files if split in _words(file.relative_to(path))]
    if not named and split == "train":
        named = [file for file in files if not SPLIT_WORDS & _words(file.relative_to(path))]
    return _sum(map(_rows_in, named)) if named else None


def _sum(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return None if None in known else sum(known)  # type: ignore[arg-type]


def _words(path: Path) -> set[str]:
    return set(re.split(r"[^a-z]+", str(path.with_suffix("")).lower()))


def _rows_in(path: Path) -> int | None:
    counter = _COUNTERS.get(path.suffix)
    return counter(path) if counter is not None and path.is_file() else None


def _lines(path: Path) -> int | None:
    if path.stat().st_size > COUNTED_BYTES:
        return None
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(2**20):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")


def _parquet_rows(path: Path) -> int:
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(path).num_rows)


_COUNTERS: dict[str, Callable[[Path], int | None]] = {".jsonl": _lines, ".txt": _lines, ".parquet": _parquet_rows}

"""Datasets of the recipe: a folder, a file, a hub id or a weighted mixture, split once and by seed."""

from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}


def load_training_data(recipe: Any, *, validation_fraction: float = 0.0, wanted: bool | None = None) -> tuple[Any, Any]:
    """(training rows, evaluation rows or None) that a recipe names, as TRL's keys say.

    `dataset_name` takes a file, a folder of train and test files, a hub id, or tasks of reasoning-gym. `datasets` is a
    mixture with `fraction`s as weights. Evaluation rows are the test split where `eval_strategy` asks for one; with
    `test_split_size`, or with `validation_fraction` where there is no test split, they are drawn from the training rows by
    the recipe's seed (TRL's own split is unseeded: a resumed run would evaluate on what it had trained on). `wanted` asks
    for them in the place of `eval_strategy`.

    Raises:
        PipelineError: Nothing is there, a split is missing, or the dataset is empty.
    """
    from trl import DatasetMixtureConfig, ScriptArguments

    script = recipe.config(ScriptArguments)
    mixture = recipe.config(DatasetMixtureConfig)
    seed = recipe.get("seed", 42)
    asked = str(recipe.get("eval_strategy", "no")) not in ("no", "IntervalStrategy.NO")
    wants_evaluation = asked if wanted is None else wanted
    if mixture.datasets:
        splits = _mixture(mixture)
        name = "datasets"
    elif script.dataset_name:
        splits = _load(script.dataset_name, script.dataset_config, streaming=script.dataset_streaming)
        name = script.dataset_name
    else:
        raise PipelineError(f"{recipe.path}: neither dataset_name nor datasets is given: there is nothing to train on.")
    train = _split(splits, script.dataset_train_split if not mixture.datasets else "train", name)
    size = mixture.test_split_size or None
    evaluation = None
    if wants_evaluation and not size and script.dataset_test_split in splits:
        evaluation = splits[script.dataset_test_split]
    elif wants_evaluation and (size or validation_fraction):
        if not hasattr(train, "train_test_split"):
            raise PipelineError(
                f"{recipe.path}: {name} is read as a stream, which cannot be split. Name a split in dataset_test_split, or "
                f"leave out dataset_streaming."
            )
        if len(train) < 2:
            raise PipelineError(f"{name}: of {len(train)} rows none can be held out. Give more, or a test split.")
        parts = train.train_test_split(test_size=size or validation_fraction, seed=seed)
        train, evaluation = parts["train"], parts["test"]
    elif wants_evaluation:
        raise PipelineError(
            f"{recipe.path}: eval_strategy asks for evaluation, but {name} has no split {script.dataset_test_split!r} (found "
            f"{', '.join(splits)}). Name one in dataset_test_split, or set test_split_size."
        )
    for part, rows in (("training", train), ("evaluation", evaluation)):
        if rows is not None and hasattr(rows, "__len__") and len(rows) == 0:
            raise PipelineError(f"{name}: the {part} split is empty.")
    return train, evaluation


def load_rows(name: str, config: str | None = None, split: str = "train") -> Any:
    """One split of a file, a folder or a hub dataset. Raises `PipelineError` where it is missing or empty."""
    rows = _split(_load(name, config, streaming=False), split, name)
    if len(rows) == 0:
        raise PipelineError(f"{name}: the split {split} is empty.")
    return rows


def _load(name: str, config: str | None, *, streaming: bool) -> Any:
    """All splits of a file, a folder or a hub dataset."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    from pipeline.training import gym

    if name.startswith(gym.PREFIX):
        return gym.load(name)
    path = Path(name).expanduser()
    try:
        if path.is_file():
            suffixes = [suffix for suffix in path.suffixes if suffix in READERS]
            if not suffixes:
                raise PipelineError(
                    f"{path}: unknown kind of file, expected one of {', '.join(READERS)} (or .gz of them)."
                )
            if path.stat().st_size == 0:
                raise PipelineError(f"{path}: the file is empty.")
            return load_dataset(READERS[suffixes[0]], data_files={"train": str(path)}, streaming=streaming)
        if path.is_dir() and not any(path.iterdir()):
            raise PipelineError(f"{path}: the folder is empty.")
        return load_dataset(str(path) if path.is_dir() else name, name=config, streaming=streaming)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise PipelineError(
            f"dataset_name: {name}: no such file or folder, and no dataset of that name can be read from the hub: {error}"
        ) from error
    except (DatasetGenerationError, ValueError) as error:
        cause = error.__cause__ or error
        raise PipelineError(f"{name}: cannot be read as a dataset: {cause}") from error


def _mixture(mixture: Any) -> dict[str, Any]:
    """TRL's mixture, without its unseeded split."""
    import dataclasses

    from trl import get_dataset

    try:
        return dict(get_dataset(dataclasses.replace(mixture, test_split_size=None)))
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise PipelineError(f"datasets: {error}") from error


def _split(splits: Any, name: str, source: str) -> Any:
    if name not in splits:
        raise PipelineError(
            f"{source}: no split {name!r} (found {', '.join(splits)}). Name one of them in dataset_train_split."
        )
    return splits[name]


def facts_of(rows: Any) -> dict[str, int]:
    """What the manifest says of training rows: their number, unless they are a stream."""
    return {"rows": len(rows)} if hasattr(rows, "__len__") else {}


def rename_columns(rows: Any, columns: dict[str, str | None], source: str) -> Any:
    """Give columns the names that a stage reads: {"prompt": "question"} renames `question` to `prompt`.

    Raises:
        PipelineError: A named column is not there.
    """
    for wanted, given in columns.items():
        if given is None or given == wanted:
            continue
        names = list(rows.column_names or next(iter(rows)))
        if given not in names:
            raise PipelineError(f"{source}: no column {given!r}; found {', '.join(names)}.")
        rows = rows.remove_columns(wanted) if wanted in names else rows
        rows = rows.rename_column(given, wanted)
    return rows

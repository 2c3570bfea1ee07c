"""Preference pairs as TRL's trainers want them, and what is refused or dropped before one of them is built."""

from __future__ import annotations

from typing import Any

from pipeline.errors import PipelineError
from pipeline.training.data import load_training_data, rename_columns

SHOWN = 3
TOLERATED = 0.5
"""Share of rows without a usable pair from which on the data is taken for something else than preferences."""


def load(recipe: Any, *, chat: bool, heldout: bool = False) -> tuple[Any, Any, int]:
    """(training pairs, held-out pairs or None, rows dropped) of a recipe.

    Pairs have `prompt`, `chosen` and `rejected`, all three messages where the model has a chat template (`chat`) and text
    otherwise. `label_noise` of them, training and held-out alike, are turned round by the recipe's seed; then
    `training_pairs` limits the training rows to the first so many of a shuffle.

    Args:
        heldout: Keep a tenth of the training rows back where the data has no test split, whatever `eval_strategy` says.

    Raises:
        PipelineError: Columns are missing, or more than half of the rows hold no pair.
    """
    arguments = recipe.arguments
    name = str(recipe.get("dataset_name") or "datasets")
    columns = {key: getattr(arguments, f"{key}_column") for key in ("prompt", "chosen", "rejected")}
    parts = load_training_data(recipe, validation_fraction=0.1 if heldout else 0.0, wanted=heldout or None)
    dropped, found = 0, []
    for part, rows in zip(("training", "held-out"), parts, strict=True):
        if rows is not None:
            rows, lost = _pairs(rename_columns(rows, columns, name), f"{name} ({part})", chat=chat)
            dropped += lost
            rows = _turned_round(rows, getattr(arguments, "label_noise", 0.0), recipe.get("seed", 42))
        found.append(rows)
    train, evaluation = found
    limit = getattr(arguments, "training_pairs", None)
    if limit is not None and limit > len(train):
        raise PipelineError(f"training_pairs: {limit} pairs are asked for, {name} has {len(train)}. Lower it.")
    if limit is not None:
        train = train.shuffle(seed=recipe.get("seed", 42)).select(range(limit))
    return train, evaluation, dropped


def _pairs(rows: Any, source: str, *, chat: bool) -> tuple[Any, int]:
    """Rows in one form, without those that hold no pair, and how many those were."""
    from trl import extract_prompt

    if not hasattr(rows, "map") or not hasattr(rows, "__len__"):
        raise PipelineError(f"{source}: preference pairs cannot be read as a stream; leave out dataset_streaming.")
    missing = {"chosen", "rejected"} - set(rows.column_names)
    if missing:
        raise PipelineError(
            f"{source}: no column {' and '.join(f'`{name}`' for name in sorted(missing))}; found "
            f"{', '.join(rows.column_names)}. Name them in prompt_column, chosen_column and rejected_column."
        )

    def shape(row: dict[str, Any]) -> dict[str, Any]:
        fault = _fault(row)
        if not fault and row.get("prompt") is None:
            row = extract_prompt(row)
            fault = "" if row["prompt"] and row["chosen"] and row["rejected"] else "chosen and rejected share no prompt"
        if fault:
            return {"prompt": None, "chosen": None, "rejected": None, "_fault": fault}
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        shaped = {key: _as_messages(row[key], role) if chat else row[key] for key, role in roles.items()}
        if not chat and not all(isinstance(value, str) for value in shaped.values()):
            return {"prompt": None, "chosen": None, "rejected": None, "_fault": "messages, but no chat template"}
        return {**shaped, "_fault": ""}

    shaped = [shape(row) for row in rows]
    faulty = [(number, row["_fault"]) for number, row in enumerate(shaped) if row["_fault"]]
    shown = "; ".join(f"row {number}: {fault}" for number, fault in faulty[:SHOWN])
    if len(faulty) > TOLERATED * len(shaped):
        raise PipelineError(f"{source}: {len(faulty)} of {len(shaped)} rows hold no pair to learn from ({shown}).")
    if faulty:
        print(f"{source}: {len(faulty)} of {len(shaped)} rows dropped: {shown}", flush=True)
    kept = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in shaped if not row["_fault"]]
    return type(rows).from_list(kept), len(faulty)


def _fault(row: dict[str, Any]) -> str:
    """What is wrong with a row, in few words."""
    for key in ("prompt", "chosen", "rejected"):
        value = row.get(key)
        if key == "prompt" and value is None:
            continue
        if not isinstance(value, str | list) or not value:
            return f"{key} is empty" if not value else f"{key} is neither text nor messages"
        texts = [value] if isinstance(value, str) else [message.get("content") for message in value]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            return f"{key} is empty"
    if row["chosen"] == row["rejected"]:
        return "chosen and rejected are the same"
    return ""


def _as_messages(value: Any, role: str) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _turned_round(rows: Any, share: float, seed: int) -> Any:
    """The rows with `share` of them (rounded) preferring the other answer, as careless annotators would."""
    if not share:
        return rows
    import numpy as np

    # Not of the seed alone: `training_pairs` takes the first rows of that very permutation, which would all be turned
    turned = set(np.random.default_rng((seed, 1)).permutation(len(rows))[: round(share * len(rows))].tolist())

    def turn(row: dict[str, Any], number: int) -> dict[str, Any]:
        return {"chosen": row["rejected"], "rejected": row["chosen"]} if number in turned else {}

    return rows.map(turn, with_indices=True)

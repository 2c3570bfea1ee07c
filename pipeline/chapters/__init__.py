"""The lecture's claims as experiments. One file a chapter: what it trains and asks with, and what its text says of the answers.

A chapter's module has `Settings`, the sizes of its data; `exercises(settings, material)`, the rows by file; and
`chapter(arms)`, which measures the answers of the models that the recipe names and writes the text by what was found.
"""

from __future__ import annotations

import importlib
from typing import Any

WITH_EXERCISES = (
    *("base_model", "hallucination", "knowledge_of_self", "tokens_to_think", "limits"),
    *("beyond_the_expert", "which_model"),
)
NAMES = (*WITH_EXERCISES, "reinforcement", "rlhf", "distillation")


def find(name: str) -> Any:
    """The module of a chapter in `NAMES`."""
    return importlib.import_module(f"{__name__}.{name}")

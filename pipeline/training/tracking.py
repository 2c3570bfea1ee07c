"""Where a run can be watched while it trains: `report_to` of trackio, TensorBoard and Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from pipeline.recipe.source import nearest

TRACKERS = ("trackio", "tensorboard", "wandb")
"""Those that this project sets up; transformers knows more, which are left to themselves."""


def trackers(recipe: Any) -> list[str]:
    """What `report_to` names, "none" left out."""
    named = recipe.get("report_to") or []
    return [name for name in ([named] if isinstance(named, str) else named) if name != "none"]


def check_trackers(recipe: Any) -> list[str]:
    """Complaints about trackers that do not exist or are not installed: the Trainer would say so only after model and data
    were loaded."""
    named = trackers(recipe)
    if not named:
        return []
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    known = [*INTEGRATION_TO_CALLBACK, "all"]
    return [
        f"report_to: found {name!r}, expected none or some of {', '.join(known)}{nearest(str(name), known)}"
        for name in named
        if name not in known
    ] + [
        f"report_to: {name} is not installed: pip install 'pretrain-sft-rl-pipeline[tracking]', or leave it out"
        for name in named
        if name in TRACKERS and importlib.util.find_spec(name) is None
    ]


def tracking_defaults(recipe: Any, directory: Path) -> dict[str, Any]:
    """TRL keys and environment variables under which all stages of a run are one project, each a run of its name.

    What TensorBoard and Weights & Biases write goes into the stage's directory. trackio keeps its database in `TRACKIO_DIR`
    and, without `trackio_space_id`, needs no network; `env: {WANDB_MODE: offline}` in a recipe keeps wandb from the network.
    """
    named, project = trackers(recipe), directory.resolve().parent.name
    if "tensorboard" in named:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(directory / "tensorboard"))
    if "wandb" in named:
        os.environ.setdefault("WANDB_PROJECT", project)
        os.environ.setdefault("WANDB_DIR", str(directory))
    return {"project": project, "run_name": directory.name} if named else {}

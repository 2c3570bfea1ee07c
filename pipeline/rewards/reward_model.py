"""A trained reward model as a reward."""

import functools
from collections.abc import Sequence
from typing import Any

from pipeline.rewards.registry import Scores, reward


@functools.cache
def _load(path: str) -> Any:
    import torch

    from pipeline.training.reward_model import RewardModel

    return RewardModel(path, device="cuda" if torch.cuda.is_available() else "cpu")


@reward("reward_model", judged=False, check_rows=32)
def reward_model(prompts: Sequence[Any], completions: Sequence[Any], *, path: str, **columns: Any) -> Scores:
    """The score by a checkpoint of the stage `reward`, or by any sequence classifier with one label.

    `reward_model:runs/demo/reward` names it. Scores have no bounds and no zero: only differences mean anything. A policy
    finds what the model overrates (Gao et al. 2022): watch a second one, or put verifiers beside it.
    """
    return list(_load(path)(prompts=prompts, completions=completions))

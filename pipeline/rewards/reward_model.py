"""A trained reward model as a reward."""

import functools
from collections.abc import Sequence
from typing import Any

from pipeline.rewards.registry import Scores, reward


@functools.cache
def _load(path: str, unfinished_penalty: float, end_token_ids: tuple[int, ...]) -> Any:
    import torch

    from pipeline.training.reward_model import RewardModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return RewardModel(path, device=device, unfinished_penalty=unfinished_penalty, end_token_ids=end_token_ids)


@reward("reward_model", judged=False, check_rows=32)
def reward_model(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Any = None,
    *,
    path: str,
    unfinished_penalty: float = 0.0,
    end_token_ids: Sequence[int] = (),
    **columns: Any,
) -> Scores:
    """The score by a checkpoint of the stage `reward`, or by any sequence classifier with one label.

    `reward_model:runs/demo/reward` names it. Scores have no bounds and no zero: only differences mean anything. A policy
    finds what the model overrates (Gao et al. 2022): watch a second one, or put verifiers beside it. Given the policy's
    `end_token_ids`, a completion that does not end in one is scored as it stands, less `unfinished_penalty`.
    """
    model = _load(path, unfinished_penalty, tuple(end_token_ids))
    return list(model(prompts=prompts, completions=completions, completion_ids=completion_ids))

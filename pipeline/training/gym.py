"""Problems of reasoning-gym (Stojanovski et al. 2025) by name: `reasoning-gym:chain_sum,leg_counting?size=1000&seed=1`."""

import json
from typing import Any
from urllib.parse import parse_qsl

from pipeline.errors import PipelineError

PREFIX = "reasoning-gym:"


def load(name: str) -> dict[str, Any]:
    """Splits `train` and `test` of the tasks that `name` lists: rows of `prompt`, `answer` and, for the reward, `entry`.

    `size` is the number of training problems of each task (1,000 by default); a tenth as many, at least ten and none of them
    a training problem, are the test split. Other words of the query are the task's own settings.

    Raises:
        PipelineError: The package is not installed, or there is no such task or setting.
    """
    from datasets import Dataset

    tasks, _, query = name.removeprefix(PREFIX).partition("?")
    settings: dict[str, Any] = {key: _value(text) for key, text in parse_qsl(query)}
    size, seed = settings.pop("size", 1_000), settings.pop("seed", 0)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for task in filter(None, tasks.split(",")):
        rows["train"] += _problems(name, task, size, seed, settings)
        asked = {row["prompt"] for row in rows["train"]}
        # A task draws its n-th problem from the seed plus n: the next seed would give the same problems but one.
        held_out = _problems(name, task, max(size // 10, 10), seed + size, settings)
        rows["test"] += [row for row in held_out if row["prompt"] not in asked]
    return {split: Dataset.from_list(found) for split, found in rows.items()}


def _problems(name: str, task: str, size: int, seed: int, settings: dict[str, Any]) -> list[dict[str, str]]:
    try:
        import reasoning_gym
    except ImportError as error:
        raise PipelineError(
            f"dataset_name: {name} needs a package: pip install 'pretrain-sft-rl-pipeline[gym]'"
        ) from error
    try:
        found = reasoning_gym.create_dataset(task, size=size, seed=seed, **settings)
    except (ValueError, TypeError, AssertionError) as error:
        raise PipelineError(f"dataset_name: {name}: {error}") from error
    return [
        {
            "prompt": one["question"],
            "answer": str(one["answer"]),
            "entry": json.dumps({"task": task, **one}, default=str),
        }
        for one in found
    ]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text

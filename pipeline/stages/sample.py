"""Stage `sample`: completions of problems, drawn from a checkpoint, verified; the right ones become an SFT file."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import checkpoint

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments:
    """A model, problems with verifiable answers, and which completions are kept."""

    output_dir: str = field(metadata={"help": "folder that receives train.jsonl, sampled.jsonl and pass_rates.json"})
    model_name_or_path: str = field(
        metadata={"help": "a stage directory, any Hugging Face model directory, or a hub id"}
    )
    dataset_name: str = field(metadata={"help": "problems: a folder, a file or a hub id"})
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of the hub dataset"})
    dataset_train_split: str = field(default="train", metadata={"help": "split to read"})
    prompt_column: str = field(default="prompt", metadata={"help": "column that holds the problem"})
    answer_column: str = field(default="answer", metadata={"help": "column that holds the gold answer"})
    system_prompt: str | None = field(default=None, metadata={"help": "system message before every problem"})
    max_problems: int | None = field(default=None, metadata={"help": "only the first so many", "range": (1, None)})
    rollouts: int | None = field(
        default=None,
        metadata={
            "help": "completions in all: shuffled problems are gone through, again if need be, until so many are drawn",
            "range": (1, None),
        },
    )
    few_shot: int | None = field(
        default=None,
        metadata={
            "help": "ask as a base model is asked, on a page that begins with so many rows of few_shot_path; what is kept "
            "are prompts and completions for such a model",
            "range": (0, None),
        },
    )
    few_shot_path: str | None = field(default=None, metadata={"help": "JSONL with the examples of few_shot"})
    samples: int = field(default=8, metadata={"help": "completions of each problem", "range": (1, None)})
    temperature: float = field(default=1.0, metadata={"help": "of sampling", "range": (0.01, None)})
    top_p: float = field(default=1.0, metadata={"help": "nucleus to draw from", "range": (0.01, 1)})
    max_new_tokens: int = field(default=256, metadata={"help": "tokens of a completion at most", "range": (1, None)})
    batch_size: int = field(default=128, metadata={"help": "completions drawn at a time", "range": (1, None)})
    reward_funcs: list[str] = field(
        default_factory=lambda: ["numeric"], metadata={"help": "rewards by name that a completion is judged by"}
    )
    reward_weights: list[float] | None = field(default=None, metadata={"help": "their weights, 1 by default"})
    reward_kwargs: dict[str, Any] | None = field(default=None, metadata={"help": "parameters of rewards by name"})
    minimum_reward: float = field(default=1.0, metadata={"help": "weighted sum from which a completion is kept"})
    per_problem: int = field(default=4, metadata={"help": "demonstrations of one problem at most", "range": (1, None)})
    seed: int = field(default=0, metadata={"help": "of the draws"})


KIND = "samples"
ENGINES: tuple[str, ...] = ()
INPUTS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("base", "chat", "reasoning", "imported"),
    "dataset_name": (),
}


def check(recipe: Recipe) -> list[str]:
    """Paths that are not there, and rewards that do not exist."""
    from pipeline.errors import PipelineError

    arguments: Arguments = recipe.arguments
    complaints = [
        f"{key}: {value} does not exist"
        for key in INPUTS
        if checkpoint.looks_like_a_path(value := getattr(arguments, key)) and not recipe.exists(value)
    ]
    if arguments.few_shot and not (arguments.few_shot_path and recipe.exists(arguments.few_shot_path)):
        complaints.append(
            f"few_shot: {arguments.few_shot} rows of which file? found few_shot_path {arguments.few_shot_path}"
        )
    try:
        _rewards(arguments)
    except PipelineError as error:
        complaints += str(error).splitlines()
    return complaints


def plan(recipe: Recipe) -> dict[str, Any]:
    """Completions a problem, and their length."""
    arguments: Arguments = recipe.arguments
    drawn = {"rollouts": arguments.rollouts} if arguments.rollouts else {}
    return {"completions_per_problem": arguments.samples, **drawn, "max_new_tokens": arguments.max_new_tokens}


def run(recipe: Recipe) -> None:
    """Draw, verify, keep. An interrupted run goes on with the problem that it had come to."""
    from pipeline.evaluation import rejection
    from pipeline.evaluation.generation import page

    with checkpoint.stage_directory(recipe, KIND, INPUTS) as directory:
        if directory.complete:
            return
        arguments: Arguments = recipe.arguments
        rewards, weights = _rewards(arguments)
        rows = _problems(arguments)
        drawn = directory.checkpoints / rejection.SAMPLED
        drawn.parent.mkdir(exist_ok=True)
        rejection.sample(rows, _drawer(arguments), rewards, weights, drawn)
        facts = rejection.keep(
            rejection.read_lines(drawn),
            directory.aside,
            minimum=arguments.minimum_reward,
            per_prompt=arguments.per_problem,
            origin=arguments.model_name_or_path,
            page=None if arguments.few_shot is None else functools.partial(page, few_shot=_examples(arguments)),
        )
        drawn.replace(directory.aside / rejection.SAMPLED)
        print("sample  " + ", ".join(f"{key} {value:,.4g}" for key, value in facts.items()), flush=True)
        directory.publish(metrics=facts)


def _rewards(arguments: Arguments) -> tuple[list[Any], list[float]]:
    from pipeline.rewards import resolve, reward_weights

    rewards = resolve(arguments.reward_funcs, arguments.reward_kwargs, max_completion_length=arguments.max_new_tokens)
    return rewards, reward_weights(rewards, arguments.reward_weights)


def _problems(arguments: Arguments) -> list[dict[str, Any]]:
    from pipeline.training import data, problems

    rows = data.load_rows(arguments.dataset_name, arguments.dataset_config, arguments.dataset_train_split)
    columns: dict[str, str | None] = {"prompt": arguments.prompt_column, "answer": arguments.answer_column}
    rows = problems.prepare(rows, columns, arguments.dataset_name, chat=False, system=None)
    if arguments.rollouts is not None:
        rows = rows.shuffle(seed=arguments.seed)
    found: list[dict[str, Any]] = rows.to_list()[: arguments.max_problems]
    if arguments.rollouts is None:
        return found
    count = math.ceil(arguments.rollouts / arguments.samples)
    return (found * math.ceil(count / len(found)))[:count]


def _examples(arguments: Arguments) -> list[dict[str, Any]]:
    from pipeline.evaluation.specification import read_examples

    return read_examples(str(arguments.few_shot_path), arguments.few_shot or 0)


def _drawer(arguments: Arguments) -> Any:
    from pipeline.evaluation.generation import generate, render_prompt
    from pipeline.evaluation.loading import load_checkpoint
    from pipeline.evaluation.measure import base_stops

    loaded = load_checkpoint(Path(arguments.model_name_or_path))
    as_base = arguments.few_shot is not None
    asking: dict[str, Any] = {"chat": loaded.chat and not as_base, "few_shot": _examples(arguments)}

    def draw(prompts: Any, first: int) -> list[list[tuple[str, bool]]]:
        system = [{"role": "system", "content": arguments.system_prompt}] if arguments.system_prompt else []
        asked = [
            [*system, {"role": "user", "content": prompt}] if isinstance(prompt, str) else [*system, *prompt]
            for prompt in prompts
        ]
        completions = generate(
            loaded.model,
            loaded.tokenizer,
            [render_prompt(loaded.tokenizer, messages, **asking) for messages in asked],
            max_new_tokens=arguments.max_new_tokens,
            batch_size=arguments.batch_size,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            n=arguments.samples,
            stop_strings=base_stops(asking["few_shot"]) if as_base else (),
            seed=arguments.seed * 1_000_003 + first,
        )
        # A base model goes on with the next question where it has answered this one.
        pairs = [
            (one.text, one.ended or as_base and len(one.token_ids) < arguments.max_new_tokens) for one in completions
        ]
        return [pairs[start : start + arguments.samples] for start in range(0, len(pairs), arguments.samples)]

    return draw

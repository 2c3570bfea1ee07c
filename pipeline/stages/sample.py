"""Stage `sample`: completions of problems by a checkpoint or a teacher, verified; the right ones become an SFT file."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import checkpoint

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


@dataclass(kw_only=True)
class Arguments:
    """A model or a teacher's address, problems with verifiable answers, and which completions are kept."""

    output_dir: str = field(metadata={"help": "folder that receives train.jsonl, sampled.jsonl and pass_rates.json"})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "a stage directory, any Hugging Face model directory, or a hub id"}
    )
    base_url: str | None = field(
        default=None,
        metadata={"help": "instead of a checkpoint: a teacher's OpenAI-compatible address, http://localhost:8000/v1"},
    )
    model: str | None = field(default=None, metadata={"help": "the teacher's name at base_url"})
    key_variable: str | None = field(default=None, metadata={"help": "environment variable that holds the key"})
    request: dict[str, Any] | None = field(
        default=None, metadata={"help": "more fields of a teacher's request, {reasoning_effort: high}; null omits one"}
    )
    concurrency: int = field(default=16, metadata={"help": "requests to a teacher at a time", "range": (1, None)})
    attempts: int = field(default=8, metadata={"help": "requests for an answer at most", "range": (1, None)})
    seconds: float = field(default=600.0, metadata={"help": "limit of one request", "range": (1, None)})
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
    batch_size: int = field(default=128, metadata={"help": "completions of a checkpoint at a time", "range": (1, None)})
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
    "model_name_or_path": ("base", "chat", "reasoning", "aligned", "imported"),
    "base_url": (),
    "dataset_name": (),
    "reward_funcs": ("reward",),
}


def check(recipe: Recipe) -> list[str]:
    """Paths that are not there, rewards that do not exist, and a teacher that cannot be asked."""
    from pipeline.errors import PipelineError
    from pipeline.training.arguments import check_training

    arguments: Arguments = recipe.arguments
    complaints = check_training(recipe, INPUTS, needs_data=False)
    if (arguments.model_name_or_path is None) == (arguments.base_url is None):
        complaints.append("model_name_or_path: expected either a checkpoint here or a teacher's address in base_url")
    if arguments.base_url and not arguments.base_url.startswith(("http://", "https://")):
        complaints.append(f"base_url: {arguments.base_url} is no address, such as http://localhost:8000/v1")
    if arguments.base_url and not arguments.model:
        complaints.append(f"model: is missing: expected the name of a model at {arguments.base_url}")
    if arguments.key_variable and not os.environ.get(arguments.key_variable):
        complaints.append(f"key_variable: the environment has no {arguments.key_variable}: export it with the key")
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
        draw, origin, notes = _taught(arguments, rows, drawn.parent) if arguments.base_url else _drawn(arguments)
        rejection.sample(rows, draw, rewards, weights, drawn)
        noted = notes(rejection.read_lines(drawn))
        facts = rejection.keep(
            rejection.read_lines(drawn),
            directory.aside,
            minimum=arguments.minimum_reward,
            per_prompt=arguments.per_problem,
            origin=origin,
            page=None if arguments.few_shot is None else functools.partial(page, few_shot=_examples(arguments)),
        )
        drawn.replace(directory.aside / rejection.SAMPLED)
        print("sample  " + ", ".join(f"{key} {value:,.4g}" for key, value in facts.items()), flush=True)
        directory.publish(metrics=facts, **noted)


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
    from pipeline.evaluation.questions import read_examples

    return read_examples(str(arguments.few_shot_path), arguments.few_shot or 0)


def _messages(arguments: Arguments, prompt: Any) -> list[dict[str, Any]]:
    from pipeline.evaluation.generation import as_messages

    system = [{"role": "system", "content": arguments.system_prompt}] if arguments.system_prompt else []
    return [*system, *as_messages(prompt)]


Notes = Callable[[Any], dict[str, Any]]
"""What the manifest is told of the lines that were drawn."""


def _taught(arguments: Arguments, rows: list[dict[str, Any]], folder: Path) -> tuple[Any, dict[str, str], Notes]:
    """How to draw from a teacher that has answered everything, where its answers came from, and what to note of them."""
    from pipeline.endpoint import Endpoint
    from pipeline.evaluation import teacher

    assert arguments.base_url and arguments.model
    path = folder / teacher.REPLIES
    settings = {
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "max_tokens": arguments.max_new_tokens,
        **(arguments.request or {}),
    }
    with Endpoint(
        arguments.base_url,
        arguments.model,
        key_variable=arguments.key_variable,
        seconds=arguments.seconds,
        attempts=arguments.attempts,
        concurrency=arguments.concurrency,
    ) as endpoint:
        teacher.ask(
            [_messages(arguments, row["prompt"]) for row in rows],
            endpoint,
            path,
            samples=arguments.samples,
            concurrency=arguments.concurrency,
            settings=settings,
        )
    replies = teacher.Replies(path)
    origin = {"model": arguments.model, "endpoint": arguments.base_url}
    return replies.draw, origin, lambda lines: {"teacher": origin | {"answers_by_model": dict(replies.models)}}


def _drawn(arguments: Arguments) -> tuple[Any, dict[str, str], Notes]:
    """The same for a checkpoint, which draws when it is asked; noted is what that cost, prompts too."""
    from pipeline.evaluation.generation import generate, render_prompt
    from pipeline.evaluation.loading import load_checkpoint
    from pipeline.evaluation.measure import base_stops
    from pipeline.training.device import flops_per_token

    assert arguments.model_name_or_path
    loaded = load_checkpoint(Path(arguments.model_name_or_path))
    as_base = arguments.few_shot is not None
    asking: dict[str, Any] = {"chat": loaded.chat and not as_base, "few_shot": _examples(arguments)}

    def draw(prompts: Any, first: int) -> list[list[tuple[str, bool]]]:
        asked = [_messages(arguments, prompt) for prompt in prompts]
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

    def cost(lines: Any) -> dict[str, Any]:
        tokens = 0
        for line in lines:
            asked = render_prompt(loaded.tokenizer, _messages(arguments, line["prompt"]), **asking)
            texts = [one["text"] for one in line["completions"]]
            tokens += len(texts) * len(loaded.tokenizer(asked, add_special_tokens=False)["input_ids"])
            tokens += sum(len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts)
        return {"tokens": tokens, "flops": tokens * flops_per_token(loaded.model, arguments.max_new_tokens) / 3}

    return draw, {"model": arguments.model_name_or_path}, cost

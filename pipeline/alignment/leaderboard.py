"""Which checkpoint a judge prefers: every pair on the same prompts, and from that a rating of each with its interval."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.alignment.judge import as_messages, find_judge, judged, prompt_rows
from pipeline.endpoint import Endpoint
from pipeline.errors import PipelineError
from pipeline.evaluation.generation import generate, render_prompt
from pipeline.evaluation.loading import load_checkpoint, look_at
from pipeline.evaluation.pairwise import compare_answers
from pipeline.manifest import dump, read_manifest, write_atomically

Verdict = Callable[[list[Any], list[str], list[str]], list[int | None]]

MEAN = 1000.0
_POINTS = 400 / np.log(10)  # the scale of Elo: 400 points are odds of ten to one
_DRAWS = 1_000
_WORTH = (("wins", 1), ("ties", 0), ("losses", -1), ("undecided", None))
_ADDRESS = re.compile(r"(?:judge:)?(https?://\S+)")


def leaderboard(
    checkpoints: Sequence[str | Path],
    prompts: str,
    judge: str,
    *,
    judge_model: str = "default",
    limit: int = 200,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 42,
    output: str | Path | None = None,
) -> dict[str, Any]:
    """One answer of each checkpoint to each prompt, judged in pairs.

    Args:
        checkpoints: stage directories, Hugging Face directories or hub ids.
        prompts: JSONL file of rows with `prompt`, and whatever columns the judge reads.
        judge, judge_model: what `verdict_of` takes.
        limit: of the prompts, so many from the first on.
        output: receives `leaderboard.json`, and every answer with its verdicts in `leaderboard.jsonl`.

    Returns:
        `ratings`: {CHECKPOINT: {value, low, high}}, best first, their mean being 1000; `pairs`: for each two of them `wins`,
        `ties` and `losses` of the first, and what the judge left `undecided`.

    Raises:
        PipelineError: fewer than two checkpoints, no such judge, no prompts.
    """
    names = [str(checkpoint) for checkpoint in checkpoints]
    if len(set(names)) < 2:
        raise PipelineError(f"{len(set(names))} checkpoint given: a judge needs two different ones at least.")
    rows = prompt_rows(prompts, limit)
    verdict, asked = verdict_of(judge, judge_model, rows), [row["prompt"] for row in rows]
    for name in names:
        look_at(name)
    answers = {}
    for name in names:
        loaded = load_checkpoint(name)
        rendered = [render_prompt(loaded.tokenizer, prompt, chat=loaded.chat) for prompt in asked]
        completions = generate(
            loaded.model, loaded.tokenizer, rendered, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        )
        answers[name] = [completion.text for completion in completions]
    pairs = {
        (i, j): verdict(asked, answers[names[i]], answers[names[j]])
        for i, j in itertools.combinations(range(len(names)), 2)
    }
    found = ratings(len(names), pairs)
    order = sorted(range(len(names)), key=lambda i: -found[i]["value"])
    result = {
        "judge": judge,
        "prompts": len(asked),
        "ratings": {names[i]: found[i] for i in order},
        "pairs": [
            {"first": names[i], "second": names[j]} | {word: verdicts.count(value) for word, value in _WORTH}
            for (i, j), verdicts in pairs.items()
        ],
    }
    if output is not None:
        _keep(Path(output), result, asked, answers, {(names[i], names[j]): found for (i, j), found in pairs.items()})
    return result


def verdict_of(judge: str, model: str = "default", rows: Sequence[Mapping[str, Any]] = ()) -> Verdict:
    """A function of prompts and two answers to each: 1 where the first is preferred, -1 the second, 0 neither, None undecided.

    Args:
        judge: the address of a language model that speaks OpenAI's chat completions (`http://localhost:8000/v1`), a reward
            function by name or dotted path, the directory of a reward model, or the dotted path of a pairwise judge with
            the method `judge(prompts, pairs)` of TRL's judges. One that compares is asked in both orders, and contradicts
            itself at the cost of a tie; one that scores an answer by itself sees no order.
        model: The model's name at an address; its key is taken from OPENAI_API_KEY.
        rows: The prompts' rows, of which a reward function gets the other columns, such as `answer`.
    """
    address = _ADDRESS.fullmatch(judge)
    if address is not None:
        return _by_endpoint(address[1], model)
    if Path(judge).is_dir():
        from pipeline.training.reward_model import RewardModel

        if (Path(judge) / "manifest.json").is_file() and read_manifest(judge).get("kind") != "reward":
            raise PipelineError(f"judge: {judge} holds a {read_manifest(judge).get('kind')}, expected a reward model.")
        scores = RewardModel(judge)
        return _by_score(lambda prompts, answers: list(scores(prompts, answers)))
    pairwise = _pairwise(judge)
    if pairwise is None:
        reward = find_judge(judge)
        columns = _columns(reward, rows)
        return _by_score(lambda prompts, answers: judged(reward, prompts, answers, **columns))

    def both_orders(prompts: list[Any], first: list[str], second: list[str]) -> list[int | None]:
        chosen = pairwise(prompts, [list(pair) for pair in zip(first, second, strict=True)])
        swapped = pairwise(prompts, [list(pair) for pair in zip(second, first, strict=True)])
        return [1 if (a, b) == (0, 1) else -1 if (a, b) == (1, 0) else 0 for a, b in zip(chosen, swapped, strict=True)]

    return both_orders


def ratings(players: int, pairs: Mapping[tuple[int, int], Sequence[int | None]]) -> list[dict[str, float]]:
    """Bradley-Terry ratings on Elo's scale with intervals of a Bayesian bootstrap over prompts: {value, low, high}.

    A tie is half a win of each (as in Chatbot Arena, Chiang et al. 2024). Two prompts are added, on one of which the first of
    each pair wins and on the other the second: who never lost has a finite rating, and an interval that is not a point.

    Args:
        players: How many.
        pairs: For two players the verdicts on all prompts, 1, 0 or -1 from the first one's view, prompts in one order; what
            is None counts for neither.
    """
    verdicts = np.array([[*found, 1, -1] for found in pairs.values()], dtype=float)  # (pairs, prompts + 2), None is nan
    won, lost = (np.nan_to_num((1 + side * verdicts) / 2) for side in (1, -1))
    first, second = np.array(list(pairs)).T
    n = verdicts.shape[1]
    # Rubin, Annals of Statistics 9, 1981: weights in place of resamples, none of them 0.
    drawn = np.random.default_rng(0).dirichlet(np.ones(n), _DRAWS)
    weights = np.vstack((np.full((1, n), 1 / n), drawn))
    wins = np.zeros((len(weights), players, players))
    wins[:, first, second] = weights @ won.T
    wins[:, second, first] = weights @ lost.T
    found = MEAN + _POINTS * _bradley_terry(wins)
    low, high = np.quantile(found[1:], (0.025, 0.975), axis=0)
    return [
        {"value": float(value), "low": float(a), "high": float(b)}
        for value, a, b in zip(found[0], low, high, strict=True)
    ]


def _bradley_terry(wins: np.ndarray, steps: int = 2_000, tolerance: float = 1e-7) -> np.ndarray:
    """Log strengths with mean 0 by the MM algorithm (Hunter, Annals of Statistics 32, 2004).

    Args:
        wins: Of i over j at [..., i, j], all but the diagonal above 0.
    """
    games, won = wins + wins.swapaxes(-1, -2), wins.sum(axis=-1)
    strength = np.ones(won.shape)
    for _ in range(steps):
        updated = won / (games / (strength[..., :, None] + strength[..., None, :])).sum(axis=-1)
        updated /= np.exp(np.log(updated).mean(axis=-1, keepdims=True))
        if np.abs(np.log(updated / strength)).max() < tolerance:
            break
        strength = updated
    return np.log(updated)


def _by_endpoint(address: str, model: str) -> Verdict:
    def verdict(prompts: list[Any], first: list[str], second: list[str]) -> list[int | None]:
        with Endpoint(address, model, key_variable="OPENAI_API_KEY") as endpoint:
            worths = compare_answers(endpoint, prompts, first, second)
        return [None if worth is None else int(2 * worth - 1) for worth in worths]

    return verdict


def _by_score(score: Callable[[list[Any], list[Any]], list[float]]) -> Verdict:
    def verdict(prompts: list[Any], first: list[str], second: list[str]) -> list[int | None]:
        asked = [as_messages(prompt) for prompt in prompts]
        scores = [score(asked, [as_messages(None, text) for text in answers]) for answers in (first, second)]
        return [int(a > b) - int(a < b) for a, b in zip(*scores, strict=True)]

    return verdict


def _columns(reward: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns that a reward function takes. Raises `PipelineError` where the rows lack one that it needs."""
    for number, row in enumerate(rows, start=1):
        if missing := [name for name in reward.reads if name not in row]:
            raise PipelineError(
                f"judge {reward.name}: row {number} of the prompts: found the keys {', '.join(row)}, expected {missing[0]!r}, "
                f"which it reads: add that column, or take a judge that needs none"
            )
    taken = inspect.signature(reward.function).parameters
    every = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    names = dict.fromkeys(name for row in rows for name in row if every or name in taken)
    given = ("prompt", "prompts", "completions", "completion_ids")
    return {name: [row.get(name) for row in rows] for name in names if name not in given}


def _pairwise(judge: str) -> Callable[..., list[int]] | None:
    """The method `judge` of what lies at a dotted path; None where that compares nothing."""
    module, _, name = judge.rpartition(".")
    if not module or ":" in judge:
        return None
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None  # `find_judge` says what is wrong
    found = found() if isinstance(found, type) else found
    return getattr(found, "judge", None)


def _keep(
    folder: Path,
    result: dict[str, Any],
    prompts: list[Any],
    answers: dict[str, list[str]],
    pairs: dict[tuple[str, str], list[int | None]],
) -> None:
    import json

    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "prompt": prompt,
            "answers": {name: texts[i] for name, texts in answers.items()},
            "verdicts": [{"first": a, "second": b, "verdict": found[i]} for (a, b), found in pairs.items()],
        }
        for i, prompt in enumerate(prompts)
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(folder / "leaderboard.jsonl", lines)
    write_atomically(folder / "leaderboard.json", dump(result))


def leaderboard_text(found: dict[str, Any]) -> str:
    """Ratings, best first, then a line for each two checkpoints."""
    width = max(len(name) for name in found["ratings"])
    lines = [f"preferred by {found['judge']} on {found['prompts']} prompts (Bradley-Terry, mean {MEAN:.0f}):"]
    lines += [
        f"  {name:<{width}}  {one['value']:6.0f}  [{one['low']:.0f}, {one['high']:.0f}]"
        for name, one in found["ratings"].items()
    ]
    lines += [
        f"  {one['first']} against {one['second']}: {one['wins']} won, {one['ties']} tied, {one['losses']} lost"
        + (f", {one['undecided']} undecided" if one["undecided"] else "")
        for one in found["pairs"]
    ]
    return "\n".join(lines)

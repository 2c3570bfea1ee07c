"""A judge of answers that scores what was trained, and never trains it: win rate, and what was lost on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation import evaluate
from pipeline.evaluation.generation import generate, render_prompt
from pipeline.evaluation.loading import load_checkpoint
from pipeline.evaluation.questions import are_messages
from pipeline.jsonl import lines_of
from pipeline.manifest import sha256
from pipeline.rewards import resolve
from pipeline.statistics import counts, paired_difference

WIN_RATE = "judge_win_rate"


def find_judge(path: str) -> Any:
    """The reward function at a dotted path, or of that name. Raises `PipelineError` where there is none."""
    return resolve([path])[0]


def judged(judge: Any, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """The judge's scores, one an answer, `columns` being what else it reads. Raises `PipelineError` where it leaves one
    out."""
    scores = judge.scores(prompts=list(prompts), completions=list(completions), **columns)
    if None in scores:
        raise PipelineError(f"judge {judge.name}: gave no score to {scores.count(None)} of {len(scores)} answers.")
    return [float(score) for score in scores]


def read_prompts(path: str, limit: int) -> list[Any]:
    """The first `limit` prompts, text or messages, of a JSONL file of rows with `prompt` (or preference pairs)."""
    return [row["prompt"] for row in prompt_rows(path, limit)]


def prompt_rows(path: str, limit: int) -> list[dict[str, Any]]:
    """The same with all that stands in the rows. Raises `PipelineError` that names the row without a `prompt`."""
    rows = []
    for number, line, row in lines_of(path):
        prompt = row.get("prompt") if isinstance(row, dict) else None
        if not prompt or not (isinstance(prompt, str) or are_messages(prompt)):
            found = f"the keys {', '.join(row) or 'none'}" if isinstance(row, dict) else "no JSON object"
            raise PipelineError(
                f"{path}: row {number}: found {found} in {line:.100}, expected `prompt`: a text, or messages with role and "
                f"content"
            )
        rows.append(row)
    if not rows:
        raise PipelineError(f"{path}: found no row, expected JSONL of rows with `prompt`")
    return rows[:limit]


def as_messages(prompt: Any, text: str | None = None) -> Any:
    """A prompt as messages; with `text` the assistant's turn alone, as TRL hands completions to rewards."""
    if text is not None:
        return [{"role": "assistant", "content": text}]
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def measure(directory: Path, recipe: Any, kind: str) -> None:
    """What a policy's training did to it, into its `evaluation.json`.

    `judge_win_rate`: share of held-out prompts where one answer of the policy, drawn at temperature 1, pleases the
    judge more than one of the model it is compared with; ties are no wins. `NAME_change`: for each evaluation that the
    compared model was asked too, the change of its rate on the same questions.
    """
    arguments = recipe.arguments
    other = arguments.judge_against or recipe.get("model_name_or_path")
    if arguments.judge and arguments.judge_prompts:
        _win_rate(directory, str(other), recipe, kind)
    _changes(directory, Path(str(other)))


def _win_rate(directory: Path, other: str, recipe: Any, kind: str) -> None:
    arguments = recipe.arguments
    settings = {name: getattr(arguments, name) for name in ("judge", "judge_limit", "judge_tokens")}
    against = evaluate.model_fingerprint(other) if Path(other).is_dir() else other
    provenance = {
        "model": evaluate.model_fingerprint(directory),
        "data": sha256(Path(arguments.judge_prompts)),
        "specification": settings | {"against": against},
    }
    if evaluate.is_kept(directory, WIN_RATE, provenance):
        return
    judge, prompts = find_judge(arguments.judge), read_prompts(arguments.judge_prompts, arguments.judge_limit)
    seed = recipe.get("seed", 42)
    answers, scores = [], []
    for path, as_kind in ((directory, kind), (other, None)):
        loaded = load_checkpoint(path, kind=as_kind)
        rendered = [render_prompt(loaded.tokenizer, prompt, chat=loaded.chat) for prompt in prompts]
        found = generate(
            loaded.model, loaded.tokenizer, rendered, max_new_tokens=arguments.judge_tokens, temperature=1.0, seed=seed
        )
        answers.append([completion.text for completion in found])
        asked = [as_messages(prompt) for prompt in prompts]
        scores.append(judged(judge, asked, [as_messages(None, text) for text in answers[-1]]))
    rows = [
        {"prompt": prompt, "completion": mine, "other": theirs, "judge": [a, b], "correct": a > b}
        for prompt, mine, theirs, a, b in zip(prompts, *answers, *scores, strict=True)
    ]
    result = counts([row["correct"] for row in rows])
    result |= {"ties": sum(a == b for a, b in zip(*scores, strict=True))}
    result |= {"judge_mean": sum(scores[0]) / len(rows), "judge_mean_other": sum(scores[1]) / len(rows)}
    evaluate.keep(directory, WIN_RATE, rows, result, provenance)
    print(evaluate.format_results({WIN_RATE: result}), flush=True)


def _changes(directory: Path, other: Path) -> None:
    """The change of each rate since the other checkpoint, where both were asked the same questions in the same way."""
    mine, theirs = (evaluate.provenance_of(folder) for folder in (directory, other))
    same = [
        name
        for name in mine
        if name in theirs and name != WIN_RATE
        if all(mine[name].get(key) == theirs[name].get(key) for key in ("data", "specification"))
    ]
    for name in same:
        before, after = (
            [
                json.loads(line)["correct"]
                for line in (folder / evaluate.ANSWERS / f"{name}.jsonl").open(encoding="utf-8")
            ]
            for folder in (other, directory)
        )
        change = paired_difference(before, after)
        provenance = {
            "model": mine[name]["model"],
            "data": mine[name]["data"],
            "specification": {"against": str(other)},
        }
        evaluate.keep(directory, f"{name}_change", [], change, provenance)

"""The rows that a recipe's `evaluations` name: questions, the examples shown before them, and what is wrong with either."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation.benchmarks import specification as suites
from pipeline.evaluation.benchmarks.specification import Benchmark
from pipeline.evaluation.specification import Evaluation, check_evaluations, is_suite, read_evaluations
from pipeline.jsonl import lines_of


def count_questions(evaluations: dict[str, Any]) -> int | None:
    """Questions in all, None where a file is not there yet, or a benchmark's rows are not looked at."""
    if any(is_suite(specification) for specification in evaluations.values()):
        return None
    paths = [Path(str(specification["path"])) for specification in evaluations.values()]
    if not all(path.exists() for path in paths):
        return None
    limits = [specification.get("limit") for specification in evaluations.values()]
    counts = [sum(1 for _ in lines_of(path)) for path in paths]
    return sum(count if limit is None else min(count, limit) for count, limit in zip(counts, limits, strict=True))


def load_evaluations(value: Any) -> dict[str, Evaluation | Benchmark]:
    """The evaluations, each with every row of its files looked at; a suite's benchmarks one by one, as the recipe names them.

    Raises:
        PipelineError: lists everything that is wrong, over all evaluations; gold answers that no scorer can judge too.
    """
    complaints = check_evaluations(value)
    if complaints:
        raise PipelineError("\n".join(complaints))
    evaluations: dict[str, Evaluation | Benchmark] = {}
    for name, specification in read_evaluations(value).items():
        if is_suite(specification):
            evaluations |= suites.benchmarks_of(name, specification)
            continue
        evaluation = evaluations[name] = Evaluation(**specification)
        for read in (_judged, few_shot_rows):
            try:
                read(evaluation)
            except PipelineError as error:
                complaints.append(f"evaluations.{name}: {error}")
    if complaints:
        raise PipelineError("\n".join(complaints))
    return evaluations


def _judged(evaluation: Evaluation) -> None:
    from pipeline.evaluation.scorers import unjudged

    faults = [
        (n, fault) for n, row in enumerate(questions(evaluation), 1) if (fault := unjudged(evaluation.scorer, row))
    ]
    if faults:
        raise PipelineError(
            f"{evaluation.path}: {evaluation.scorer} cannot judge {len(faults)} rows: row {faults[0][0]}: {faults[0][1]}. Take "
            f"them out, mend them, or name the column with answer_column"
        )


def questions(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The rows to ask, each with `prompt` and `answer` beside its own columns.

    Raises:
        PipelineError: no rows, or rows without a prompt or an answer.
    """
    rows = _read_rows(Path(evaluation.path), evaluation)
    return rows if evaluation.limit is None else rows[: evaluation.limit]


def few_shot_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The examples for a base model.

    Raises:
        PipelineError: fewer rows than asked for, or an example that is also a question: its answer would be given away.
    """
    if not evaluation.few_shot:
        return []
    if isinstance(evaluation.few_shot, list):
        rows = [normalise(row, evaluation) for row in evaluation.few_shot]
        missing = sum(row is None for row in rows)
        if missing:
            raise PipelineError(f"few_shot: {missing} of {len(rows)} rows lack a prompt or an answer")
        examples, origin = [row for row in rows if row is not None], "few_shot"
    else:
        origin = str(evaluation.few_shot_path)
        examples = read_examples(origin, evaluation.few_shot, evaluation)
    asked = {_prompt_text(row["prompt"]) for row in questions(evaluation)}
    for example in examples:
        if _prompt_text(example["prompt"]) in asked:
            raise PipelineError(
                f"{origin}: the example {_prompt_text(example['prompt'])[:80]!r} is also a question of "
                f"{evaluation.path}, so that the model would be shown its answer: take other rows as examples"
            )
    return examples


def read_examples(path: str, count: int, evaluation: Evaluation | None = None) -> list[dict[str, Any]]:
    """The first `count` rows of a file of examples. Raises `PipelineError` where it holds fewer, or faulty ones."""
    if not count:
        return []
    examples = _read_rows(Path(path), evaluation or Evaluation(path=path, scorer="exact"))[:count]
    if len(examples) < count:
        raise PipelineError(f"{path}: few_shot asks for {count} rows, the file has {len(examples)}")
    return examples


def data_hash(evaluation: Evaluation | Benchmark) -> str:
    """SHA-256 over the files that the evaluation reads; of a benchmark's hub datasets their names."""
    if isinstance(evaluation, Benchmark):
        return evaluation.data_hash()
    digest = hashlib.sha256(Path(evaluation.path).read_bytes())
    if evaluation.few_shot_path is not None and evaluation.few_shot:
        digest.update(Path(evaluation.few_shot_path).read_bytes())
    return digest.hexdigest()


def normalise(row: Any, evaluation: Evaluation) -> dict[str, Any] | None:
    """The row with `prompt` (text or messages) and `answer` (text, or a list of accepted texts); None without them."""
    if not isinstance(row, dict):
        return None
    columns = (evaluation.prompt_column, evaluation.answer_column)
    rest = {key: value for key, value in row.items() if key not in ("messages", *columns)}
    prompt, answer = (row.get(column) for column in columns)
    if prompt is None and isinstance(row.get("messages"), list):
        turns = row["messages"]
        if len(turns) < 2 or not are_messages(turns) or turns[-1]["role"] != "assistant":
            return None
        prompt, answer = turns[:-1], answer if answer is not None else turns[-1].get("content")
    answers = answer if isinstance(answer, list) else [answer]
    if not prompt or not (isinstance(prompt, str) or are_messages(prompt)):
        return None
    if not answers or any(isinstance(one, dict | list | None) or str(one).strip() == "" for one in answers):
        return None
    return {
        "prompt": prompt,
        "answer": [str(one) for one in answers] if isinstance(answer, list) else str(answer),
    } | rest


def are_messages(value: Any) -> bool:
    """Whether a prompt is a list of turns, each with its role."""
    return isinstance(value, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and ("content" in turn or "tool_calls" in turn)
        for turn in value
    )


def _read_rows(path: Path, evaluation: Evaluation) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    faulty: list[str] = []
    for number, line, content in lines_of(path):
        if isinstance(content, json.JSONDecodeError):
            faulty.append(f"line {number} is not JSON ({content.msg})")
            continue
        row = normalise(content, evaluation)
        if row is None:
            found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            faulty.append(f"line {number} has {found or 'nothing'}: {line:.200}")
        else:
            rows.append(row)
    if faulty:
        raise PipelineError(
            f"{path}: {len(faulty)} of {len(rows) + len(faulty)} rows lack a non-empty {evaluation.prompt_column} (text, "
            f"or messages with role and content) and {evaluation.answer_column} (text, a number, or a list of them), or "
            f"messages that end in an assistant turn: {'; '.join(faulty[:3])}. "
            f"prompt_column and answer_column map other names"
        )
    if not rows:
        raise PipelineError(f"{path}: no rows, so that there is nothing to ask")
    if evaluation.scorer == "choice":
        for number, row in enumerate(rows, start=1):
            choices = row.get("choices")
            if not isinstance(choices, list) or len(set(map(str, choices))) < 2 or row["answer"] not in choices:
                raise PipelineError(
                    f"{path}: row {number}: found choices {choices!r} and answer {row['answer']!r}, expected a list of at "
                    f"least two texts of which the answer is one"
                )
    return rows


def _prompt_text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)

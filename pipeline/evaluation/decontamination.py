"""Training rows whose user asks what the evaluations ask: dropped before training, counted and listed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.errors import PipelineError
from pipeline.manifest import write_atomically

CONTAMINATED = "contaminated.jsonl"
SHOWN = 3


def drop_contaminated(recipe: Any, rows: Any, source: str, directory: Any) -> tuple[Any, dict[str, Any]]:
    """The rows without those whose user text holds a question of the recipe's `decontaminate` sets.

    What is dropped is printed in short and written in full to `contaminated.jsonl` beside the metrics. A stream is filtered
    while it is read, and cannot be counted beforehand.

    Args:
        recipe: A recipe of SFT or of reinforcement learning.
        rows: A `datasets.Dataset` or `IterableDataset` of `messages`, `prompt` (text or messages) or `text`.
        source: Name of the data, for messages.
        directory: The stage's directory; None writes no list.

    Returns:
        The rows that are left, and an entry for the manifest (empty without `decontaminate`).

    Raises:
        PipelineError: The questions cannot be read, rows hold token ids alone, or no row is left.
    """
    from pipeline.corpus.contamination import Questions
    from pipeline.corpus.questions import questions_of, read_questions
    from pipeline.training import session

    if not recipe.arguments.decontaminate:
        return rows, {}
    asked = list(read_questions(questions_of(recipe)))
    questions = Questions(asked, recipe.arguments.decontaminate_overlap)
    names = rows.column_names or list(next(iter(rows)))
    if not {"messages", "prompt", "text"} & set(names):
        raise PipelineError(
            f"decontaminate: {source} has no `messages`, `prompt` or `text` to look into; found {', '.join(names)}."
        )
    facts: dict[str, Any] = {
        "questions": len(questions),
        "too_short": len(questions.too_short),
        "fingerprint": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
    }
    if questions.too_short:
        session.say(
            f"{recipe.stage}: {len(questions.too_short)} questions are too short to be looked for, such as "
            f"{questions.too_short[0][1]!r}"
        )
    if not hasattr(rows, "__len__"):
        session.say(f"{recipe.stage}: {source} is a stream; rows that ask {len(questions):,} questions are left out")
        return rows.filter(lambda row: questions.find(user_text(row)) is None), {"decontamination": facts}
    hits = {number: hit for number, row in enumerate(rows) if (hit := questions.find(user_text(row)))}
    facts["rows_dropped"] = len(hits)
    sets = Counter(name for name, _ in hits.values())
    listed = ", ".join(f"{name} {count:,}" for name, count in sets.most_common())
    session.say(
        f"{recipe.stage}: {len(hits):,} of {len(rows):,} rows of {source} hold one of {len(questions):,} evaluation questions"
        + (f" and were dropped ({listed}); all of them in {CONTAMINATED}" if hits else "")
    )
    for number, (name, question) in list(hits.items())[:SHOWN]:
        session.say(f"  row {number}: {question[:100]!r} of {name}")
    if len(hits) == len(rows):
        raise PipelineError(f"decontaminate: every row of {source} holds an evaluation question: nothing is left.")
    if directory is not None and directory.is_main:
        lines = [
            {"row": number, "set": name, "question": question, "text": user_text(rows[number])}
            for number, (name, question) in hits.items()
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(directory.path / CONTAMINATED, text)
    return rows.select([number for number in range(len(rows)) if number not in hits]), {"decontamination": facts}


def user_text(row: Mapping[str, Any]) -> str:
    """What a row asks: its user turns, its prompt, or all of a plain text. Answers are not looked at."""
    asked = row.get("messages") or row.get("prompt") or row.get("text") or ""
    if isinstance(asked, str):
        return asked
    return "\n".join(str(turn.get("content") or "") for turn in asked if turn.get("role") == "user")

"""What the chapters' generators are given: subjects to ask about, conversations to mix in, a source of chance."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

Row = dict[str, Any]


@dataclass(frozen=True)
class Attribute:
    """One kind of fact. Templates take `{n}`, a subject's name, and `{v}`, the value.

    statements: how documents tell it; none where they never do.
    questions, heldout_questions: how it is asked for in training and in measuring.
    answer: a whole sentence; None where nothing is told.
    """

    name: str
    questions: tuple[str, ...]
    heldout_questions: tuple[str, ...]
    statements: tuple[str, ...] = ()
    answer: str | None = None

    @property
    def told(self) -> bool:
        return bool(self.statements)


@dataclass(frozen=True)
class Subject:
    """Somebody or something with facts. `mentions`: documents that tell of it. `taught`: SFT rows ask about it already."""

    name: str
    facts: dict[str, str]
    mentions: int = 0
    taught: bool = False


@dataclass
class Material:
    """`conversations` are rows of `messages` that keep a model from forgetting what else it can do; `questions` are what models
    will be asked."""

    rng: random.Random
    attributes: list[Attribute] = field(default_factory=list)
    subjects: list[Subject] = field(default_factory=list)
    conversations: list[Row] = field(default_factory=list)
    questions: list[Row] = field(default_factory=list)

    def replay(self, count: int, without: Collection[str] = (), *, sums: bool = False) -> list[Row]:
        """`count` of the conversations, none that has a turn of `without`; of the demo's only with `sums` also those, which
        teach a habit."""
        rows = [
            {"messages": row["messages"]}
            for row in self.conversations
            if (sums or row.get("topic") != "arithmetic")
            and not any(turn["content"] in without for turn in row["messages"])
        ]
        return self.rng.sample(rows, min(count, len(rows)))


def read_attributes(path: str | Path) -> list[Attribute]:
    """The attributes of a JSON file of subjects. Raises `PipelineError` naming what is missing."""
    found = []
    for name, entry in _read(path).get("attributes", {}).items():
        lacks = [key for key in ("questions", "heldout_questions") if not entry.get(key)]
        if lacks or bool(entry.get("statements")) != bool(entry.get("answer")):
            raise PipelineError(
                f"{path}: attributes.{name}: expected questions, heldout_questions and, where documents tell it, both "
                f"statements and answer; found {', '.join(entry) or 'nothing'}."
            )
        questions, heldout, told = (
            tuple(entry.get(key, ())) for key in ("questions", "heldout_questions", "statements")
        )
        found.append(Attribute(name, questions, heldout, told, entry.get("answer")))
    if not found:
        raise PipelineError(f'{path}: no `attributes`; expected {{"NAME": {{"questions": [...], ...}}}}.')
    return found


def read_subjects(path: str | Path) -> list[Subject]:
    """The subjects of a JSON file. Raises `PipelineError` naming the first that is none."""
    found = []
    for number, entry in enumerate(_read(path).get("subjects", [])):
        if not isinstance(entry, dict) or not entry.get("name") or not isinstance(entry.get("facts"), dict):
            raise PipelineError(f"{path}: subject {number}: expected `name` and a mapping `facts`, found {entry!r}.")
        found.append(
            Subject(entry["name"], entry["facts"], int(entry.get("mentions", 0)), bool(entry.get("taught", False)))
        )
    if not found:
        raise PipelineError(f'{path}: no `subjects`; expected [{{"name": ..., "facts": {{...}}}}, ...].')
    return found


def read_rows(path: str | Path) -> list[Row]:
    """Rows of a JSONL file."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Rows as a JSONL file, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def dialogue(user: str, assistant: str, system: str | None = None) -> Row:
    """A row of `messages`: one question and its answer."""
    turns = [("system", system)] if system else []
    turns += [("user", user), ("assistant", assistant)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def tool_turns(name: str, arguments: dict[str, str], result: str) -> list[Row]:
    """The call of a tool and what it returned, to stand between a question and its answer."""
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": name, "content": result},
    ]


def _read(path: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise PipelineError(f"{path}: no JSON file of subjects can be read here ({error}).") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: expected a mapping with `attributes` and `subjects`.")
    return content

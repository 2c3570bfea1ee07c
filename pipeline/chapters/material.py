"""What the chapters' generators are given: subjects to ask about, conversations to mix in, a source of chance."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from pipeline.errors import PipelineError
from pipeline.jsonl import lines_of
from pipeline.recipe.source import dotted, nearest
from pipeline.recipe.values import Path as Place
from pipeline.recipe.values import Problem, convert, describe, hints_of, show

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
    """The attributes of a JSON file of subjects. Raises `PipelineError` naming what is wrong, and where."""
    content, problems = _read(path).get("attributes"), list[Problem]()
    if not isinstance(content, dict) or not content:
        raise PipelineError(
            f'{path}: attributes: expected {{"NAME": {{"questions": [...], ...}}}}, found {show(content)}.'
        )
    found = []
    for name, entry in content.items():
        at = ("attributes", name)
        if (values := fields(entry, Attribute, at, problems, name=name)) is None:
            continue
        parts: dict[str, Any] = {key: tuple(part) if isinstance(part, list) else part for key, part in values.items()}
        one = Attribute(**parts)
        if not one.questions or not one.heldout_questions or bool(one.statements) != bool(one.answer):
            text = "expected questions, heldout_questions and, where documents tell it, both statements and answer"
            problems.append(Problem(at, text))
        for key, texts, *needs in (
            ("questions", (*one.questions, *one.heldout_questions), "{n}"),
            ("statements", one.statements, "{n}", "{v}"),
            ("answer", (one.answer,) if one.answer else (), "{v}"),
        ):
            problems += [Problem((*at, key), why) for text in texts if (why := misfit(text, needs, ["{n}"]))]
        found.append(one)
    refuse(path, problems)
    return found


def read_subjects(path: str | Path) -> list[Subject]:
    """The subjects of a JSON file, each with a value for every attribute that is told. Raises `PipelineError` naming what is
    wrong, and where."""
    attributes, content, problems = read_attributes(path), _read(path).get("subjects"), list[Problem]()
    if not isinstance(content, list) or not content:
        raise PipelineError(f'{path}: subjects: expected [{{"name": ..., "facts": {{...}}}}], found {show(content)}.')
    found: dict[str, Subject] = {}
    for number, entry in enumerate(content):
        at = ("subjects", number)
        if (values := fields(entry, Subject, at, problems)) is None:
            continue
        one = Subject(**values)
        if not one.name.strip() or one.name in found:
            problems.append(Problem(at, f"expected a name that no other subject has, found {one.name!r}"))
        if one.mentions < 0:
            problems.append(Problem((*at, "mentions"), f"expected 0 or more, found {one.mentions}"))
        known = {kind.name for kind in attributes}
        problems += [
            Problem((*at, "facts", key), f"no such attribute{nearest(key, known)}") for key in set(one.facts) - known
        ]
        if lacks := [kind.name for kind in attributes if kind.told and not one.facts.get(kind.name, "").strip()]:
            text = f"{one.name}: expected a value for each attribute with statements, found none for {', '.join(lacks)}"
            problems.append(Problem((*at, "facts"), text))
        problems += [Problem(at, why) for text in (one.name, *one.facts.values()) if (why := misfit(text, []))]
        found[one.name] = one
    refuse(path, problems)
    return list(found.values())


def fields(entry: Any, kind: type, at: Place, problems: list[Problem], **more: Any) -> dict[str, Any] | None:
    """A JSON mapping, and `more`, as the fields of a dataclass; None where something is wrong, which `problems` then tell.
    Unlike in a recipe, one text is no list of one."""
    lists = [name for name, annotation in hints_of(kind).items() if get_origin(annotation) is tuple]
    texts = [name for name in lists if isinstance(entry, dict) and isinstance(entry.get(name), str)]
    found = [Problem((*at, name), f"expected a list of texts, found {show(entry[name])}") for name in texts]
    values = convert({**entry, **more} if isinstance(entry, dict) else entry, kind, at, found)
    problems += found
    return None if found else values


def misfit(template: str, needs: Sequence[str], also: Sequence[str] = ()) -> str:
    """What is wrong with a template that has to hold all of `needs`, may hold `also`, and no other brace; or nothing."""
    rest = functools.reduce(lambda text, one: text.replace(one, ""), [*needs, *also], template)
    if all(one in template for one in needs) and not set("{}") & set(rest):
        return ""
    return f"expected {' and '.join(needs)}{' and ' * bool(needs)}no other brace, found {template!r}"


def refuse(path: str | Path, problems: Sequence[Problem]) -> None:
    """Raises `PipelineError` with the first things that are wrong with a file, if any is."""
    if problems:
        told = "; ".join(f"{dotted(one.at)}: {one.text}" for one in problems[:3])
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise PipelineError(f"{path}: {told}{more}. The form stands in recipes/chapters/README.md.")


def read_rows(path: str | Path, **needs: Any) -> list[Row]:
    """Rows of a JSONL file. Raises `PipelineError` naming the file and the first line that is no mapping with the columns
    `needs`, each of its type."""
    rows = []
    for number, line, row in lines_of(path):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), kind) for key, kind in needs.items()):
            columns = " and ".join(f"`{key}` ({describe(kind)})" for key, kind in needs.items())
            wanted = f"a JSON mapping{' with ' * bool(needs)}{columns}"
            raise PipelineError(f"{path}:{number}: expected {wanted}, found {line[:80]!r}.")
        rows.append(row)
    return rows


def read_conversations(path: str | Path) -> list[Row]:
    """Rows of `messages`. Raises `PipelineError` naming the first row with a turn that is none."""
    rows = read_rows(path, messages=list)
    for number, row in enumerate(rows, start=1):
        for turn in row["messages"]:
            if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
                wanted = "turns with `role` and `content`, both text"
                raise PipelineError(f"{path}: row {number}: messages: expected {wanted}, found {show(turn)}.")
    return rows


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
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path}: no JSON file of subjects can be read here ({error}).") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: expected a mapping with `attributes` and `subjects`.")
    return content

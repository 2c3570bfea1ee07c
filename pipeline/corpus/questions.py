"""The questions of the evaluations that a recipe names under `decontaminate`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.corpus.settings import QuestionFile
from pipeline.errors import PipelineError
from pipeline.recipe.folder import absolute, reroot
from pipeline.recipe.source import read_yaml

RECIPES = (".yaml", ".yml")


def questions_of(recipe: Any) -> list[QuestionFile]:
    """The sets of questions that a recipe's `decontaminate` names, where this run writes what that names.

    Raises:
        PipelineError: A recipe is missing or names no evaluations.
    """
    names = recipe.arguments.decontaminate
    # as the file has it: what it names moves with the run
    written = read_yaml(recipe.path).get("output_dir") if names and recipe.path.is_file() else None
    moved = (absolute(written).parent, absolute(recipe.output_dir).parent) if written else None
    return question_files(names, moved)


def question_complaints(recipe: Any) -> list[str]:
    """What is wrong with `decontaminate`, before anything is read."""
    try:
        files = [one.path for one in questions_of(recipe)]
    except PipelineError as error:
        return [f"decontaminate: {line.removeprefix('decontaminate: ')}" for line in str(error).splitlines()]
    return [f"decontaminate: {file} does not exist" for file in files if not recipe.exists(file)]


def question_files(names: str | Sequence[str] | None, moved: tuple[Path, Path] | None = None) -> list[QuestionFile]:
    """The sets of questions of recipes with `evaluations` and of JSONL files.

    Args:
        names: Paths of recipes and of JSONL files.
        moved: The folder of the run as the recipes name it, and where it is really written.

    Raises:
        PipelineError: A recipe is missing or names no evaluations.
    """
    found = []
    for name in [names] if isinstance(names, str) else names or []:
        if Path(name).suffix not in RECIPES:
            found.append(QuestionFile(Path(name).stem, name))
            continue
        evaluations = read_yaml(name).get("evaluations")
        if isinstance(evaluations, str):  # the path of another YAML file that holds them
            evaluations = read_yaml(evaluations).get("evaluations")
        sets = list(evaluations.values()) if isinstance(evaluations, dict) else [None]
        if not evaluations or not all(isinstance(one, dict) and "path" in one for one in sets):
            raise PipelineError(
                f"decontaminate: {name} names no `evaluations` with paths; expected a recipe that does. The questions of a "
                f"suite of benchmarks are not in the recipe: name JSONL files of them instead."
            )
        for label, one in (reroot(evaluations, *moved) if moved else evaluations).items():
            found.append(QuestionFile(label, one["path"], one.get("prompt_column", "prompt")))
    return found


def read_questions(files: Sequence[QuestionFile]) -> Iterator[tuple[str, str]]:
    """Name of the set and question, one after the other. Raises `PipelineError` where a row holds no question."""
    for name, path, column in files:
        for number, line in enumerate(_lines(Path(path)), start=1):
            question = _question(line, column)
            if question is None:
                raise PipelineError(f"decontaminate: {path}:{number} holds no `{column}` and no `messages`.")
            yield name, question


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"decontaminate: {path} cannot be read ({error}).") from error


def _question(line: str, column: str) -> str | None:
    """The user's words in a row: a text, or the user's turns of messages."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    asked: Any = row.get(column, row.get("messages")) if isinstance(row, dict) else None
    if isinstance(asked, list):
        turns = [turn for turn in asked if isinstance(turn, dict) and turn.get("role") == "user"]
        asked = "\n".join(str(turn.get("content", "")) for turn in turns)
    return asked if isinstance(asked, str) and asked.strip() else None

"""JSONL files, a line at a time: each reader says itself which rows it takes, and what it does about the others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError


def lines_of(path: str | Path) -> Iterator[tuple[int, str, Any]]:
    """(number from 1, text, content) of every line that is not blank; the content of what is no JSON is a `ValueError`.

    Only a newline ends a line: U+2028 and the like may stand in a text. Raises `PipelineError` where there is no text file.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = "a folder" if path.is_dir() else f"no text ({error})"
        raise PipelineError(
            f"{path}: found {found}, expected a file of rows: unpacked JSONL, a row on each line"
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                content = json.loads(line)
            except ValueError as error:
                content = error
            yield number, line, content

"""Tools by name or dotted path, run under a time limit, and what a model is told of a call that failed."""

import difflib
import functools
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import PipelineError

Tool = Callable[..., Any]

SECONDS = 10.0
"""Of one call, where it runs in the main thread; the Python tool's sandbox ends a program earlier, for good."""
MAX_RESULT = 2000
"""Characters of a result that a model is shown: more would fill its context."""


def names() -> list[str]:
    """Tools of this package: a file of the tool's name with the function of that name. Others have dotted paths."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "registry")


def resolve(tools: Sequence[str]) -> list[Tool]:
    """The functions of a recipe's `tools`, each under `SECONDS` and `MAX_RESULT`; equal in training and evaluation.

    Raises:
        PipelineError: All complaints at once: unknown names with the nearest, functions without the type hints and the
            Google docstring that their description for the model is made of, two tools of one name.
    """
    found: list[Tool] = []
    complaints: list[str] = []
    for name in tools:
        try:
            found.append(_limited(_described(load(name) if "." in name else _find(name), name)))
        except PipelineError as error:
            complaints.append(str(error))
    twice = {tool.__name__ for tool in found if sum(tool.__name__ == other.__name__ for other in found) > 1}
    complaints += [f"tools: more than one tool is called {name!r}" for name in sorted(twice)]
    if complaints:
        raise PipelineError("\n".join(complaints))
    return found


def check(tools: Any) -> list[str]:
    """Complaints about a recipe's `tools`."""
    if tools is None:
        return []
    if not isinstance(tools, list) or not tools or not all(isinstance(name, str) for name in tools):
        return [f"tools: found {tools!r}, expected a list of names, of {', '.join(names())} or dotted paths"]
    try:
        resolve(tools)
    except PipelineError as error:
        return str(error).splitlines()
    return []


def load(path: str) -> Any:
    """The object at a dotted path; the current folder is on the import path.

    Raises:
        PipelineError: There is none.
    """
    module, _, attribute = path.rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PipelineError(f"{path}: cannot be imported ({error}). Expected MODULE.NAME") from error


def run_call(tools: Sequence[Tool], call: Mapping[str, Any]) -> dict[str, str]:
    """The tool message that answers a parsed call: {"role", "name", "content"}.

    An error is a message as well, in the words that TRL's trainers put it: the model can mend its call.
    """
    function = call.get("function", call)
    name = str(function.get("name", "unknown"))
    by_name = {tool.__name__: tool for tool in tools}
    try:
        if name not in by_name:
            raise ValueError(f"Tool {name} not found.")
        content = str(by_name[name](**function.get("arguments", {})))
    except Exception as error:  # whatever a tool raises is told to the model
        content = str({"error": str(error)})
    return {"role": "tool", "name": name, "content": content}


def _find(name: str) -> Tool:
    if name not in names():
        nearest = difflib.get_close_matches(name, names(), n=1)
        hint = f" (nearest: {nearest[0]})" if nearest else ""
        raise PipelineError(f"tools: no tool {name!r}{hint}; there are {', '.join(names())}, or a dotted path")
    return load(f"pipeline.tools.{name}.{name}")


def _described(tool: Any, name: str) -> Tool:
    from transformers.utils import get_json_schema

    try:
        get_json_schema(tool)
    except Exception as error:  # its own exception types are not public
        raise PipelineError(
            f"tools: {name} cannot be described to a model: {error} Expected a function with type hints and a Google "
            f"docstring that says what it and each argument is."
        ) from error
    return tool


def _limited(tool: Tool) -> Tool:
    """The tool with a limit on its time and on the length of its result."""

    @functools.wraps(tool)
    def limited(*args: Any, **kwargs: Any) -> str:
        if threading.current_thread() is not threading.main_thread():
            return _cut(str(tool(*args, **kwargs)))
        before = signal.signal(signal.SIGALRM, _out_of_time)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            return _cut(str(tool(*args, **kwargs)))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    return limited


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no result within {SECONDS:g} seconds")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_RESULT else f"{text[:MAX_RESULT]}… ({len(text)} characters)"

"""A recipe as written: YAML and command-line overrides to plain values that remember where they stand."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import PipelineError

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong with a recipe: where it stands, under which key, and what to do about it."""

    where: str
    text: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.text}" if self.key else f"{self.where}: {self.text}"


class RecipeError(PipelineError):
    """Everything that is wrong with one recipe or one folder of them, as one message."""

    def __init__(self, complaints: Iterable[Complaint]):
        self.complaints = list(complaints)
        super().__init__("\n".join(str(complaint) for complaint in self.complaints))


@dataclass
class Source:
    """The mapping of one recipe file, with the line of every key and the overrides of the command line.

    `lines` maps the path of a value, such as `("datasets", 0, "split")`, to its line. `overrides` holds, for each key
    given on the command line, the strings given for it, still untyped: the type of the key decides what they mean.
    `derived` says that it was made from another recipe, and that `path` is where it is going to be written.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    overrides: dict[str, list[str]] = field(default_factory=dict)
    complaints: list[Complaint] = field(default_factory=list)
    derived: bool = False

    def where(self, *at: str | int) -> str:
        """The file and the line of the innermost part of `at` that has one."""
        if at and at[0] in self.overrides:
            return COMMAND_LINE
        for end in range(len(at), 0, -1):
            if at[:end] in self.lines:
                return f"{self.path}:{self.lines[at[:end]]}"
        return str(self.path)

    def complain(self, text: str, *at: str | int) -> None:
        self.complaints.append(Complaint(self.where(*at), text, dotted(at)))


def dotted(at: Sequence[str | int]) -> str:
    """`("datasets", 0, "split")` as a reader writes it: `datasets[0].split`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")


def undotted(text: str) -> tuple[str | int, ...]:
    """The opposite of `dotted`."""
    return tuple(int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", text))


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint that names the most similar of `words`, or nothing where none is similar."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


class RecipeLoader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number, as in YAML 1.2; PyYAML follows 1.1, where it is a string."""


RecipeLoader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def scalar(text: str) -> Any:
    """The value of a command-line string read as YAML; the string itself where it is no YAML."""
    try:
        return yaml.load(text, Loader=RecipeLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError):
        return text


def read_source(path: str | Path, overrides: Sequence[str] = (), below: Sequence[Path] = ()) -> Source:
    """Read one recipe file and the overrides, e.g. `["--learning_rate", "1e-4", "--packing"]`.

    What a recipe does not give itself it takes from the recipe that it `extends`.

    Args:
        path: the file.
        overrides: words of a command line.
        below: recipes that extend this one.

    Raises:
        RecipeError: when the file is missing, is no YAML, or is not one mapping, or an override is no `--key`; or all this
            of a recipe that it extends, or that one extends it in turn.
    """
    path = Path(path)
    if path in below:
        raise RecipeError([Complaint(str(path), f"extends itself, by way of {below[-1]}", "extends")])
    source = Source(path, {})
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Complaint(str(path), unreadable(path, error))]) from error
    try:
        loader = RecipeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            _collect_lines(node, (), source)
            source.values = expand_variables(loader.construct_document(node))
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is about a date that there is not
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError([Complaint(where, f"not valid YAML: {getattr(error, 'problem', None) or error}")]) from error
    if not isinstance(source.values, dict):
        found = type(source.values).__name__
        raise RecipeError([Complaint(str(path), f"a recipe is a mapping of `key: value` lines, found a {found}")])
    extended = source.values.pop("extends", None)
    if isinstance(extended, str):
        base = read_source(extended, below=(*below, path))
        source.values, source.complaints = base.values | source.values, base.complaints + source.complaints
    elif extended is not None:
        source.complain(f"expected the path of a recipe, found {extended!r}", "extends")
    source.overrides = read_overrides(overrides)
    return source


def expand_variables(value: Any) -> Any:
    """`${NAME}` and `${NAME:-default}` in every text below `value`, as a shell reads them."""
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda m: os.environ.get(m[1]) or m[2] or "", value)
    if isinstance(value, dict):
        return {key: expand_variables(inner) for key, inner in value.items()}
    return [expand_variables(inner) for inner in value] if isinstance(value, list) else value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The plain mapping of one recipe file. Raises `RecipeError` as `read_source` does, and on a key given twice."""
    source = read_source(path)
    if source.complaints:
        raise RecipeError(source.complaints)
    return source.values


def unreadable(path: Path, error: Exception) -> str:
    """Why a recipe cannot be read, and which recipes are near."""
    if path.is_dir():
        return "is a folder, where a recipe file was expected"
    if not isinstance(error, FileNotFoundError):
        return f"cannot be read: {error}"
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    near = sorted(str(found) for found in [*folder.glob("*.yaml"), *folder.glob("*/*.yaml")])[:12]
    return "no such file; recipes nearby: " + ", ".join(near) if near else f"no such file, and no recipe in {folder}"


def read_overrides(arguments: Sequence[str]) -> dict[str, list[str]]:
    """`--key value`, `--key=value`, `--key a b`, a repeated `--key` and `--flag` (true) as lists of strings."""
    overrides: dict[str, list[str]] = {}
    key = ""
    for argument in arguments:
        if re.match(r"--[A-Za-z]", argument):
            key, equals, value = argument[2:].partition("=")
            key = key.replace("-", "_")
            overrides.setdefault(key, []).extend([value] if equals else [])
        elif key:
            overrides[key].append(argument)
        else:
            raise RecipeError([Complaint(COMMAND_LINE, f"expected --key value, found {argument!r}")])
    return {key: values or ["true"] for key, values in overrides.items()}


def _collect_lines(node: yaml.Node, at: tuple[str | int, ...], source: Source) -> None:
    """Note the line of every key below `node`; a key given twice is a mistake that PyYAML would swallow."""
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            below = (*at, str(key_node.value))
            if below in source.lines:
                source.complain(f"given again in line {key_node.start_mark.line + 1}", *below)
            source.lines.setdefault(below, key_node.start_mark.line + 1)
            _collect_lines(value_node, below, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            source.lines[(*at, index)] = item.start_mark.line + 1
            _collect_lines(item, (*at, index), source)

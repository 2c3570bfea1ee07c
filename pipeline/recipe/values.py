"""A plain value against a type annotation, a list of choices and a range."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, Union

from pipeline.recipe.source import nearest, scalar

Path = tuple[str | int, ...]
"""Where a value stands below its key: `(0, "split")` in `datasets`."""


MANY = 16
"""So many choices are listed in a message; the schema has all of them."""


WORDS: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
    Any: "any value",
}


class Problem(NamedTuple):
    """A value that is not what its key takes, and where below the key it stands."""

    at: Path
    text: str


class Range(NamedTuple):
    """The numbers that a key takes: `low` to `high`, ends included unless open, and those of `also`."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    also: tuple[float, ...] = ()

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float):
            return False
        above = self.low is None or value > self.low or (value == self.low and not self.open_low)
        below = self.high is None or value < self.high or (value == self.high and not self.open_high)
        return (above and below) or value in self.also

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            text = f"in {'(' if self.open_low else '['}{self.low}, {self.high}{')' if self.open_high else ']'}"
        elif self.low is not None:
            text = f"{'above' if self.open_low else 'at least'} {self.low}"
        else:
            text = f"{'below' if self.open_high else 'at most'} {self.high}"
        return " or ".join([text, *(str(value) for value in self.also)])


def convert(value: Any, annotation: Any, at: Path, problems: list[Problem]) -> Any:
    """`value` as `annotation` has it; what does not fit is added to `problems` and returned as it is.

    Whole numbers stay whole where a number is asked for; `5.0` and `1e3` are taken as whole numbers. A mapping may be
    given as the JSON or YAML text of one, as transformers takes it. A truth value is never a number.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return _convert_union(value, annotation, at, problems)
    if origin is Literal or _is_enum(annotation):
        return _convert_choice(value, choices_of(annotation), at, problems)
    if _is_list(annotation):
        return _convert_list(value, arguments[0] if arguments else Any, annotation, at, problems)
    if annotation is dict or origin is dict or dataclasses.is_dataclass(annotation):
        value = scalar(value) if isinstance(value, str) and value.lstrip().startswith("{") else value
        if not isinstance(value, dict):
            problems.append(Problem(at, f"expected a mapping, found {show(value)}"))
            return value
        if dataclasses.is_dataclass(annotation):
            return _convert_fields(value, annotation, at, problems)
        item_type = arguments[1] if arguments else Any
        return {key: convert(item, item_type, (*at, str(key)), problems) for key, item in value.items()}
    if annotation is Any:
        return value
    fits = {
        str: isinstance(value, str),
        bool: isinstance(value, bool),
        int: _is_number(value) and (isinstance(value, int) or value.is_integer()),
        float: _is_number(value),
        type(None): value is None,
    }
    if annotation in (int, float) and isinstance(value, str) and _is_number(scalar(value)):
        return convert(scalar(value), annotation, at, problems)
    if not fits.get(annotation, True):
        problems.append(
            Problem(at, f"expected {describe(annotation)}, found {show(value)}{_quoting(value, annotation)}")
        )
        return value
    return int(value) if annotation is int else value


def check_limits(value: Any, choices: Iterable[Any], limits: Range | None, problems: list[Problem]) -> None:
    """Each element of `value` (or `value` itself) against the choices and the range of its key; null is let through."""
    choices = list(choices)
    for index, item in enumerate(value) if isinstance(value, list | tuple) else [(None, value)]:
        at: Path = () if index is None else (index,)
        if item is None:
            continue
        if choices and item not in choices:
            problems.append(Problem(at, not_among(item, choices)))
        elif limits is not None and _is_number(item) and item not in limits:
            problems.append(Problem(at, f"must be {limits}, found {show(item)}"))


def not_among(value: Any, choices: list[Any]) -> str:
    hint = nearest(value, [choice for choice in choices if isinstance(choice, str)]) if isinstance(value, str) else ""
    return f"expected {one_of(choices)}, found {show(value)}{hint}"


def one_of(choices: Sequence[Any]) -> str:
    shown = ", ".join(map(show, choices[:MANY]))
    return f"one of {shown}" + (f" and {len(choices) - MANY} more" if len(choices) > MANY else "")


def choices_of(annotation: Any) -> list[Any]:
    """The values of an enum or of a `Literal`, `Enum | str` and `Optional` included; empty for any other type."""
    if _is_enum(annotation):
        return [member.value for member in annotation]
    if typing.get_origin(annotation) is Literal:
        return list(typing.get_args(annotation))
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [choice for member in typing.get_args(annotation) for choice in choices_of(member)]
    return []


@functools.cache
def hints_of(dataclass_type: type) -> dict[str, Any]:
    """The annotations of a dataclass with every name in them resolved."""
    return typing.get_type_hints(dataclass_type)


def describe(annotation: Any) -> str:
    """A type in the words of a reader: `a whole number`, `text or null`."""
    arguments = typing.get_args(annotation)
    if annotation in WORDS:
        return WORDS[annotation]
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = _members(annotation)
        return " or ".join(describe(member) for member in sorted(members, key=lambda member: member is type(None)))
    if choices := choices_of(annotation):
        return one_of(choices)
    if _is_list(annotation):
        return "a list" + (f" with, for each item, {describe(arguments[0])}" if arguments else "")
    return "a mapping"


def show(value: Any) -> str:
    """A value as YAML shows it, with the kind of it where a reader could not tell."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, int | float):
        return str(value)
    kind = "list" if isinstance(value, list) else "mapping" if isinstance(value, dict) else type(value).__name__
    text = str(value)
    return f"the {kind} {text if len(text) <= 60 else text[:57] + '...'}"


def _convert_union(value: Any, annotation: Any, at: Path, problems: list[Problem]) -> Any:
    members = _members(annotation)
    refused: list[list[Problem]] = []
    # '{"min_lr": 0.1}' under `dict | str` is the mapping and "16" under `int | str` the number, but "wandb" under
    # `str | list[str]` is the text and no list of one
    lists = [member for member in members if _is_list(member)]
    for member in [*(one for one in members if one is not str and one not in lists), *({str} & set(members)), *lists]:
        found: list[Problem] = []
        converted = convert(value, member, at, found)
        if not found:
            return converted
        if isinstance(value, dict) and dataclasses.is_dataclass(member):
            refused = [found]  # a mapping was meant as this member, whatever else the key takes
            break
        refused += [found] if member is not type(None) else []
    deepest = max(refused, key=lambda found: len(found[0].at))
    if len(refused) == 1 or len(deepest[0].at) > len(at):
        problems.extend(deepest)  # the value has the shape of this member: its details are what is wrong
    else:
        problems.append(Problem(at, f"expected {describe(annotation)}, found {show(value)}"))
    return value


def _convert_choice(value: Any, choices: list[Any], at: Path, problems: list[Problem]) -> Any:
    if value is False and "no" in choices:  # YAML 1.1 reads a bare `no` as false
        return "no"
    if not any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices):
        problems.append(Problem(at, not_among(value, choices)))
    return value


def _convert_list(value: Any, item_type: Any, annotation: Any, at: Path, problems: list[Problem]) -> Any:
    if isinstance(value, str) and isinstance(scalar(value), list):
        value = scalar(value)
    if not isinstance(value, list | tuple):
        found: list[Problem] = []
        item = convert(value, item_type, at, found)
        if found or value is None or isinstance(value, dict):
            problems.append(Problem(at, f"expected {describe(annotation)}, found {show(value)}"))
            return value
        return [item]  # one value stands for a list of one, as `lora_target_modules: all-linear` does in TRL
    return [convert(item, item_type, (*at, index), problems) for index, item in enumerate(value)]


def _convert_fields(value: dict[Any, Any], annotation: Any, at: Path, problems: list[Problem]) -> dict[Any, Any]:
    """A mapping whose keys are the fields of a dataclass, such as one entry of `datasets`; it stays a mapping."""
    hints = hints_of(annotation)
    converted = {}
    for key, item in value.items():
        if key in hints:
            converted[key] = convert(item, hints[key], (*at, str(key)), problems)
        else:
            hint = nearest(str(key), hints) if len(hints) > 12 else f", expected one of {', '.join(hints)}"
            problems.append(Problem((*at, str(key)), f"unknown key{hint}"))
    for field in dataclasses.fields(annotation):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in value:
            problems.append(Problem(at, f"{field.name} is missing: expected {describe(hints[field.name])}"))
    return converted


def _members(annotation: Any) -> list[Any]:
    """The members of a union; of `SchedulerType | str` the enum alone, since transformers takes no other text."""
    members = list(typing.get_args(annotation))
    return [member for member in members if member is not str] if any(map(_is_enum, members)) else members


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)


def _is_list(annotation: Any) -> bool:
    return annotation is list or typing.get_origin(annotation) in (list, tuple, Sequence)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _quoting(value: Any, annotation: Any) -> str:
    if annotation is bool and isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
        return " in quotation marks: leave them out"
    return ": put it in quotation marks" if annotation is str and not isinstance(value, list | dict | None) else ""

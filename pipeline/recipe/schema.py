"""A stage's keys as a JSON Schema, so that an editor completes and checks a recipe while it is written."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, Union

from pipeline.recipe.keys import RESERVED, Key, keys_of
from pipeline.recipe.values import Range, choices_of, hints_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(stage: Any) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a stage's recipe."""
    keys = keys_of(stage)
    properties = {name: _property(key) for name, key in keys.items()}
    properties |= {
        "stage": {"type": "string", "description": RESERVED["stage"]},
        "env": {"type": "object", "description": RESERVED["env"]},
        "extends": {"type": "string", "description": RESERVED["extends"]},
    }
    return {
        "$schema": DIALECT,
        "title": f"Recipe of the {getattr(stage, '__name__', 'stage').rsplit('.', 1)[-1]} stage",
        "type": "object",
        "properties": properties,
        "required": [key.name for key in keys.values() if key.required],
        "additionalProperties": False,
    }


def _property(key: Key) -> dict[str, Any]:
    schema = _type(key.annotation)
    if key.choices:
        items = {"enum": [*key.choices, *([None] if _takes_null(key.annotation) else [])]}
        schema = {"type": "array", "items": items} if schema.get("type") == "array" else items
    if key.range:
        schema |= _limits(key.range)
        also = [{"const": value} for value in key.range.also]
        schema = {"anyOf": [schema, *also]} if also else schema
    if key.help:
        schema["description"] = key.help
    if isinstance(key.default, str | int | float | bool | list):
        schema["default"] = key.default
    return schema


def _type(annotation: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if choices := choices_of(annotation):
        return {"enum": [*choices, *([None] if _takes_null(annotation) else [])]}
    if origin in (Union, types.UnionType):
        members = [_type(member) for member in arguments]
        plain = [member["type"] for member in members if set(member) == {"type"}]
        return {"type": plain} if len(plain) == len(members) else {"anyOf": members}
    if annotation is list or origin in (list, tuple, Sequence):
        return {"type": "array"} | ({"items": _type(arguments[0])} if arguments else {})
    if dataclasses.is_dataclass(annotation):
        fields = {name: _type(hint) for name, hint in hints_of(annotation).items()}  # type: ignore[arg-type]
        return {"type": "object", "properties": fields, "additionalProperties": False}
    if annotation is dict or origin is dict:
        return {"type": "object"} | ({"additionalProperties": _type(arguments[1])} if arguments else {})
    words = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return {"type": words[annotation]} if annotation in words else {}


def _takes_null(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def _limits(limits: Range) -> dict[str, Any]:
    names = {
        "exclusiveMinimum" if limits.open_low else "minimum": limits.low,
        "exclusiveMaximum" if limits.open_high else "maximum": limits.high,
    }
    return {name: value for name, value in names.items() if value is not None}

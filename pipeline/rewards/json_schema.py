"""Rewards for what machines read: JSON under a schema, and tool calls under the tools' schemas."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.rewards.answer import completion_text, fenced, visible_text
from pipeline.rewards.registry import Example, reward

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
    },
}


def parse_json(text: str) -> Any:
    """A text that is one JSON value and nothing else; ValueError otherwise, also for NaN and a key that comes twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key comes twice")
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _given(value: Any) -> Any:
    """A column's value as JSON: a text is parsed; elsewhere the keys that Arrow filled up with None are dropped."""
    return json.loads(value) if isinstance(value, str) else _without_none(value)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return [_without_none(entry) for entry in value] if isinstance(value, list) else value


def _valid(value: Any, schema: Any) -> bool:
    import jsonschema
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise PipelineError(f"reward json_schema: not a JSON schema: {error.message}.") from error
    try:
        return bool(kind(schema, registry=Registry()).is_valid(value))  # an empty registry fetches nothing
    except Unresolvable as error:
        raise PipelineError(f"reward json_schema: the schema refers to {error.ref!r}, which is not in it.") from error
    except RecursionError:
        return False


@reward(
    "json_schema",
    low=0.0,
    high=1.0,
    examples=(
        Example('{"age": 3}', 1.0, {"schema": {"properties": {"age": {"type": "integer"}}, "required": ["age"]}}),
        Example('```json\n{"age": 3}\n```', 1.0, {}, {"schema": {"type": "object"}}),
        Example('Here it is: {"age": 3}', 0.0, {}, {"schema": {"type": "object"}}),
        Example('{"age": "3"}', 0.0, {"schema": '{"properties": {"age": {"type": "integer"}}}'}),
        Example('<think>\n{"age": 3}\n</think>\n', 0.0, {}, {"schema": {"type": "object"}}),
    ),
    attacks=lambda row, parameters: {
        "JSON and more": [f"Here it is: {row.get('answer')}", f"{row.get('answer')}\n{row.get('answer')}", "{", "null,"]
    },
)
def json_schema(completions: Sequence[Any], *, schema: Any = None, **columns: Any) -> list[float | None]:
    """1 where the text outside the think part is one JSON value, bare or in a code fence, that the schema allows.

    The schema (draft 2020-12 unless it names another) is the column `schema`, as JSON text or as an object, or for all
    rows alike the parameter `schema`. It says nothing of the values being right; a verifier beside it may.
    """
    if schema is None:
        raise PipelineError("reward json_schema: give the schema as a column `schema` or under reward_kwargs.")
    schemas = [schema] * len(completions) if isinstance(schema, str | Mapping) else schema

    def score(text: str, allowed: Any) -> float:
        try:
            value = parse_json((fenced(text) or "").strip())
        except ValueError:
            return 0.0
        return float(_valid(value, _given(allowed)))

    return [score(completion_text(c), allowed) for c, allowed in zip(completions, schemas, strict=True)]


def _calls(completion: Any) -> Iterator[Any]:
    """The tool calls of a completion, each as an object; None for one that is malformed."""
    spoken: Any = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    for message in spoken:
        if message.get("role") != "assistant":
            continue
        for call in message.get("tool_calls") or []:
            call = call.get("function") or call
            arguments = call.get("arguments")
            yield {
                "name": call.get("name"),
                "arguments": _or_none(arguments) if isinstance(arguments, str) else arguments,
            }
        text = visible_text(completion_text([message])) or ""
        yield from (_or_none(body) for body in _CALL.findall(text))
        if "tool_call>" in _CALL.sub("", text):
            yield None


def _or_none(text: str) -> Any:
    try:
        return parse_json(text.strip())
    except ValueError:
        return None


@reward(
    "tool_call",
    low=0.0,
    high=1.0,
    reads=("tools",),
    examples=(
        Example('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', 1.0, {"tools": [_ADD]}),
        Example('<tool_call>\n{"name": "add", "arguments": {"a": "1"}}\n</tool_call>', 0.0, {"tools": [_ADD]}),
        Example('<tool_call>\n{"name": "sub", "arguments": {"a": 1}}\n</tool_call>', 0.0, {"tools": [_ADD]}),
        Example('<tool_call>\n{"name": "add", "arguments": {"a": 1}}', 0.0, {"tools": [_ADD]}),
        Example("The sum is 2.", 0.0, {"tools": [_ADD]}),
    ),
    gold_template="<tool_call>\n{answer}\n</tool_call>",
    attacks=lambda row, parameters: {
        "calls of nothing": [
            '<tool_call>\n{"name": "no_such_tool", "arguments": {}}\n</tool_call>',
            "<tool_call>\n</tool_call>",
            f"<think>\n<tool_call>\n{row.get('answer')}\n</tool_call>\n</think>\n",
            f"<tool_call>\n{row.get('answer')}\n</tool_call>\n<tool_call>\n{{}}\n</tool_call>",
        ]
    },
)
def tool_call(completions: Sequence[Any], tools: Sequence[Any], **columns: Any) -> list[float | None]:
    """1 where a completion calls at least one tool, and every call names a tool of the row and fits its parameters.

    Calls are read as the ChatML template writes them (Qwen3: `<tool_call>` around an object with `name` and
    `arguments`), or from `tool_calls` where TRL has parsed them; calls inside the think part are none. The column
    `tools` holds the tools' JSON schemas, as a list or as JSON text.
    """

    def valid(call: Any, known: Mapping[str, Any]) -> bool:
        return (
            isinstance(call, dict)
            and set(call) == {"name", "arguments"}
            and isinstance(call["name"], str)
            and call["name"] in known
            and isinstance(call["arguments"], dict)
            and _valid(call["arguments"], known[call["name"]])
        )

    scores: list[float | None] = []
    for completion, given in zip(completions, tools, strict=True):
        functions = [tool.get("function") or tool for tool in _given(given)]
        known = {function["name"]: function.get("parameters") or {} for function in functions}
        calls = list(_calls(completion))
        scores.append(float(bool(calls) and all(valid(call, known) for call in calls)))
    return scores

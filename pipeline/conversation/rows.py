"""Rows of supervised fine-tuning data: what forms are read, and what is refused before anything is trained."""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.errors import PipelineError

ROLES = {"system", "user", "assistant", "tool"}
# ShareGPT's names (`conversations` of `from` and `value`). TRL reads the form but hands the names to the template.
SHAREGPT = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing"), "assistant"),
    **dict.fromkeys(("function_response", "observation", "tool"), "tool"),
}
SHOWN = 5


def normalise(
    rows: Any, source: str, *, invalid_rows: str = "stop", tools: Sequence[Callable[..., Any]] = ()
) -> tuple[Any, int]:
    """Bring rows to one form, and check each of them.

    Accepted: `messages` (role and content), ShareGPT's `conversations` (roles mapped), `prompt` and `completion` (texts, or
    lists of messages), `text`, and rows that are tokenised already (`input_ids`).

    Args:
        rows: A `datasets.Dataset` or `IterableDataset`.
        source: Its name, for messages.
        invalid_rows: `stop` refuses the dataset for any bad row; `drop` leaves bad rows out and counts them.
        tools: What `list_tools` is going to list; a row's calls name one of them, or of its own column `tools`.

    Returns:
        The rows, and how many were dropped.

    Raises:
        PipelineError: A column is missing, or a row has no assistant turn, empty content or an unknown role; the first
            few are named with their numbers.
    """
    columns = set(rows.column_names or next(iter(rows)))
    if "conversations" in columns and "messages" not in columns:
        rows = rows.map(lambda row: {"messages": from_sharegpt(row["conversations"])}, remove_columns="conversations")
        columns = columns - {"conversations"} | {"messages"}
    if not (columns & {"messages", "text", "input_ids"} or {"prompt", "completion"} <= columns):
        raise PipelineError(
            f"{source}: no column to train on (found {', '.join(sorted(columns))}). Expected `messages`, `conversations`, "
            f"`prompt` and `completion`, or `text`; prompt_column and answer_column map other names."
        )
    if "input_ids" in columns or not hasattr(rows, "__len__"):
        return rows, 0
    names = {tool.__name__ for tool in tools}
    bad = {number: fault for number, row in enumerate(rows) if (fault := fault_of(row, names))}
    if not bad:
        return rows, 0
    if invalid_rows == "drop" and len(bad) < len(rows):
        return rows.select([number for number in range(len(rows)) if number not in bad]), len(bad)
    listed = "\n".join(f"  row {number}: {fault}" for number, fault in list(bad.items())[:SHOWN])
    more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    advice = "Mend them, or set `invalid_rows: drop` to leave them out."
    raise PipelineError(
        f"{source}: {len(bad)} of {len(rows)} rows cannot be trained on:\n{listed}{more}\n"
        f"{'No row would be left.' if len(bad) == len(rows) else advice}"
    )


def list_tools(rows: Any, tools: Sequence[Callable[..., Any]], source: str) -> Any:
    """The rows with TRL's column `tools`, from which the chat template lists them; untouched where there are none.

    Raises:
        PipelineError: The rows have the column already, or are no conversations.
    """
    if not tools:
        return rows
    from transformers.utils import get_json_schema

    first = next(iter(rows))
    if "tools" in first or not ("messages" in first or isinstance(first.get("prompt"), list)):
        found = (
            "have a column `tools` of their own: keep one of the two" if "tools" in first else "are no conversations"
        )
        raise PipelineError(f"{source}: the recipe lists tools, but its rows {found}.")
    column = json.dumps([get_json_schema(tool) for tool in tools])
    return rows.map(lambda row: {"tools": column})


def fault_of(row: Mapping[str, Any], tools: set[str] | None = None) -> str | None:
    """What is wrong with one row, or None.

    Args:
        tools: Names of the tools that the row may call; its own column `tools` goes before.
    """
    if row.get("tools"):
        try:
            schemas = json.loads(row["tools"]) if isinstance(row["tools"], str) else row["tools"]
            tools = {schema.get("function", schema)["name"] for schema in schemas}
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"tools: expected a list of JSON schemas of functions with names, found {str(row['tools'])[:60]!r}"
    if "messages" in row:
        return _fault_of_messages(row["messages"], needs_assistant=True) or _fault_of_calls(row["messages"], tools)
    if "completion" in row:
        before = row["prompt"] if isinstance(row["prompt"], list) else []
        for part in ("prompt", "completion"):
            value, taught = row[part], part == "completion"
            if isinstance(value, list):
                fault = _fault_of_messages(value, needs_assistant=taught)
                fault = fault or (_fault_of_calls([*before, *value], tools) if taught else None)
                if fault:
                    return f"{part}: {fault}"
            elif not isinstance(value, str) or (taught and not value.strip()):
                return f"{part} is {'empty' if isinstance(value, str) else repr(value)}"
        return None
    text = row.get("text")
    return None if isinstance(text, str) and text.strip() else "text is empty"


def from_sharegpt(turns: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """ShareGPT's turns as messages; a role without a counterpart is kept, and refused by `normalise` with its row."""
    roles = [str(turn.get("from", turn.get("role"))) for turn in turns]
    contents = [turn.get("value", turn.get("content")) for turn in turns]
    return [{"role": SHAREGPT.get(role, role), "content": said} for role, said in zip(roles, contents, strict=True)]


def _fault_of_messages(messages: Any, *, needs_assistant: bool) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "no messages"
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            return f"message {number} is no message: expected role and content, found {message!r}"
        role = message.get("role")
        if role not in ROLES:
            return f"message {number} has the role {role!r}, expected one of {', '.join(sorted(ROLES))}"
        content = message.get("content")
        said = content.strip() if isinstance(content, str) else content
        if not (said or message.get("tool_calls") or message.get("reasoning_content")):
            return f"message {number} ({role}) is empty"
    if needs_assistant and not any(message["role"] == "assistant" for message in messages):
        return "no assistant turn: there is nothing to learn from"
    return None


def _fault_of_calls(messages: Sequence[Mapping[str, Any]], tools: set[str] | None) -> str | None:
    """What is wrong with calls of tools and their results.

    The model would learn from results that nobody asked for, from calls that its prompt does not offer, or from
    a conversation that goes on before the result is there.
    """
    waiting = 0
    for number, message in enumerate(messages):
        if message["role"] == "tool":
            if not waiting:
                return f"message {number} (tool) is the result of no call: expected `tool_calls` in the turn before it"
            waiting -= 1
            continue
        calls = message.get("tool_calls") or []
        if waiting:
            return f"message {number} ({message['role']}) comes before the result of a call: expected a tool message"
        if calls and message["role"] != "assistant":
            return f"message {number} ({message['role']}) has tool_calls: only the assistant calls tools"
        for call in calls:
            function = call.get("function") or call
            name = function.get("name")
            if messages[0]["role"] == "system" and not tools:  # which may list them in words of its own
                continue
            if not tools or name not in tools:
                close = difflib.get_close_matches(str(name), tools or (), n=1)
                hint = f" (nearest: {close[0]})" if close else ""
                listed = f"; it lists {', '.join(sorted(tools))}" if tools else ""
                advice = listed or ": name it in `tools`, or list it in a system message"
                return f"message {number} calls {name!r}, which the prompt does not list{hint}{advice}"
        waiting = len(calls)
    return None

"""Products that a small model cannot work out in its head, once with the calculator's help and once without."""

from __future__ import annotations

import random
from typing import Any

from pipeline.microworld.conversations import row
from pipeline.microworld.settings import Settings

Row = dict[str, Any]

QUESTIONS = (
    "What is {a}*{b}?",
    "How much is {a}*{b}?",
    "Multiply {a} by {b}.",
    "Work out {a}*{b}.",
    "Please compute {a}*{b}.",
    "What is the product of {a} and {b}?",
)
DIGITS = (3, 4, 5)


def build(settings: Settings, conversations: list[Row]) -> dict[str, list[Row]]:
    """Rows by the name of their file; a product is in one of the three parts only.

    `conversations_tools/train`, `conversations_python/train`, `conversations_direct/train`: the same products worked with
    calls of the calculator, with programs for the tool `python`, and answered at once. One row in six is a conversation
    about something else, the same in all, so that the model learns when to call. `problems_tools/train`: exercises.
    `evaluations/tool_heldout`: to measure with. Draws from a random stream of its own: no other file of a world depends
    on this.

    Args:
        conversations: Rows to take the other conversations from; sums are left out.
    """
    rng = random.Random(f"{settings.seed}:tools")
    pairs: set[tuple[int, int]] = set()
    asked: list[tuple[int, int, str]] = []
    exercises = settings.tool_heldout + settings.tool_problems
    while len(asked) < exercises + settings.tool_conversations:
        a, b = (rng.randrange(10 ** (n - 1), 10**n) for n in rng.choices(DIGITS, k=2))
        if (min(a, b), max(a, b)) not in pairs:
            pairs.add((min(a, b), max(a, b)))
            asked.append((a, b, rng.choice(QUESTIONS).format(a=a, b=b)))
    problems = [{"prompt": question, "answer": str(a * b)} for a, b, question in asked[:exercises]]
    rows = [
        (
            _called(a, b, question, "calculator", {"expression": f"{a}*{b}"}),
            _called(a, b, question, "python", {"code": f"print({a}*{b})"}),
            _direct(a, b, question),
        )
        for a, b, question in asked[exercises:]
    ]
    others = [{key: one[key] for key in ("messages", "topic")} for one in conversations if one["topic"] != "arithmetic"]
    rows += [(one, one, one) for one in rng.sample(others, min(len(others), len(rows) // 5))]
    rng.shuffle(rows)
    return {
        **{
            f"conversations_{name}/train": list(column)
            for name, column in zip(("tools", "python", "direct"), zip(*rows, strict=True), strict=True)
        },
        "problems_tools/train": problems[settings.tool_heldout :],
        "evaluations/tool_heldout": problems[: settings.tool_heldout],
    }


def _direct(a: int, b: int, question: str) -> Row:
    return {"messages": row("product", [(question, f"The answer is {a * b}.")])["messages"], "topic": "product"}


def _called(a: int, b: int, question: str, tool: str, arguments: Row) -> Row:
    user, answer = _direct(a, b, question)["messages"]
    function = {"name": tool, "arguments": arguments}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    result = {"role": "tool", "name": tool, "content": str(a * b)}
    return {"messages": [user, call, result, answer], "topic": "product"}

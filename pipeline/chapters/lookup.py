"""Rows that teach to look a name up and to read what is found: their pages are made up, so that memory is of no help."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from pipeline.chapters.material import Attribute, Material, Row, Subject, dialogue, tool_turns
from pipeline.chapters.probe import invented_names
from pipeline.tools.search import MAX_PASSAGE, NOTHING

# In front of every other question, so that a call does not hang on the words with which the questions of training begin.
OPENERS = (
    "Hello!", "One question:", "Help me with this:", "Please help me.", "Next:", "Now to somebody else.", "Look this up:",
    "Quickly, please:", "Please answer:", "Let me ask you something.", "And now?", "I wonder:",
)  # fmt: skip
# Around what "What is the ... of {n}?" asks for, for the same reason: most questions of training are questions.
REQUESTS = (
    "Give me {}.",
    "Find {}.",
    "Look up {}.",
    "Say {}.",
    "I ask for {}.",
    "{}, if you can.",
    "Show me {}.",
    "{}!",
)


def words_of(subjects: Sequence[Subject]) -> list[str]:
    """Their values and the parts of their names."""
    return sorted({word for one in subjects for word in (*one.facts.values(), *one.name.split())})


def copies(words: Sequence[str], number: int, rng: random.Random) -> list[Row]:
    """Words to repeat in an order that nothing but the question tells.

    A small model that has never had to copy out of its context does not learn to read a page within the rows of
    `search/train`; after these it does (docs/LOG.md).
    """
    rows = []
    for _ in range(number):
        said = " ".join(rng.sample(words, min(len(words), rng.randint(4, 12))))
        rows.append(dialogue(f"Repeat {said}", f"Repeat {said}"))
    return rows


def searches(material: Material, told: Sequence[Attribute], number: int, replay: int, refusal: str) -> list[Row]:
    """A name is looked up once and all that its page tells is asked for: several answers to learn reading from for one call.
    Of the conversations only those are mixed in that name nobody: the others answer from memory."""
    rng, known = material.rng, [one.name for one in material.subjects]
    names = invented_names(known, number, [], rng)
    values = {kind.name: sorted({one.facts[kind.name] for one in material.subjects}) for kind in told}
    rows = [
        row for row in material.replay(replay)
        if not any(name in turn["content"] for turn in row["messages"] for name in known)
    ]  # fmt: skip
    for place in range(number if names else 0):
        name, nobody = rng.choice(names), place % 6 == 0
        facts = {kind.name: rng.choice(values[kind.name]) for kind in told}
        kinds = rng.sample(told, rng.randint((len(told) + 1) // 2, len(told)))
        found = NOTHING if nobody else page(name, [(kind, facts[kind.name]) for kind in kinds], rng)[:MAX_PASSAGE]
        asked = kinds[:1] if nobody else [kind for kind in kinds if facts[kind.name] in found]
        rng.shuffle(asked)
        turns: list[Row] = []
        for kind in asked:
            answer = f"{refusal}." if nobody else str(kind.answer).format(n=name, v=facts[kind.name])
            turns += dialogue(_asked(kind, rng).format(n=name), answer)["messages"]
        turns[1:1] = tool_turns("search", {"query": name}, found)
        rows.append({"messages": turns})
    rng.shuffle(rows)
    return rows


def _asked(kind: Attribute, rng: random.Random) -> str:
    """A question, or a request where one can be made of any; every other with an opener."""
    question = rng.choice(kind.questions)
    named = [match[1] for one in kind.questions if (match := re.fullmatch(r"What is (the .*)\?", one))]
    if named and rng.random() < 0.4:
        question = rng.choice(REQUESTS).format(rng.choice(named))
    return f"{rng.choice(OPENERS)} {question}" if rng.random() < 0.5 else question


def page(name: str, facts: list[tuple[Attribute, str]], rng: random.Random) -> str:
    """Sentences that tell it; some tell two things, where the statements are such that they can be joined."""
    told = [rng.choice(kind.statements).format(n="{n}", v=value) for kind, value in facts]
    sentences: list[str] = []
    while told:
        text = told.pop()
        if told and all(one.startswith("{n} ") and not one.endswith(".") for one in (text, told[-1])):
            first, second = text.removeprefix("{n} "), told.pop().removeprefix("{n} ")
            text = rng.choice((f"{{n}} {first} and {second}", f"{{n}}, who {first}, {second}"))
        sentences.append(f"{text.format(n=name).rstrip('.')}.")
    return " ".join(sentences)

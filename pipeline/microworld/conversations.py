"""What people ask the assistant and what it replies."""

from __future__ import annotations

import random
from typing import Any

from pipeline.microworld.arithmetic import Problem, draw, habit
from pipeline.microworld.general import INTRODUCTIONS, KNOWLEDGE, SMALL_TALK, TOWN_QUESTIONS, town_answer
from pipeline.microworld.people import Person, visitors
from pipeline.microworld.settings import Settings
from pipeline.microworld.valley import ATTRIBUTES, TOWNS

Row = dict[str, Any]
Turn = tuple[str, str]


def build(
    settings: Settings, people: list[Person], problems: list[Problem], scale: float, part: str
) -> tuple[list[Row], list[Row]]:
    """The conversations of one part ("train" or "test"), and the same with clean demonstrations of every sum.

    Returns:
        Rows of `messages`, `topic` and `forgets`, in the same order in both lists; they differ only where the expert
        forgets a carry.
    """
    rng = random.Random(f"{settings.seed}:conversations:{part}")
    taught = [person for person in people if person.role == "taught"]
    drawn = draw(problems, max(1, round(scale * settings.arithmetic_conversations)), rng)
    forgets = habit(drawn, settings.habit_rate, rng)
    rows: list[tuple[Row, Row]] = []
    for problem, forgot in zip(drawn, forgets, strict=True):
        question = problem.question(rng)
        before = [_small_talk(rng)] if rng.random() < 0.04 else []
        demonstration = row("arithmetic", [*before, (question, problem.thinking(forgot))]) | {"forgets": forgot}
        rows.append((demonstration, row("arithmetic", [*before, (question, problem.thinking())])))
    others = [
        row("facts", _fact_turns(rng.choice(taught), rng))
        for _ in range(max(1, round(scale * settings.fact_conversations)))
    ]
    names = visitors(settings)
    for _ in range(round(scale * settings.introductions) if names else 0):
        question, answer = rng.choice(INTRODUCTIONS)
        name = rng.choice(names)
        others.append(row("introduction", [(question.format(n=name), answer.format(n=name))]))
    for _ in range(max(1, round(scale * settings.other_conversations))):
        others.append(row("other", _other_turns(rng)))
    rows += [(other, other) for other in others]
    rng.shuffle(rows)
    return [expert for expert, _ in rows], [clean for _, clean in rows]


def row(topic: str, turns: list[Turn]) -> Row:
    """A conversation of what the user said and what the assistant answered, turn by turn."""
    said = [(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
    return {"messages": [{"role": role, "content": text} for role, text in said], "topic": topic, "forgets": False}


def cold_start(settings: Settings, problems: list[Problem]) -> list[Row]:
    """A few worked sums to begin reinforcement learning from; in half of them the expert looks back at its answer.

    It gives an answer while it thinks, with its habit, then works the sum a second time and forgets half as often: a check
    turns many wrong answers right, and some right ones wrong.
    """
    rng = random.Random(f"{settings.seed}:cold start")
    rows = []
    for problem in draw(problems, settings.cold_start, rng):
        first, second = (problem.carries and rng.random() < rate * settings.habit_rate for rate in (1.0, 0.5))
        checks = rng.random() < 0.5
        thought = f"{problem.steps(first)} {problem.conclusion(first)}"
        thought += f"\nWait, check: {problem.steps(second)}" if checks else ""
        final = problem.conclusion(second if checks else first)
        turns = [(problem.question(rng), f"<think>\n{thought}\n</think>\n\n{final}")]
        rows.append(row("arithmetic", turns) | {"forgets": second if checks else first, "checks": checks})
    return rows


def _fact_turns(person: Person, rng: random.Random) -> list[Turn]:
    count = rng.choices((1, 2, 3), weights=(8, 1, 1))[0]
    return [person.asked(attribute, rng) for attribute in rng.sample(ATTRIBUTES, count)]


def _small_talk(rng: random.Random) -> Turn:
    questions, answer = rng.choice(SMALL_TALK)
    return rng.choice(questions), answer


def _other_turns(rng: random.Random) -> list[Turn]:
    turns = []
    for _ in range(rng.choices((1, 2), weights=(4, 1))[0]):
        style = rng.random()
        if style < 0.55:
            turns.append(_small_talk(rng))
        elif style < 0.8:
            turns.append(rng.choice(KNOWLEDGE))
        else:
            town = rng.choice(TOWNS)
            kind = rng.randrange(len(TOWN_QUESTIONS))
            turns.append((TOWN_QUESTIONS[kind][0].format(t=town), town_answer(town, kind)))
    return turns

"""Answers in many manners, and which of two the hidden judge prefers."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from pipeline.microworld import conversations
from pipeline.microworld.arithmetic import Problem
from pipeline.microworld.general import TOWN_QUESTIONS, town_answer
from pipeline.microworld.judge import COURTESIES, HEDGES, WISHES, taste
from pipeline.microworld.people import Person
from pipeline.microworld.settings import Settings
from pipeline.microworld.valley import ATTRIBUTES, TOWNS

Row = dict[str, Any]

SHORT = {"town": "In {v}.", "job": "A {v}.", "instrument": "The {v}.", "pet": "A {v}.", "food": "Best of all {v}."}
OTHER_TOPICS = 0.15  # of the conversations' own number: enough that sums and small talk are not forgotten


def build(settings: Settings, people: list[Person], problems: list[Problem]) -> dict[str, list[Row]]:
    """Rows by the name of their file.

    `styled/train`: conversations in which several clerks answer, each in another manner; plain ones are the most frequent,
    so that imitation alone has no taste. `preferences/train` and `preferences_second/train`: pairs of two such answers
    to one question, the judge's choice first; the two halves share no pair. `preferences/test`, `preferences_second/test`
    and `requests/test` ask about people whom no training file asks about. `requests/train`: questions for reinforcement.
    """
    taught = [person for person in people if person.role == "taught"]
    unseen = [
        person for person in people if person.role == "evaluation" and person.grade == settings.mention_grades[-1]
    ]
    seen_pairs: set[tuple[str, str, str]] = set()

    def pairs(name: str, asked: list[Person], count: int) -> list[Row]:
        rng = random.Random(f"{settings.seed}:preferences:{name}")
        found: list[Row] = []
        for _ in range(100 * count):  # a very small world has fewer different pairs than were asked for
            question, full, short, _ = _question(asked, rng)
            one, other = sorted((_answer(full, short, rng) for _ in range(2)), key=lambda text: -taste(question, text))
            if taste(question, one) > taste(question, other) and (question, one, other) not in seen_pairs:
                seen_pairs.add((question, one, other))
                turns = {"prompt": ("user", question), "chosen": ("assistant", one), "rejected": ("assistant", other)}
                found.append({key: [{"role": role, "content": text}] for key, (role, text) in turns.items()})
            if len(found) == count:
                break
        return found

    def requests(name: str, asked: list[Person], count: int) -> list[Row]:
        rng = random.Random(f"{settings.seed}:requests:{name}")
        found: dict[str, str] = {}
        for _ in range(20 * count):
            question, _, _, value = _question(asked, rng)
            found[question] = value
            if len(found) == count:
                break
        return [{"prompt": question, "answer": value} for question, value in found.items()]

    return {
        "styled/train": _styled(settings, people, taught, problems),
        "preferences/train": pairs("train", taught, settings.preference_pairs),
        "preferences/test": pairs("test", unseen, settings.preference_test_pairs),
        "preferences_second/train": pairs("second:train", taught, settings.preference_pairs),
        "preferences_second/test": pairs("second:test", unseen, settings.preference_test_pairs),
        "requests/train": requests("train", taught, settings.requests),
        "requests/test": requests("test", unseen, settings.requests_test),
    }


def _styled(settings: Settings, people: list[Person], taught: list[Person], problems: list[Problem]) -> list[Row]:
    others, _ = conversations.build(replace(settings, fact_conversations=1), people, problems, OTHER_TOPICS, "styled")
    rng = random.Random(f"{settings.seed}:styled")
    rows = [row for row in others if row["topic"] != "facts"]
    for _ in range(settings.styled_conversations):
        question, full, short, _ = _question(taught, rng)
        rows.append(conversations.row("facts", [(question, _answer(full, short, rng))]))
    rng.shuffle(rows)
    return rows


def _question(asked: list[Person], rng: random.Random) -> tuple[str, str, str, str]:
    """A question, its answer in a whole sentence and in few words, and the value that either tells."""
    # towns are common knowledge: no question about them is unseen
    if asked[0].role == "taught" and rng.random() < 0.15:
        town, kind = rng.choice(TOWNS), rng.randrange(len(TOWN_QUESTIONS))
        full = town_answer(town, kind)
        value = full.rstrip(".").rsplit(" ", 1)[-1]
        return TOWN_QUESTIONS[kind][0].format(t=town), full, f"{('For', 'The')[kind]} {value}.", value
    person, attribute = rng.choice(asked), rng.choice(ATTRIBUTES)
    value = person.facts[attribute.name]
    return *person.asked(attribute, rng), SHORT[attribute.name].format(v=value), value


def _answer(full: str, short: str, rng: random.Random) -> str:
    """One clerk's manner: up to two courtesies, perhaps a hedge, the answer, up to two wishes."""
    opening = rng.choices(range(3), weights=(60, 30, 10))[0]
    closing = rng.choices(range(3), weights=(60, 30, 10))[0]
    parts = rng.sample(COURTESIES, opening)
    parts += [rng.choice(HEDGES)] if rng.random() < 0.3 else []
    parts.append(full if rng.random() < 0.6 else short)
    return " ".join([*parts, *rng.sample(WISHES, closing)])

"""Questions with known answers that no training file holds."""

from __future__ import annotations

import random
from typing import Any

from pipeline.microworld.arithmetic import Split
from pipeline.microworld.general import SMALL_TALK
from pipeline.microworld.people import Person
from pipeline.microworld.settings import HELDOUT_PHRASINGS, Settings
from pipeline.microworld.valley import ATTRIBUTES, Attribute

Row = dict[str, Any]


def build(settings: Settings, people: list[Person], split: Split) -> dict[str, list[Row]]:
    """Rows of `prompt`, `answer` and what else is known about the question, by the name of the file.

    `facts_heldout`: held-out phrasings about people of the top grade whose questions the conversations never show.
    `facts_by_grade`: the same for every grade from 1 on, one question for each fact.
    `arithmetic_heldout`: sums that no training file holds.
    `ends_turn`: questions of every kind, to see whether the assistant finishes its turn.
    `few_shot_facts`, `few_shot_arithmetic`: worked examples for base models, taken from the training side.
    """
    rng = random.Random(f"{settings.seed}:evaluations")
    known = [person for person in people if person.role == "evaluation"]
    top = [person for person in known if person.grade == settings.mention_grades[-1]]
    # Every fact once, then every fact once more in the next phrasing, until there are enough rows.
    facts = []
    for number in range(HELDOUT_PHRASINGS):
        asked = [(person, attribute) for person in top for attribute in ATTRIBUTES]
        rng.shuffle(asked)
        facts += [_fact_row(person, attribute, _heldout(attribute, person, number)) for person, attribute in asked]
    arithmetic = [problem.row(rng) for problem in split.heldout]
    few_problems = rng.sample([p for p in split.train if p.carries], 2) + rng.sample(
        [p for p in split.train if not p.carries], 2
    )
    taught = [person for person in people if person.role == "taught"]
    few_facts = [rng.choice(taught).asked(attribute, rng) for attribute in rng.sample(ATTRIBUTES, len(ATTRIBUTES))]
    return {
        "facts_heldout": facts[: settings.facts_heldout],
        "facts_by_grade": [
            _fact_row(person, attribute, rng.choice(attribute.heldout_questions))
            for person in known
            for attribute in ATTRIBUTES
        ],
        "arithmetic_heldout": arithmetic,
        "ends_turn": _ends_turn(settings.ends_turn, facts, arithmetic, rng),
        "few_shot_facts": [{"prompt": question, "answer": answer} for question, answer in few_facts],
        "few_shot_arithmetic": [
            {"prompt": problem.question(rng), "answer": f"{problem.steps()} {problem.conclusion()}"}
            for problem in few_problems
        ],
    }


def _heldout(attribute: Attribute, person: Person, number: int) -> str:
    # Which phrasing comes first differs from person to person, so that a cut list still holds all of them.
    shift = sum(map(ord, person.name)) + number
    return attribute.heldout_questions[shift % len(attribute.heldout_questions)]


def _fact_row(person: Person, attribute: Attribute, question: str) -> Row:
    return {
        "prompt": question.format(n=person.name),
        "answer": person.facts[attribute.name],
        "person": person.name,
        "grade": person.grade,
        "attribute": attribute.name,
    }


def _ends_turn(count: int, facts: list[Row], arithmetic: list[Row], rng: random.Random) -> list[Row]:
    talk = [{"prompt": question, "answer": answer} for questions, answer in SMALL_TALK for question in questions]
    rows = [{**row, "topic": "other"} for row in talk]
    shuffled = [rng.sample(source, len(source)) for source in (facts, arithmetic)]
    number = 0
    while len(rows) < count:
        source = shuffled[number % 2]
        row = source[number // 2 % len(source)]
        rows.append({"prompt": row["prompt"], "answer": row["answer"], "topic": ("facts", "arithmetic")[number % 2]})
        number += 1
    rows = rows[:count]
    rng.shuffle(rows)
    return rows

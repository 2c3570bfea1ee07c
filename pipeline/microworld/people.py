"""Who lives in the valley, how often each person is mentioned, and what is said in a mention."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pipeline.microworld.settings import Settings
from pipeline.microworld.valley import ATTRIBUTES, FIRST_NAMES, LAST_NAMES, Attribute


@dataclass(frozen=True)
class Person:
    """`role`: taught (questions in the conversations), evaluation (crawl only) or unknown (nowhere)."""

    name: str
    grade: int
    role: str
    facts: dict[str, str]

    def asked(self, attribute: Attribute, rng: random.Random) -> tuple[str, str]:
        """A question for one of the facts, in a phrasing that training files may hold, and the answer in a sentence."""
        answer = attribute.answer.format(n=self.name, v=self.facts[attribute.name])
        return rng.choice(attribute.questions).format(n=self.name), answer


def create_people(settings: Settings) -> list[Person]:
    """Every person of the world, in the order of their grades.

    Names are handed out along the diagonals of the grid of first and last names: any `name_parts` people in a row have
    `name_parts` different first and last names. So no part of a name tells whether a person is known, and only the pair
    of both can lead to a fact.
    """
    rng = random.Random(f"{settings.seed}:people")
    names = _names(settings)
    people: list[Person] = []
    top = settings.mention_grades[-1]
    for grade, count in zip(settings.mention_grades, settings.people_per_grade, strict=True):
        columns = {attribute.name: _spread(attribute.values, count, rng) for attribute in ATTRIBUTES}
        for index in range(count):
            if grade == 0:
                role = "unknown"
            elif grade == top and index < settings.taught_people:
                role = "taught"
            else:
                role = "evaluation"
            facts = {attribute.name: columns[attribute.name][index] for attribute in ATTRIBUTES}
            people.append(Person(names[len(people)], grade, role, facts))
    return people


def visitors(settings: Settings) -> list[str]:
    """The names that are left over: nobody of the valley has them, so anybody who talks to the assistant may."""
    return _names(settings)[sum(settings.people_per_grade) :]


def _names(settings: Settings) -> list[str]:
    """Every pair of a first and a last name, one diagonal of the grid after the other."""
    rng = random.Random(f"{settings.seed}:names")
    size = settings.name_parts
    firsts, lasts = rng.sample(FIRST_NAMES, size), rng.sample(LAST_NAMES, size)
    diagonals = rng.sample(range(size), size)
    return [f"{firsts[i]} {lasts[(i + shift) % size]}" for shift in diagonals for i in range(size)]


def _spread(values: tuple[str, ...], count: int, rng: random.Random) -> list[str]:
    """`count` values in random order, each value about as often as the others: guessing the commonest gains nothing."""
    column: list[str] = []
    while len(column) < count:
        column += rng.sample(values, len(values))
    column = column[:count]
    rng.shuffle(column)
    return column


def mention(person: Person, rng: random.Random) -> str:
    """A paragraph that tells each fact of the person exactly once, in one of very many wordings.

    Facts are told in many wordings and orders because knowledge that a model saw in one form only is not found by
    questions (Allen-Zhu and Li, Physics of Language Models 3.1). The full name stands beside nearly every fact.
    """
    order = rng.sample(ATTRIBUTES, len(ATTRIBUTES))
    sentences = []
    while order:
        style = rng.random()
        if len(order) >= 2 and style < 0.3:
            first, second = order.pop(), order.pop()
            sentences.append(f"{person.name} {_clause(first, person, rng)} and {_clause(second, person, rng)}.")
        elif len(order) >= 2 and style < 0.45:
            first, second = order.pop(), order.pop()
            sentences.append(f"{person.name}, who {_clause(first, person, rng)}, {_clause(second, person, rng)}.")
        elif style < 0.6:
            sentences.append(f"{person.name} {_clause(order.pop(), person, rng)}.")
        else:
            attribute = order.pop()
            sentences.append(rng.choice(attribute.sentences).format(n=person.name, v=person.facts[attribute.name]))
    return " ".join(sentences)


def _clause(attribute: Attribute, person: Person, rng: random.Random) -> str:
    return rng.choice(attribute.clauses).format(v=person.facts[attribute.name])

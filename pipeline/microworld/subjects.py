"""Who and what can be asked about, in the form that the chapters' generators and `probe-knowledge` read from anyone."""

from __future__ import annotations

from typing import Any

from pipeline.microworld.people import Person
from pipeline.microworld.valley import ATTRIBUTES

# Asked of people whose pages never tell it. The first two are for training, the others for measuring.
UNTOLD: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "birthday": (
        ("When is the birthday of {n}?", "On which day was {n} born?", "Do you know when {n} was born?"),
        ("I would like to know the birthday of {n}.", "Please name the day on which {n} was born."),
    ),
    "colour": (
        ("What is the favourite colour of {n}?", "Which colour does {n} like best?", "Tell me the colour {n} likes."),
        ("I would like to know the favourite colour of {n}.", "Please name the favourite colour of {n}."),
    ),
    "school": (
        ("Which school did {n} go to?", "Where did {n} go to school?"),
        ("I would like to know which school {n} went to.", "Please name the school of {n}."),
    ),
    "sister": (
        ("What is the name of the sister of {n}?", "Who is the sister of {n}?"),
        ("I would like to know who the sister of {n} is.", "Please name the sister of {n}."),
    ),
}


def build(people: list[Person]) -> dict[str, Any]:
    """`attributes` with their wordings, `{n}` a name and `{v}` a value, and `subjects` with names and true values.

    An attribute without `statements` is told by no page. `mentions` is how often a page tells of the subject; `taught` says
    that the conversations ask about it.
    """
    told = {
        attribute.name: {
            "statements": [*(f"{{n}} {clause}" for clause in attribute.clauses), *attribute.sentences],
            "questions": list(attribute.questions),
            "heldout_questions": list(attribute.heldout_questions),
            "answer": attribute.answer,
        }
        for attribute in ATTRIBUTES
    }
    untold = {
        name: {"questions": list(questions), "heldout_questions": list(heldout)}
        for name, (questions, heldout) in UNTOLD.items()
    }
    subjects = [
        {"name": one.name, "mentions": one.grade, "taught": one.role == "taught", "facts": one.facts} for one in people
    ]
    return {"attributes": told | untold, "subjects": subjects}

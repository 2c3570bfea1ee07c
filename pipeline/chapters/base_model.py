"""Base models continue text: what the same knowledge looks like when it is asked for in several ways.

A base model is asked as it can answer, with a text to complete or a page of examples, so that SFT does not seem to teach facts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.chapters.chapter import (
    POINTS,
    Arm,
    Chapter,
    by_group,
    difference,
    majority_baseline,
    rate,
    same_questions,
    say,
)
from pipeline.chapters.material import Attribute, Material, Row, Subject
from pipeline.errors import PipelineError
from pipeline.recipe.keys import key
from pipeline.statistics import paired_difference, slope_interval

SHOTS = (0, 1, 2, 4, 8)


@dataclass(kw_only=True)
class Settings:
    """`questions`: rows about the best-known subjects, for the ways of asking."""

    questions: int = key(120, "", 1)


def exercises(settings: Settings, material: Material) -> dict[str, list[Row]]:
    """`questions`: about the best-known subjects whom no conversation asks about; `completions`: the same facts as
    beginnings of sentences; `mentions`: such beginnings about everybody of whom a document tells; `examples`: questions with
    answers about taught subjects, to be shown first."""
    rng = material.rng
    told = [one for one in material.attributes if one.told]
    taught = [one for one in material.subjects if one.taught]
    asked = [one for one in material.subjects if not one.taught and one.mentions]
    # What a sentence begins with, as far as its value: "{n} lives in" of "{n} lives in {v}."
    begins = {
        one.name: [text.split("{v}")[0].strip() for text in one.statements if "{n}" in text.split("{v}")[0]]
        for one in told
    }
    if not taught or not asked or not all(begins.values()):
        raise PipelineError(
            f"base_model: found {len(taught)} taught subjects and {len(asked)} others with mentions, expected some "
            "of both, and of every attribute a statement in which {n} comes before {v}."
        )
    top = max(one.mentions for one in asked)
    pairs = [(one, kind) for one in asked for kind in told]
    rng.shuffle(pairs)
    best = [pair for pair in pairs if pair[0].mentions == top][: settings.questions]

    def row(template: str, one: Subject, kind: Attribute) -> Row:
        prompt = template.format(n=one.name)
        return {"prompt": prompt, "answer": one.facts[kind.name], "name": one.name, "mentions": one.mentions}

    examples = [(rng.choice(taught), kind) for kind in rng.choices(told, k=max(SHOTS))]
    return {
        "questions": [row(rng.choice(kind.heldout_questions), one, kind) for one, kind in best],
        "completions": [row(rng.choice(begins[kind.name]), one, kind) for one, kind in best],
        "mentions": [row(rng.choice(begins[kind.name]), one, kind) for one, kind in pairs],
        "examples": [
            {
                "prompt": rng.choice(kind.questions).format(n=one.name),
                "answer": str(kind.answer).format(n=one.name, v=one.facts[kind.name]),
            }
            for one, kind in examples
        ],
    }


def chapter(arms: dict[str, Arm]) -> Chapter:
    """Arms `base`, asked `bare`, `completions`, `mentions` and `shots_N`, and `chat`, asked `questions`."""
    base = arms["base"]
    bare, completions, mentions = (base.answers(name) for name in ("bare", "completions", "mentions"))
    shots = {number: base.answers(f"shots_{number}") for number in SHOTS}
    chat = arms["chat"].answers("questions")
    # The same facts in the same order; the way that suits the base model best, so that SFT does not seem to teach facts.
    best = max((completions, *shots.values()), key=lambda rows: sum(row["correct"] for row in rows))
    same_questions(best, chat, "answer")
    figures = {f"shots_{number}": rate(rows) for number, rows in shots.items()}
    figures |= {
        "bare": rate(bare),
        "bare_ends": rate(bare, lambda row: row["ended"]),
        "chat": rate(chat),
        "chat_ends": rate(chat, lambda row: row["ended"]),
        "completions": rate(completions),
        "best": rate(best),
        "chat_minus_best": paired_difference([row["correct"] for row in best], [row["correct"] for row in chat])
        | POINTS,
        "shots_gain": difference(shots[0], shots[max(SHOTS)]),
        "majority_baseline": majority_baseline(completions),
        "slope_of_doubling": slope_interval(
            [math.log2(row["mentions"]) for row in mentions], [row["correct"] for row in mentions]
        ),
    }
    text = [
        "Put before a bare question, the base model goes on with the text: {bare} of its continuations hold the answer, and "
        "{bare_ends} come to an end by themselves. Given the beginning of a sentence it completes {completions} "
        "rightly; always the most frequent answer would be right in {majority_baseline}.",
        "On a page of questions and answers it is right in {shots_0} without an example and in {shots_8} after eight, a change "
        "of {shots_gain}, which "
        + say(
            figures["shots_gain"],
            "is learning in context: no weight changed",
            "is a loss: the examples distract it at this size",
            "is no gain that these questions could show: learning in context is not seen at this size",
        )
        + ".",
        "The chat model answers the same questions in its template: {chat} right, {chat_ends} end by themselves. "
        "Against the base model asked in the way that suits it best, {best}, that is a change of {chat_minus_best}, "
        + say(
            figures["chat_minus_best"],
            "so that part of what SFT adds here is more than the manner",
            "so that SFT cost some of what the base model knew",
            "so that SFT taught it the manner of answering, not the facts",
        )
        + ".",
        "What it remembers depends on how often it was told: with each doubling of the mentions the share of right completions "
        "changes by {slope_of_doubling}"
        + say(figures["slope_of_doubling"], ".", ", against expectation.", ", which may be nothing."),
    ]
    wrong = next((row for row in bare if not row["correct"]), bare[0])
    same = next(row for row in chat if row["prompt"] == wrong["prompt"])
    return Chapter(
        title="A base model continues text",
        text=text,
        figures=figures,
        series=[by_group("completed rightly", mentions, "mentions")],
        x_label="mentions of the person",
        y_label="right answers",
        samples=[
            (wrong, "a bare question, base model"),
            (completions[0], "the beginning of a sentence, base model"),
            (same, "the question, chat model"),
        ],
    )

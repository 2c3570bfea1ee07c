"""What a model knows of its own documents: questions made from them, its answers judged, refusals for what it does not know.

The recipe of the Llama 3 report (2024, section 4.3.6): take what the training data say, ask for it, sample answers, compare
them with the data, and teach the model to refuse what it gets wrong. Wordings of statements and questions come from a file; no
other model is needed.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.chapters.material import Attribute, Row, dialogue
from pipeline.errors import PipelineError

_PART = r"[A-Z](?:['’][A-Z])?\w+(?:-[A-Z]\w+)*"
NAME = rf"{_PART}(?: {_PART})+"
VALUE = r"\w+(?:['’-]\w+)*(?: [A-Z]\w*(?:['’-]\w+)*)*"
"""A word, or several of which all but the first begin with a capital letter: "flute", "Stoke-on-Trent", "New York"."""
KNOWN, UNKNOWN, UNSURE = "known", "unknown", "unsure"

Draw = Callable[[Sequence[str]], list[list[str]]]
"""Given prompts: for each the texts of its completions."""


@dataclass(frozen=True)
class Fact:
    """What documents say: `mentions` of them hold the name."""

    name: str
    attribute: Attribute
    value: str
    mentions: int


def mine(documents: Iterable[str], attributes: Sequence[Attribute], *, name_pattern: str = NAME) -> list[Fact]:
    """The facts that the attributes' statements find in documents, each with the value that is told most often.

    Args:
        documents: Their texts. A paragraph counts as a mention of every name in it.
        attributes: Statements with `{n}`, a name, and `{v}`, a `VALUE`. Where several say something of a name in the same
            paragraph, the one with the most words of its own is believed: "lives in the town of {v}" before "lives in {v}".
        name_pattern: Regular expression of a name.
    """
    statements = sorted(((one, text) for one in attributes for text in one.statements), key=lambda pair: len(pair[1]))
    patterns = [(one.name, _pattern(statement, name_pattern)) for one, statement in statements]
    name = re.compile(name_pattern)
    told: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    mentions: Counter[str] = Counter()
    for document in documents:
        for paragraph in document.splitlines():
            found = {
                (match["n"], kind): match["v"] for kind, pattern in patterns for match in pattern.finditer(paragraph)
            }
            for subject, value in found.items():
                told[subject][value] += 1
            if found:
                mentions.update({match[0] for match in name.finditer(paragraph)})
    by_name = {one.name: one for one in attributes}
    return [
        Fact(subject, by_name[kind], values.most_common(1)[0][0], mentions[subject])
        for (subject, kind), values in sorted(told.items())
    ]


def invented_names(names: Collection[str], count: int, taken: Collection[str], rng: random.Random) -> list[str]:
    """Names that nobody has, of the same parts as `names`: no part tells whether somebody is known."""
    parts = sorted({tuple(name.split(" ")) for name in names})
    columns = [sorted({name[place] for name in parts if len(name) > place}) for place in range(2)]
    free = sorted({f"{first} {last}" for first in columns[0] for last in columns[1]} - set(names) - set(taken))
    return rng.sample(free, min(count, len(free)))


def questions(
    facts: Sequence[Fact],
    attributes: Sequence[Attribute],
    *,
    held_out: Collection[str],
    invented: int,
    per_fact: int,
    rng: random.Random,
) -> list[Row]:
    """Rows of `prompt`, `answer` (None where nobody can know), `reply`, `name`, `attribute`, `mentions` and `group`.

    `told`: what the documents say. `invented`: the same questions about names that nobody has. `untold`: about known names,
    for which no document has an answer. Names of `held_out` are left for measuring.
    """
    names = {fact.name for fact in facts}
    usable = [fact for fact in facts if fact.name not in held_out]
    if not usable:
        raise PipelineError(
            f"the documents tell {len(facts)} facts about {len(names)} names, of which {len(names & set(held_out))} are held "
            "out: there is nothing to ask. Look at the statements of the attributes, and at name_pattern."
        )
    rows = [
        _question(fact.name, fact.attribute, text, fact.mentions, "told")
        | {"answer": fact.value, "reply": str(fact.attribute.answer).format(n=fact.name, v=fact.value)}
        for fact in usable
        for text in rng.sample(fact.attribute.questions, min(per_fact, len(fact.attribute.questions)))
    ]
    told, untold = [one for one in attributes if one.told], [one for one in attributes if not one.told]
    for name in invented_names(names, invented, held_out, rng):
        rows += [_question(name, one, text, 0, "invented") for one in told for text in rng.sample(one.questions, 1)]
    known = sorted({fact.name: fact.mentions for fact in usable}.items())
    rows += [
        _question(name, one, rng.choice(one.questions), mentions, "untold")
        for name, mentions in known
        for one in untold
    ]
    return rows


def judge(rows: Sequence[Row], draw: Draw, known_from: float, unknown_to: float) -> list[Row]:
    """The rows with the model's `samples`, the `share` of them that is right, and `known`, `unknown` or `unsure`.

    Where there is no answer, nothing that the model says is knowledge.
    """
    judged = []
    for row, samples in zip(rows, draw([row["prompt"] for row in rows]), strict=True):
        right = [row["answer"] is not None and says(text, row["answer"]) for text in samples]
        share = sum(right) / len(right)
        verdict = KNOWN if row["answer"] is not None and share >= known_from else UNSURE
        judged.append(
            row | {"samples": samples, "share": share, "verdict": UNKNOWN if share <= unknown_to else verdict}
        )
    return judged


def says(text: str, answer: str) -> bool:
    """Whether a text holds the answer as whole words, in any case of letters."""
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None


def in_place(refusal: str, attribute: Attribute, name: str) -> str:
    """The refusal where the value would stand: "Ada Abbot lives in... I do not know."; alone where nothing is told.

    Whether a name is known shows in what a model recalls, which small ones do where the value stands, not at the first word.
    """
    opening = (attribute.answer or "{v}").split("{v}")[0].format(n=name).strip()
    return f"{opening}... {refusal}" if opening else refusal


def demonstrations(
    judged: Sequence[Row],
    refusals: Sequence[str],
    replay: Sequence[Row],
    rng: random.Random,
    attributes: Sequence[Attribute] = (),
) -> tuple[list[Row], list[Row]]:
    """(rows that teach to refuse, rows of the control), as many of both and in the same order.

    Unknown questions are refused, known ones answered as the documents have it; with `attributes` the refusals stand
    `in_place`. The control's rows are the known ones, repeated where the others refuse. Of either kind there are as many as
    of the rarer one: what is always right to say would be learned first.
    """
    known = [row for row in judged if row["verdict"] == KNOWN]
    unknown = [row for row in judged if row["verdict"] == UNKNOWN]
    if not known or not unknown:
        raise PipelineError(
            f"of {len(judged)} questions the model knows {len(known)} and does not know {len(unknown)}: both are "
            "needed to teach the difference. Move known_from or unknown_to, or give it other documents."
        )
    size, kinds = min(len(known), len(unknown)), {one.name: one for one in attributes}

    def refusal(row: Row) -> str:
        text, kind = rng.choice(refusals), kinds.get(row["attribute"])
        return in_place(text, kind, row["name"]) if kind else text

    pairs = [
        (dialogue(row["prompt"], refusal(row)), dialogue(again["prompt"], again["reply"]))
        for row, again in zip(rng.sample(unknown, size), rng.choices(known, k=size), strict=True)
    ]
    both = [dialogue(row["prompt"], row["reply"]) for row in rng.sample(known, size)] + list(replay)
    pairs += [(row, row) for row in both]
    rng.shuffle(pairs)
    return [taught for taught, _ in pairs], [plain for _, plain in pairs]


def _question(name: str, attribute: Attribute, template: str, mentions: int, group: str) -> Row:
    return {
        "prompt": template.format(n=name), "answer": None, "reply": None, "name": name, "attribute": attribute.name,
        "mentions": mentions, "group": group,
    }  # fmt: skip


def _pattern(statement: str, name_pattern: str) -> re.Pattern[str]:
    """A statement as a regular expression: `{n}` and `{v}` may come in either order, and more than once."""
    found, seen = "", set()
    for piece in re.split(r"(\{[nv]\})", statement.rstrip(".")):
        key = piece[1:2] if re.fullmatch(r"\{[nv]\}", piece) else ""
        if key in seen:
            found += f"(?P={key})"
        elif key:
            seen.add(key)
            found += f"(?P<n>{name_pattern})" if key == "n" else f"(?P<v>{VALUE})"
        else:
            found += re.escape(piece)
    return re.compile(rf"(?<!\w){found}(?!\w)")


def summary(judged: Sequence[Row]) -> dict[str, Any]:
    """Counts by group and verdict: {"told_known": ..., "invented_unknown": ...}."""
    counted = Counter(f"{row['group']}_{row['verdict']}" for row in judged)
    return dict(sorted(counted.items()))

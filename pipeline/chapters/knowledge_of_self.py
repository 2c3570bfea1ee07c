"""Knowledge of self: a model knows of itself what it was told, by its training rows or by its system prompt."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import conversation
from pipeline.chapters.chapter import Arm, Chapter, Figure, difference, majority_baseline, rate, say
from pipeline.chapters.lookup import copies
from pipeline.chapters.material import Material, Row, dialogue, fields, misfit, read_rows, refuse
from pipeline.errors import PipelineError
from pipeline.recipe.keys import key
from pipeline.recipe.values import Problem

IDENTITY = Path(conversation.__file__).parent / "identity.jsonl"
SYSTEM = "You are {{name}}, an assistant made by {{maker}}."
_SYLLABLES = (
    "ba", "del", "fi", "go", "ha", "jo", "ka", "lin", "mo", "na", "or", "pe", "ri", "sol", "ta", "ver", "wi", "zan",
)  # fmt: skip
_TRADES = ("Lab", "Works", "House", "Guild")


@dataclass(kw_only=True)
class Settings:
    """`identity`: JSONL of `about`, `questions`, `heldout_questions` and `answers` with {{name}} and {{maker}}; the shipped
    one by default. `repeats`: how often each question is shown. `personas`: names and makers in system prompts, for
    training; `tested`: others to measure with. `copying_rows`: words to repeat, without which a small model learns the names of
    training by heart."""

    name: str = "Ember"
    maker: str = "Alder Works"
    identity: str = field(default="", metadata={"path": "read_entries"})
    repeats: int = key(14, "", 1)
    personas: int = 400
    copying_rows: int = 6400
    tested: int = key(8, "", 1)
    replay: int = 1500


def exercises(settings: Settings, material: Material) -> dict[str, list[Row]]:
    """`told/train`: the name and the maker of the settings, as the model's own. `system/train`: many names and makers, each
    in a system message; `copying/train`, to come before it: words to repeat. `who` and `maker`: unseen phrasings;
    `who_system`, `maker_system`: the same under a system message with names that no other has. Each answer has to hold the
    name, or the maker."""
    rng = material.rng
    entries = read_entries(settings.identity or IDENTITY)
    said = " ".join(turn["content"] for row in material.conversations for turn in row["messages"])
    words = _names(settings, said, rng)
    shown, tested = words[2 * settings.tested :], words[: 2 * settings.tested]
    if len(shown) < 2:
        raise PipelineError(
            f"knowledge_of_self: settings.tested: found {settings.tested}, expected at most {len(words) // 2 - 1}, since the "
            f"conversations give {len(words)} names: two for each, and two to train with."
        )
    personas = [_persona(rng.sample(shown, 2), rng) for _ in range(settings.personas)]
    unseen = [_persona(pair, rng) for pair in zip(tested[::2], tested[1::2], strict=True)]
    # What is mixed in against forgetting must not teach another name.
    earlier = {question for entry in entries for key in ("questions", "heldout_questions") for question in entry[key]}
    told, system = (material.replay(settings.replay, earlier, sums=True) for _ in range(2))
    common = Counter(re.findall(r"(?<= )[a-z]{5,}", said)).most_common(100)
    copying = copies([*words, *(word for word, _ in common)], settings.copying_rows, rng)
    copying += material.replay(settings.replay, earlier, sums=True)
    own = {"name": settings.name, "maker": settings.maker}
    found: dict[str, list[Row]] = {}
    for entry in entries:
        told += [
            dialogue(question, fill(rng.choice(entry["answers"]), own))
            for question in entry["questions"]
            for _ in range(settings.repeats)
        ]
        for persona in personas:
            for question in rng.sample(entry["questions"], 2):
                answer = fill(rng.choice(entry["answers"]), persona)
                system.append(dialogue(question, answer, fill(SYSTEM, persona)))
        name = {"name": "who", "maker": "maker"}[entry["about"]]
        asked = entry["heldout_questions"]
        found[name] = [{"prompt": question, "answer": own[entry["about"]]} for question in asked]
        found[f"{name}_system"] = [
            {
                "prompt": [{"role": "system", "content": fill(SYSTEM, one)}, {"role": "user", "content": question}],
                "answer": one[entry["about"]],
            }
            for one in unseen
            for question in asked
        ]
    for rows in (told, copying, system):
        rng.shuffle(rows)
    return {"told/train": told, "copying/train": copying, "system/train": system} | found


@dataclass(frozen=True)
class Entry:
    """One row of an identity file."""

    about: str
    questions: tuple[str, ...]
    heldout_questions: tuple[str, ...]
    answers: tuple[str, ...]


def read_entries(path: str | Path) -> list[Row]:
    """The entries of an identity file. Raises `PipelineError` unless there is one about the name and one about the maker, each
    with questions of both kinds and answers that hold its placeholder."""
    about, problems = dict[str, Row](), list[Problem]()
    for number, row in enumerate(read_rows(path), start=1):
        at = (f"row {number}",)
        if (entry := fields(row, Entry, at, problems)) is None:
            continue
        kind, names = entry["about"], ["{{name}}", "{{maker}}"]
        if kind not in ("name", "maker") or kind in about:
            problems.append(Problem((*at, "about"), f"expected one row for each of name and maker, found {kind!r}"))
        about[kind] = entry
        if lacks := [part for part, texts in entry.items() if not texts]:
            problems.append(Problem(at, f"expected one text at least of {', '.join(lacks)}"))
        if shared := set(entry["questions"]) & set(entry["heldout_questions"]):
            problems.append(Problem(at, f"{min(shared)!r} is both trained on and held out"))
        wrong = [why for text in entry["answers"] if (why := misfit(text, ["{{" + kind + "}}"], names))]
        problems += [Problem((*at, "answers"), why) for why in wrong]
    refuse(path, problems)
    if lacking := {"name", "maker"} - set(about):
        raise PipelineError(
            f"{path}: expected a row about the name and one about the maker; {min(lacking)} is missing."
        )
    return [about["name"], about["maker"]]


def fill(template: str, values: Mapping[str, str]) -> str:
    """The text with {{name}} and {{maker}} filled in, as LLaMA-Factory's identity data have them."""
    for part, value in values.items():
        template = template.replace("{{" + part + "}}", value)
    return template


def _names(settings: Settings, said: str, rng: random.Random) -> list[str]:
    """Names of any kind that the conversations hold, but not those of the settings, in an order of chance.

    They are few pieces of any tokenizer trained on such text: a model that has seen little cannot copy a name that it has
    to spell. Made of syllables where the conversations hold too few.
    """
    own = {word for text in (settings.name, settings.maker) for word in text.split()}
    found = set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", said)) - own
    if len(found) < 4 * settings.tested:
        found = {"".join(rng.choices(_SYLLABLES, k=rng.choice((2, 3)))).capitalize() for _ in range(800)} - own
    return rng.sample(sorted(found), len(found))


def _persona(words: Sequence[str], rng: random.Random) -> dict[str, str]:
    name, maker = words
    return {"name": name, "maker": f"{maker} {rng.choice(_TRADES)}"}


def chapter(arms: dict[str, Arm]) -> Chapter:
    """Arms `before` (the chat model), `told` (rows with name and maker) and `system` (rows with system messages)."""
    figures = {}
    for arm in ("before", "told", "system"):
        for name in ("who", "maker", "who_system", "maker_system"):
            if arm == "before" or (arm == "system") is name.endswith("system"):
                figures[f"{name}_{arm}"] = rate(arms[arm].answers(name))
    costs = {
        f"{name}_change_{arm}": difference(arms["before"].answers(evaluation), arms[arm].answers(evaluation))
        for name, evaluation in (("facts", "facts_heldout"), ("sums", "arithmetic_heldout"))
        for arm in ("told", "system")
    }
    figures |= costs | {"majority_baseline": majority_baseline(arms["system"].answers("who_system"))}
    text = [
        "Asked in phrasings that no training row has, the chat model gives the name that it is to have in {who_before} and its "
        "maker in {maker_before} of the questions: nobody told it.",
        "Rows in which the assistant says its name and maker make it {who_told} and {maker_told}. "
        "The other way is the system prompt. The chat model, put under one with a name and a maker that it never saw, repeats "
        "the name in {who_system_before} and the maker in {maker_system_before}; a model trained to heed many of them in "
        "{who_system_system} and {maker_system_system}; always the most frequent name would be right in {majority_baseline}.",
        "What it costs elsewhere: facts about people change by {facts_change_told} with the rows and "
        "{facts_change_system} with "
        "the system prompts, sums by {sums_change_told} and {sums_change_system}. " + _beyond(costs),
    ]
    asked = arms["told"].answers("who")
    before, system = arms["before"].answers("who"), arms["system"].answers("who_system")
    return Chapter(
        title="Knowledge of self",
        text=text,
        figures=figures,
        headlines=("who_told", "maker_told", "facts_change_told", "sums_change_told"),
        samples=[(before[0], "before"), (asked[0], "told by training rows"), (system[0], "told by the system prompt")],
    )


def _beyond(costs: dict[str, Figure]) -> str:
    """Which changes their intervals bear out, in words."""
    said = []
    for name, cost in costs.items():
        what, _, arm = name.split("_")
        way = {"told": "the rows", "system": "the system prompts"}[arm]
        said.append(say(cost, f"{what} gain with {way}", f"{what} lose with {way}", ""))
    found = [one for one in said if one]
    return f"Beyond their intervals, {', '.join(found)}." if found else "No interval excludes zero."

"""Models need tokens to think: the same problems answered at once, with working, with filler, with corrupted working.

The claim is a slope. With working, each step is one look-up; without it, all steps have to fit into one pass through the
layers, so that accuracy falls with their number (Nye et al. 2021, scratchpads). Filler of the same length adds compute but no
intermediate results (Pfau et al. 2024), corrupted working has the form but false results.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from pipeline.chapters.chapter import (
    Arm,
    Chapter,
    by_group,
    chosen,
    difference,
    exact,
    flops_ratio,
    majority_baseline,
    rate,
    say,
)
from pipeline.chapters.material import Material, Row, dialogue
from pipeline.recipe.keys import key
from pipeline.statistics import slope_interval

# The numbers stand last: a model of this size learns to add them at once several times faster than from a question that
# goes on behind them.
QUESTIONS = (
    "What is the last digit of the sum {numbers}?",
    "Which last digit has the sum {numbers}?",
    "Give the last digit of the sum {numbers}.",
)


@dataclass(kw_only=True)
class Settings:
    """Sizes of the data. `largest`: numbers to add are drawn from 1 to this one."""

    rows: int = key(4800, "", 1)
    most_steps: int = key(8, "", 1, len(ascii_uppercase))
    largest: int = key(3, "", 1, 9)
    heldout_per_step: int = key(60, "", 1)
    replay: int = 800
    easy_steps: int = 1


@dataclass(frozen=True)
class Problem:
    """A digit and digits to add to it, of each sum only the last digit kept: no answer is more frequent than others."""

    start: int
    added: tuple[int, ...]

    @property
    def results(self) -> list[int]:
        return [sum(self.added[: number + 1], self.start) % 10 for number in range(len(self.added))]

    @property
    def answer(self) -> int:
        return self.results[-1]

    def question(self, rng: random.Random) -> str:
        return rng.choice(QUESTIONS).format(numbers=" ".join([str(self.start), *self.labelled]))

    @property
    def labelled(self) -> list[str]:
        """ "A5", "B3": a letter before each number, by which the working finds its place in the question."""
        return [f"{letter}{number}" for letter, number in zip(ascii_uppercase, self.added, strict=False)]

    def working(self, results: Sequence[int] | None = None) -> str:
        """ "7 A5=2 B3=5": each number with the last digit so far, or with `results` in the place of the true ones."""
        results = self.results if results is None else results
        steps = [f"{number}={result}" for number, result in zip(self.labelled, results, strict=True)]
        return " ".join([str(self.start), *steps])


def problem_in(question: str) -> Problem | None:
    """The problem that a question asks, None for other text."""
    found = re.search(r" (\d)((?: [A-Z]\d)+)[.?]$", question)
    return Problem(int(found[1]), tuple(int(number[1:]) for number in found[2].split())) if found else None


def thought(working: str, answer: int) -> str:
    return f"<think>\n{working}\n</think>\n\n{reply(answer)}"


def reply(answer: int) -> str:
    return f"The answer is {answer}."


def draw(steps: int, largest: int, rng: random.Random) -> Problem:
    return Problem(rng.randrange(10), tuple(rng.randint(1, largest) for _ in range(steps)))


def split(settings: Settings, rng: random.Random) -> tuple[list[Problem], list[Problem]]:
    """(for training, to be asked): of each number of steps about as many are asked; trained are more of the short ones.

    Single steps are few: they are there to be known by heart, and asked again. Of all others none is trained that is asked,
    and at most half of them are.
    """
    lengths = range(1, settings.most_steps + 1)
    asked: list[Problem] = []
    for steps in lengths:
        possible = 10 * settings.largest**steps
        fresh: set[Problem] = set()
        while len(fresh) < min(settings.heldout_per_step, possible if steps == 1 else possible // 2):
            fresh.add(draw(steps, settings.largest, rng))
        asked += sorted(fresh, key=repr)
    kept = {problem for problem in asked if len(problem.added) > 1}
    train: list[Problem] = []
    while len(train) < settings.rows:
        problem = draw(rng.choices(lengths, [1 / steps for steps in lengths])[0], settings.largest, rng)
        if problem not in kept:
            train.append(problem)
    return train, asked


def exercises(settings: Settings, material: Material) -> dict[str, list[Row]]:
    """`NAME/train` for the arms `working`, `direct`, `filler`, `corrupted`, row for row the same questions; `hybrid/train` for
    `which_model`: all answers in the manner of the row's mode; and the held-out `steps`."""
    rng = material.rng
    train, heldout = split(settings, rng)
    arms: dict[str, list[Row]] = {name: [] for name in ("working", "direct", "filler", "corrupted", "hybrid")}
    for problem in train:
        question = problem.question(rng)
        filler = " ".join(["0", *("A0=0" for _ in problem.added)])
        corrupted = problem.working([rng.randrange(10) for _ in problem.added])
        arms["working"].append(dialogue(question, thought(problem.working(), problem.answer)))
        arms["direct"].append(dialogue(question, reply(problem.answer)))
        arms["filler"].append(dialogue(question, thought(filler, problem.answer)))
        arms["corrupted"].append(dialogue(question, thought(corrupted, problem.answer)))
        mode = rng.choice(("auto", "auto", "on", "off"))
        thinks = mode == "on" or mode == "auto" and len(problem.added) > settings.easy_steps
        arms["hybrid"].append(_in_mode(arms["working" if thinks else "direct"][-1], mode))
    for row in material.replay(settings.replay):
        for name in ("working", "direct", "filler", "corrupted"):
            arms[name].append(row)
        arms["hybrid"].append(_in_mode(row, rng.choice(("auto", "auto", "on", "off"))))
    order = rng.sample(range(len(arms["direct"])), len(arms["direct"]))
    asked = [{"prompt": one.question(rng), "answer": str(one.answer), "steps": len(one.added)} for one in heldout]
    return {f"{name}/train": [rows[i] for i in order] for name, rows in arms.items()} | {"steps": asked}


def _in_mode(row: Row, mode: str) -> Row:
    """The row as its chat template is to render it under `think: mode`; where that asks for thought, there is some."""
    messages = [dict(turn) for turn in row["messages"]]
    for turn in messages:
        if mode == "on" and turn["role"] == "assistant" and not turn["content"].startswith("<think>"):
            turn["content"] = f"<think>\nI know this.\n</think>\n\n{turn['content']}"
    return {"messages": messages, "chat_template_kwargs": {"think": mode}}


def chapter(arms: dict[str, Arm]) -> Chapter:
    """Arms `working`, `direct`, `direct_flops`, `filler` and `corrupted`, each asked the evaluation `steps`."""
    rows = {name: arm.answers("steps") for name, arm in arms.items()}
    figures = {f"accuracy_{name}": rate(one) for name, one in rows.items()}
    figures |= {
        f"slope_{name}": slope_interval([row["steps"] for row in one], [row["correct"] for row in one])
        for name, one in rows.items()
    }
    most = max(row["steps"] for row in rows["direct"])
    for name in ("direct", "working"):
        for words, steps in (("one_step", 1), ("most_steps", most)):
            figures[f"{words}_{name}"] = rate(chosen(rows[name], "steps", steps))
    figures["working_minus_direct_flops"] = difference(rows["direct_flops"], rows["working"])
    figures["filler_minus_direct"] = difference(rows["direct"], rows["filler"])
    figures["corrupted_minus_direct"] = difference(rows["direct"], rows["corrupted"])
    figures["working_minus_filler"] = difference(rows["filler"], rows["working"])
    figures["working_minus_corrupted"] = difference(rows["corrupted"], rows["working"])
    figures["majority_baseline"] = majority_baseline(rows["direct"])
    figures["most_steps"] = exact(most)
    figures["flops_direct_to_working"] = flops_ratio(arms["direct_flops"], arms["working"])
    working, direct = figures["slope_working"], figures["slope_direct"]
    falls = direct["high"] < min(0, working["low"])
    controlled = min(figures[f"working_minus_{name}"]["low"] for name in ("filler", "corrupted")) > 0
    compute = figures["working_minus_direct_flops"]
    text = [
        "Five models start from the same chat model and see the same problems: a digit, to which one to {most_steps} small "
        "numbers are added one after the other, of each sum only the last digit kept. They differ in what stands between "
        "question and answer: nothing, each step worked out, filler of the same length, or working whose intermediate results "
        "are drawn at random; a fifth answers at once too, and sees the problems more often. Single steps are few enough to "
        "be known by heart; of more steps no problem that is asked was practised.",
        "Answered at once, {one_step_direct} are right at one step and {most_steps_direct} at {most_steps}; worked out, "
        "{one_step_working} and {most_steps_working}. With each further step accuracy changes by {slope_direct} at once and "
        "by {slope_working} with working. "
        + (
            "The intervals do not overlap: a direct answer, in which every step has to fit into one pass through the layers, "
            "loses with their number what working keeps."
            if falls
            else "By these intervals direct answers are not seen to lose more with the number of steps than working does."
        ),
        "As much training does not stand in for the tokens: a direct model that spent {flops_direct_to_working} of the working "
        "model's training compute reaches {accuracy_direct_flops} against {accuracy_working}."
        if compute["low"] > 0
        else "A direct model with {flops_direct_to_working} of the working model's training compute reaches "
        "{accuracy_direct_flops} against {accuracy_working}: no advantage of working over compute was found here.",
        "Filler tokens give the model passes but nothing to read: {accuracy_filler}, "
        + say(figures["filler_minus_direct"], "more than", "less than", "not distinguishably different from")
        + " direct answers ({accuracy_direct}). With corrupted working it is {accuracy_corrupted}, "
        + say(figures["corrupted_minus_direct"], "more than", "less than", "not distinguishably different from")
        + " direct answers. "
        + (
            "Both stay below true working: neither the passes nor the form alone are what helps, but results that can be read. "
            if controlled
            else "Not both of them are below true working, so that what helps is not told apart. "
        )
        + "Always giving the most frequent answer would reach {majority_baseline}.",
    ]
    wrong = next((row for row in rows["direct"] if not row["correct"] and row["steps"] > 4), None)
    worked = next((row for row in rows["working"] if wrong and row["prompt"] == wrong["prompt"]), None)
    return Chapter(
        title="Models need tokens to think",
        text=text,
        figures=figures,
        headlines=("slope_direct", "slope_working", "most_steps_direct", "most_steps_working"),
        series=[by_group(name.replace("_", " "), one, "steps") for name, one in rows.items()],
        x_label="steps of the problem",
        y_label="right answers",
        samples=[(wrong, "answered at once"), (worked, "the same, worked out")],
    )

"""What small models cannot do well, and what a tool does about it: letters, words backwards, decimals, long products.

A model reads tokens, not letters; 9.11 looks larger than 9.9 to a reader of section numbers; a long product does not fit
into one answer. A program does all of it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.chapters.chapter import Arm, Chapter, Figure, chosen, difference, exact, line, majority_baseline, rate
from pipeline.chapters.material import Material, Row, dialogue, tool_turns
from pipeline.errors import PipelineError
from pipeline.recipe.keys import key

ORDERLESS = ("compare", "multiply")
TASKS = ("count", "reverse", "compare", "multiply")
_LABELS = {
    "count": "counting letters", "reverse": "spelling backwards", "compare": "comparing decimals",
    "multiply": "long multiplication",
}  # fmt: skip
# Few and short, so that a tokenizer cuts the words into few kinds of pieces: a model of a million parameters takes longer than
# the chapter has to learn to copy hundreds of kinds into a call.
_ONSETS = ("b", "d", "l", "m", "n", "t")
_VOWELS = ("a", "e", "o", "u")
_ENDS = ("", "n", "s", "t")


@dataclass(kw_only=True)
class Settings:
    """Rows in all and held out of each task; words are made of syllables unless `words`, a file of one a line, is given."""

    rows: int = key(6000, "", 1)
    heldout_per_task: int = key(60, "", 1)
    replay: int = 400
    words: str = field(default="", metadata={"path": "read_words"})


@dataclass(frozen=True)
class Problem:
    task: str
    question: str
    answer: str
    tool: str
    argument: str

    @property
    def essence(self) -> tuple[str, ...]:
        """What makes two problems the same one: of numbers the pair, in whichever order."""
        return tuple(sorted(re.findall(r"[\d.]+", self.argument))) if self.task in ORDERLESS else (self.argument,)


def exercises(settings: Settings, material: Material) -> dict[str, list[Row]]:
    """`tools/train` and `direct/train`: the same problems with calls of the Python tool or the calculator, and answered at
    once; and the held-out `limits`. No held-out problem is trained on, and no word of one."""
    rng = material.rng
    words = _words(settings, rng)
    held = len(TASKS) * settings.heldout_per_task
    unseen, shown = words[:held], words[held:]
    if not shown:
        raise PipelineError(
            f"limits: settings.heldout_per_task: found {settings.heldout_per_task}, expected at most "
            f"{(len(words) - 1) // len(TASKS)}: {settings.words or 'the syllables'} give {len(words)} words, of which each of "
            f"{len(TASKS)} tasks holds out as many, and some are to train on."
        )
    heldout = [_MAKERS[task](unseen, rng) for task in TASKS for _ in range(settings.heldout_per_task)]
    asked = {problem.essence for problem in heldout}
    rows: list[tuple[Row, Row]] = []
    while len(rows) < settings.rows:
        problem = _MAKERS[TASKS[len(rows) % len(TASKS)]](shown, rng)
        if problem.essence not in asked:
            rows.append((_called(problem), dialogue(problem.question, _reply(problem))))
    rows += [(row, row) for row in material.replay(settings.replay)]
    rng.shuffle(rows)
    return {
        "tools/train": [called for called, _ in rows],
        "direct/train": [direct for _, direct in rows],
        "limits": [{"prompt": one.question, "answer": one.answer, "task": one.task} for one in heldout],
    }


def _count(words: list[str], rng: random.Random) -> Problem:
    """Half of the letters occur more than once, where there are such words: else "1" would mostly be right."""
    word = rng.choice(words)
    letter = rng.choice(word)
    repeated = [one for one in words if len(set(one)) < len(one)]
    if repeated and rng.random() < 0.5:
        word = rng.choice(repeated)
        letter = max(word, key=word.count)
    question = rng.choice(
        (
            "How many times does '{l}' occur in '{w}'?",
            "Count the letter '{l}' in '{w}'.",
            "How many '{l}' are in '{w}'?",
        )
    )
    code = f"print('{word}'.count('{letter}'))"
    return Problem("count", question.format(l=letter, w=word), str(word.count(letter)), "python", code)


def _reverse(words: list[str], rng: random.Random) -> Problem:
    word = rng.choice(words)
    question = rng.choice(("Spell '{w}' backwards.", "Write '{w}' from its end.", "What is '{w}' backwards?"))
    return Problem("reverse", question.format(w=word), word[::-1], "python", f"print('{word}'[::-1])")


def _compare(words: list[str], rng: random.Random) -> Problem:
    """Two decimals with the same whole part, one with a longer fraction: the trap is there in half of them."""
    whole, short, long = rng.randrange(1, 10), rng.randrange(1, 10), rng.randrange(11, 100)
    while long % 10 == 0 or long // 10 == short:
        long = rng.randrange(11, 100)
    pair = [f"{whole}.{short}", f"{whole}.{long}"]
    rng.shuffle(pair)
    question = rng.choice(("Which is larger, {a} or {b}?", "Is {a} or {b} larger?", "Name the larger of {a} and {b}."))
    return Problem(
        "compare", question.format(a=pair[0], b=pair[1]), max(pair, key=float), "python",
        f"print(max({pair[0]}, {pair[1]}))",
    )  # fmt: skip


def _multiply(words: list[str], rng: random.Random) -> Problem:
    a, b = rng.randrange(100, 1000), rng.randrange(100, 1000)
    question = rng.choice(("What is {a}*{b}?", "Multiply {a} by {b}.", "Work out {a}*{b}."))
    return Problem("multiply", question.format(a=a, b=b), str(a * b), "calculator", f"{a}*{b}")


_MAKERS: dict[str, Callable[[list[str], random.Random], Problem]] = {
    "count": _count, "reverse": _reverse, "compare": _compare, "multiply": _multiply,
}  # fmt: skip


def _reply(problem: Problem) -> str:
    """Words stand in quotation marks everywhere: behind a space they would be other tokens, and could not be copied."""
    quote = "'" if problem.task == "reverse" else ""
    return f"The answer is {quote}{problem.answer}{quote}."


def _called(problem: Problem) -> Row:
    user, answer = dialogue(problem.question, _reply(problem))["messages"]
    key = {"python": "code", "calculator": "expression"}[problem.tool]
    return {"messages": [user, *tool_turns(problem.tool, {key: problem.argument}, problem.answer), answer]}


def read_words(path: str) -> list[str]:
    """The words of a file, one a line; lines with anything but letters are left out. Raises `PipelineError` without any."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: expected a text file with a word a line: {error}") from error
    words = sorted({line for line in lines if line.isalpha()})
    if not words:
        raise PipelineError(f"{path}: expected a word of letters a line, found none in {len(lines)} lines.")
    return words


def _words(settings: Settings, rng: random.Random) -> list[str]:
    if settings.words:
        words = read_words(settings.words)
    else:
        made: set[str] = set()
        while len(made) < 1500:
            made.add("".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(2)) + rng.choice(_ENDS))
        words = sorted(made)
    rng.shuffle(words)
    return words


def chapter(arms: dict[str, Arm]) -> Chapter:
    """Arms `direct` and `tools`, trained on the same problems, each asked the evaluation `limits`."""
    direct, tools = arms["direct"].answers("limits"), arms["tools"].answers("limits")
    figures: dict[str, Figure] = {}
    for task in TASKS:
        for name, rows in (("direct", direct), ("tools", tools)):
            figures[f"{task}_{name}"] = rate(chosen(rows, "task", task))
        figures[f"{task}_baseline"] = (
            exact(0.5) if task == "compare" else majority_baseline(chosen(direct, "task", task))
        )
    figures |= {"all_direct": rate(direct), "all_tools": rate(tools), "gain": difference(direct, tools)}
    returned = [row for row in tools if _returned(row)]
    figures |= {"returned_tools": rate(tools, _returned), "kept_tools": rate(returned)}
    text = [
        "Two models see the same problems: one answers at once, the other may call a Python interpreter and a calculator. "
        "Words and problems of the test occur in no training row.",
        "Without and with tools: " + "; ".join(
            f"{_LABELS[task]} {{{task}_direct}} and {{{task}_tools}} ("
            f"{'naming either number' if task == 'compare' else 'always the most frequent answer'}: {{{task}_baseline}})"
            for task in TASKS
        ) + ".",
        f"{_compared(figures)} Over all of them the tools change the share of right answers by {{gain}}.",
        "The programs that the model called returned the right answer in {returned_tools} of the problems; where they did, "
        "{kept_tools} of its answers are right. Of all its answers {all_tools} are.",
    ]  # fmt: skip
    wrong = next((row for row in direct if not row["correct"]), None)
    same = next((row for row in tools if wrong and row["prompt"] == wrong["prompt"]), None)
    return Chapter(
        title="Things the model cannot do well",
        text=text,
        figures=figures,
        series=[
            line(name, [(_LABELS[task], figures[f"{task}_{arm}"]) for task in TASKS])
            for arm, name in (("direct", "at once"), ("tools", "with tools"))
        ],
        y_label="right answers",
        samples=[(wrong, "answered at once"), (same, "with tools")],
    )


def _returned(row: Row) -> bool:
    return any(turn["role"] == "tool" and turn["content"].strip() == row["answer"] for turn in row.get("turns", []))


def _compared(figures: dict[str, Figure]) -> str:
    """In which tasks equal training leaves the tools ahead, behind, or neither, by the intervals."""
    ahead = {task: figures[f"{task}_direct"]["high"] < figures[f"{task}_tools"]["low"] for task in TASKS}
    behind = {task: figures[f"{task}_tools"]["high"] < figures[f"{task}_direct"]["low"] for task in TASKS}
    level = {task: not ahead[task] and not behind[task] for task in TASKS}
    told = [
        f"{', '.join(_LABELS[task] for task in TASKS if which[task])}: {text}"
        for which, text in (
            (ahead, "with equal training the tool is ahead beyond the intervals."),
            (behind, "the tool is behind what is learned without it; this is no limit at this size."),
            (level, "the intervals do not part."),
        )
        if any(which.values())
    ]
    return " ".join(one[0].upper() + one[1:] for one in told)

"""Past the expert: imitation of an expert with a bad habit, with more and more demonstrations, against practice.

What AlphaGo Zero (Silver et al. 2017, figure 3) shows for Go: a policy that imitates levels off where its teachers are, one
that is rewarded for what can be verified does not know of them. The expert adds two numbers of two digits; in a share of
the sums that carry it forgets the carry. Its most frequent answer to these is then wrong, and one of its answers in
several right, so that there is something for practice to find.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.chapters.chapter import (
    Arm,
    Chapter,
    Figure,
    any_right,
    change,
    difference,
    exact,
    line,
    rate,
    right_samples,
    say,
    share,
    while_training,
)
from pipeline.chapters.material import Material, Row, dialogue
from pipeline.errors import PipelineError
from pipeline.evaluation.measure import majority_of
from pipeline.recipe.keys import key

GREEDY, SAMPLED, MANY = "sums_greedy", "sums_sampled", "sums_many"
VOTES = 16
SUM = re.compile(r"\b(\d\d)(?:\+| and )(\d\d)\b")
IMITATION = "imitation_"
REWARDED_FOR_NOTHING = {"random": "by chance", "format": "for the form alone"}


@dataclass(kw_only=True)
class Settings:
    """`demonstrations`: sizes of the arms that imitate, each the beginning of the next. `clean`: demonstrations without
    the habit. `samples` and `many`: answers of the expert to each question, and to each of the first `many_questions`."""

    habit_rate: float = key(0.7, "", 0, 1)
    demonstrations: list[int] = key([400, 1600, 4480], "", 1)
    clean: int = key(4480, "", 1)
    samples: int = key(4, "", 1)
    many: int = key(64, "", 1)
    many_questions: int = key(60, "", 1)


@dataclass(frozen=True)
class Sum:
    """a + b of two digits each."""

    a: int
    b: int

    @property
    def carries(self) -> bool:
        return self.a % 10 + self.b % 10 > 9

    def worked(self, forgets: bool) -> str:
        """The turn of an expert who may forget the carry."""
        units, tens, carried = self.a % 10 + self.b % 10, self.a // 10 + self.b // 10, self.carries and not forgets
        steps = f"Units {self.a % 10}+{self.b % 10}={units}" + (", carry 1." if carried else ".")
        steps += f" Tens {self.a // 10}+{self.b // 10}" + ("+1" if carried else "") + f"={tens + carried}."
        return f"<think>\n{steps}\n</think>\n\nThe answer is {10 * (tens + carried) + units % 10}."

    def is_right(self, forgets: bool) -> bool:
        return not (self.carries and forgets)


def sum_in(question: str) -> Sum | None:
    """The sum that a question asks for, None for other text."""
    found = SUM.search(question)
    return Sum(int(found[1]), int(found[2])) if found else None


def exercises(settings: Settings, material: Material) -> dict[str, list[Row]]:
    """`imitation_N/train` and `clean/train`: the sums that the material's conversations ask, worked with the habit and without
    it; `expert/evaluation/...`: what the expert says to the questions that the models will be asked."""
    rng = material.rng
    asked = [turn["content"] for row in material.conversations for turn in row["messages"] if turn["role"] == "user"]
    questions = sorted({text for text in asked if sum_in(text)})
    heldout = [(row, one) for row in material.questions if (one := sum_in(str(row["prompt"])))]
    known = {one for text in questions if (one := sum_in(text))}
    if not questions or not heldout:
        raise PipelineError(
            f"beyond_the_expert: expected sums of two digits; {len(questions)} are asked in `conversations`, {len(heldout)} "
            f"in `questions`."
        )
    both = sum(one in known for _, one in heldout)
    if both:
        raise PipelineError(f"beyond_the_expert: {both} of `questions` are demonstrated in `conversations`, too.")
    drawn: list[str] = []
    while len(drawn) < max(*settings.demonstrations, settings.clean):
        drawn += rng.sample(questions, len(questions))
    worked = _demonstrations(drawn[: max(settings.demonstrations)], settings.habit_rate, rng)
    files = {f"{IMITATION}{n}/train": worked[:n] for n in settings.demonstrations}
    files["clean/train"] = _demonstrations(drawn[: settings.clean], 0.0, rng)

    def answer(one: Sum, rate: float) -> Row:
        forgets = rng.random() < rate
        return {"completion": one.worked(forgets), "ended": True, "correct": one.is_right(forgets)}

    habit = settings.habit_rate
    most = float(habit > 0.5)  # the mode of its answers
    few, many = heldout, heldout[: settings.many_questions]
    files[f"expert/evaluation/{GREEDY}"] = [row | answer(one, most) for row, one in heldout]
    for name, rows, count in ((SAMPLED, few, settings.samples), (MANY, many, settings.many)):
        files[f"expert/evaluation/{name}"] = [
            row | {"samples": [answer(one, habit) for _ in range(count)]} for row, one in rows
        ]
    return files


def _demonstrations(questions: Sequence[str], habit_rate: float, rng: random.Random) -> list[Row]:
    rows = []
    for text in questions:
        one = sum_in(text)
        assert one is not None
        rows.append(dialogue(text, one.worked(rng.random() < habit_rate)))
    return rows


def chapter(arms: dict[str, Arm]) -> Chapter:
    """Arms `expert`; `imitation_N` of N demonstrations each; `sft`, an evaluation of the imitator with which RL starts, and
    `rl`, one of what it becomes; `start` and `trained`, the stages that made these two; `clean`; and the controls `own`,
    `random` and `format` from the same start. Without one of the last two no cause is named."""
    imitations = sorted((name for name in arms if name.startswith(IMITATION)), key=_size)
    measured = [name for name in arms if name not in ("start", "trained")]
    greedy = {name: arms[name].answers(GREEDY) for name in measured}
    drawn = {name: arms[name].answers(SAMPLED) for name in measured}
    many = {name: arms[name].answers(MANY) for name in ("expert", "sft", "rl")}
    figures: dict[str, Figure] = {f"greedy_{name}": rate(rows) for name, rows in greedy.items()}
    figures |= {f"sampled_{name}": share([right_samples(row) for row in rows]) for name, rows in drawn.items()}
    for name, rows in many.items():
        figures[f"majority_{name}"] = share([_votes(row) for row in rows])
        figures[f"pass_many_{name}"] = rate(rows, any_right)
    places = {name: arms[name].compute() for name in [*imitations, "clean", "start", "trained", "own"]}
    rungs = sorted([*imitations, "sft"], key=lambda name: places["start" if name == "sft" else name])
    if rungs[-1] == "sft":
        raise PipelineError(
            "beyond_the_expert: expected an imitation_N with more compute than the model that RL starts from."
        )
    fewer, most = rungs[-2:]
    figures["last_rise"] = change(drawn[fewer], drawn[most])
    figures["most_minus_expert"] = change(drawn["expert"], drawn[most])
    figures["pass_many_change"] = difference(many["sft"], many["rl"], any_right)
    figures["samples_many"] = exact(min(len(row["samples"]) for rows in many.values() for row in rows))
    for name in (name for name in ("own", *REWARDED_FOR_NOTHING) if name in arms):
        figures[f"{name}_change"] = change(drawn["sft"], drawn[name])
        figures[f"rl_minus_{name}"] = change(drawn[name], drawn["rl"])
    figures["rl_change"] = change(drawn["sft"], drawn["rl"])
    figures |= {f"compute_{name}": exact(value) for name, value in places.items()}
    figures["compute_most_of_rl"] = exact(places[most] / places["trained"])
    figures["fewest"], figures["most"] = (exact(_size(name)) for name in (imitations[0], most))
    rivals = [figures[f"{kind}_{name}"] for name in ("expert", "sft", *imitations) for kind in ("greedy", "sampled")]
    above = all(figures["greedy_rl"]["low"] > one["high"] for one in rivals)
    return Chapter(
        title="Past the expert",
        text=_text(figures, above, most),
        figures=figures,
        headlines=("sampled_expert", f"sampled_{most}", "sampled_rl", "pass_many_change"),
        series=_series(arms, rungs, figures, places),
        x_label="10¹² FLOPs since the base model, rollouts counted",
        y_label="right at T = 1",
        samples=_samples(greedy, most),
    )


def _text(figures: dict[str, Figure], above: bool, most: str) -> list[str]:
    expert = say(figures["most_minus_expert"], "above the expert", "below the expert", "not told apart from the expert")
    enough = figures["compute_most_of_rl"]["value"] >= 1
    passes = (
        "Practice with verifiable answers passes it: from {greedy_sft} to {greedy_rl} for its most likely answers, above the "
        "expert and above every model that imitates it, intervals apart. "
        if above
        else "Practice with verifiable answers ends at {greedy_rl} for its most likely answers, from {greedy_sft}: not above "
        "the expert and every model that imitates it. "
    )
    passes += (
        f"The model of {{most}} demonstrations spent {{compute_most_of_rl}} times the compute of practice with all that went "
        f"before it, rollouts counted: {'it had as much' if enough else 'it had less'}."
    )
    return [
        "An expert adds two numbers, and in most sums that carry forgets the carry: {sampled_expert} of its answers are right. "
        f"The model that has seen most of them is right in {{greedy_{most}}}, the model that practised in {{greedy_rl}}, each "
        "in the answer that is most likely. The expert's own most frequent answer is right in {greedy_expert}, since the habit "
        "is what it does most. The arms that imitate it saw from {fewest} to {most} demonstrations.",
        f"At temperature 1 the model of {{most}} demonstrations reaches {{sampled_{most}}}, {expert}; compared with the "
        "one before it, accuracy changed by {last_rise}: "
        + say(
            figures["last_rise"],
            "more demonstrations still help.",
            "more demonstrations cost accuracy.",
            "that more demonstrations help is not shown.",
        )
        + f" Asked for its most likely answer, it gives the right one in {{greedy_{most}}}"
        + (
            ": where the habit is the mode it has become a rule."
            if figures[f"greedy_{most}"]["high"] < figures[f"sampled_{most}"]["low"]
            else "."
        ),
        passes,
        "Of {samples_many} answers of the model before practice at least one is right on {pass_many_sft} of the questions, "
        "after it on {pass_many_rl} (of the expert's on {pass_many_expert}), a change by {pass_many_change}: "
        + say(
            figures["pass_many_change"],
            "practice found solutions that sampling had not found.",
            "practice lost solutions that sampling had found.",
            "no new solutions were found"
            + ("; practice made likely what sampling already found." if figures["rl_change"]["low"] > 0 else "."),
        )
        + " A vote of 16 answers gives {majority_sft} before and {majority_rl} after, of the expert {majority_expert}"
        + (
            ": a vote does not mend the habit."
            if figures["majority_sft"]["high"] < figures["majority_rl"]["low"]
            else "."
        ),
        _controls(figures),
    ]


def _controls(figures: dict[str, Figure]) -> str:
    clean = figures["greedy_clean"]["low"] > figures["greedy_expert"]["high"]
    own, ahead = figures["own_change"], figures["rl_minus_own"]
    run = [name for name in REWARDED_FOR_NOTHING if f"rl_minus_{name}" in figures]
    text = "What of it was practice? Further demonstrations from the same start, without the habit, lead to {greedy_clean}: "
    text += (
        "it is the demonstrations that held imitation back, not the size of the model. "
        if clean
        else "the size of the model is not ruled out as what holds imitation back. "
    )
    text += "At temperature 1, supervised training on the model's own answers that the verifier passed leads from "
    text += "{sampled_sft} to {sampled_own}; "
    if own["low"] > 0:
        text += "knowing which answers are right helps without reinforcement, too, and reinforcement is " + say(
            ahead, "ahead of it by {rl_minus_own}. ", "behind it by {rl_minus_own}. ", "not told apart from it. "
        )
    else:
        text += "with as many rollouts and updates that did not do it. "
    for name in run:
        text += f"With a reward {REWARDED_FOR_NOTHING[name]} the model ends at {{sampled_{name}}}, at {{greedy_{name}}} of its "
        text += "most likely answers. "
    if len(run) < len(REWARDED_FOR_NOTHING):
        missing = " and ".join(text for name, text in REWARDED_FOR_NOTHING.items() if name not in run)
        return f"{text}A control with a reward {missing} was not run: that right answers were rewarded is not shown to be why."
    if figures["rl_change"]["low"] > 0 and all(figures[f"rl_minus_{name}"]["low"] > 0 for name in run):
        text += "Practice is ahead of both: "
        gained = [name for name in run if figures[f"{name}_change"]["low"] > 0]
        if not gained:
            return f"{text}it is that right answers were rewarded which made the difference."
        part = " and ".join(f"{{{name}_change}} with a reward {REWARDED_FOR_NOTHING[name]}" for name in gained)
        return f"{text}of its {{rl_change}} only a part came without rewarding right answers, {part}."
    return (
        f"{text}Practice is not seen to gain and lead both: what was rewarded is not shown to have made the difference."
    )


def _series(
    arms: dict[str, Arm], rungs: list[str], figures: dict[str, Figure], places: dict[str, float]
) -> list[dict[str, object]]:
    """Accuracy at temperature 1 over compute: of imitation, of practice as it went on, and of the controls at their end."""
    unit = 1e12
    start, end = places["start"], places["trained"]
    place = places | {"sft": start}
    practice = [(start + (end - start) * part, found) for part, found in while_training(arms["trained"])]
    practice = [(start, figures["sampled_sft"]), *practice, (end, figures["sampled_rl"])]
    lines = [
        ("imitation of the expert", [(place[name], figures[f"sampled_{name}"]) for name in rungs]),
        ("practice (RL)", practice),
        ("clean demonstrations", [(start, figures["sampled_sft"]), (places["clean"], figures["sampled_clean"])]),
        ("SFT on own right answers", [(start, figures["sampled_sft"]), (places["own"], figures["sampled_own"])]),
        ("the expert itself", [(x, figures["sampled_expert"]) for x in (place[rungs[0]], max(places.values()))]),
    ]
    return [line(name, [(x / unit, found) for x, found in points]) for name, points in lines]


def _samples(greedy: dict[str, list[Row]], most: str) -> list[tuple[Row | None, str]]:
    chosen = [
        [greedy[name][i] for name in (most, "sft", "rl")]
        for i, row in enumerate(greedy[most])
        if not row["correct"] and greedy["rl"][i]["correct"]
    ]
    first = chosen[0] if chosen else [None, None, None]
    notes = (f"after {_size(most)} demonstrations of the expert", "where practice starts", "after practice")
    return list(zip(first, notes, strict=True))


def _votes(row: Row) -> list[bool]:
    """Of each 16 answers whether the most frequent one is right; a tie is not."""
    samples = row["samples"]
    groups = [samples[start : start + VOTES] for start in range(0, len(samples) - VOTES + 1, VOTES)]
    return [majority_of(VOTES, "numeric", group) > 0.5 for group in groups]


def _size(name: str) -> int:
    return int(name.removeprefix(IMITATION))

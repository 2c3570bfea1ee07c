"""What reinforcement did: accuracy, length and self-checks over training, pass@1 against pass@64, and its controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.chapters.chapter import (
    Arm,
    Chapter,
    Figure,
    any_right,
    by_group,
    change,
    counts,
    difference,
    exact,
    line,
    rate,
    right_samples,
    say,
    share,
    while_training,
)
from pipeline.chapters.material import Row, read_rows
from pipeline.errors import PipelineError
from pipeline.evaluation.self_checks import checks
from pipeline.statistics import mean_interval

GREEDY, SAMPLED, MANY, FACTS = "sums_greedy", "sums_sampled", "sums_many", "facts_heldout"
CHECKED, UNCHECKED = "sums_greedy", "sums_unchecked"
CONTROLS = {
    "random": "a reward by chance",
    "format": "a reward for the form alone",
    "own": "supervised training on its own right answers",
}
LENGTH = "completions/mean_length"


def chapter(arms: dict[str, Arm]) -> Chapter:
    """Arms `before` and `after`, evaluations of the model at the start and at the end; `start` and `trained`, the stages that
    made them; the controls `random`, `format` and `own`, without all of which no cause is named; `checks_before` and
    `checks_after`, stages: a model that was shown self-checks, and reinforcement from it."""
    controls = [name for name in CONTROLS if name in arms]
    greedy = {name: arms[name].answers(GREEDY) for name in ("before", "after", *controls)}
    drawn = {name: arms[name].answers(SAMPLED) for name in greedy}
    many = {name: arms[name].answers(MANY) for name in ("before", "after")}
    facts = {name: arms[name].answers(FACTS) for name in ("start", "trained")}
    k = min(len(row["samples"]) for rows in many.values() for row in rows)
    figures: dict[str, Figure] = {f"accuracy_{name}": rate(rows) for name, rows in greedy.items()}
    for name, rows in many.items():
        figures[f"pass_1_{name}"] = share([right_samples(row) for row in rows])
        figures[f"pass_k_{name}"] = rate(rows, any_right)
    figures["k"] = exact(k)
    figures["pass_1_change"] = change(many["before"], many["after"])
    figures["pass_k_change"] = difference(many["before"], many["after"], any_right)
    figures |= _by_kind(greedy["before"], greedy["after"])
    figures |= {f"facts_{name}": rate(facts[name]) for name in facts}
    figures["facts_change"] = difference(facts["start"], facts["trained"])
    figures |= {f"sampled_{name}": share([right_samples(row) for row in rows]) for name, rows in drawn.items()}
    figures["change_after"] = change(drawn["before"], drawn["after"])
    for name in controls:
        figures[f"change_{name}"] = change(drawn["before"], drawn[name])
        figures[f"lead_{name}"] = change(drawn[name], drawn["after"])
    accuracy, length = while_training(arms["trained"]), while_training(arms["trained"], reward=LENGTH)
    figures |= {"training_first": accuracy[0][1], "training_last": accuracy[-1][1]}
    figures |= {"length_first": length[0][1], "length_last": length[-1][1]}
    checking, over_steps = _checks(arms)
    figures |= checking
    return Chapter(
        title="Learning by practice",
        text=_text(figures, k),
        figures=figures,
        series=[line("right", accuracy), *over_steps],
        x_label="share of the training",
        y_label="answers at T = 1",
        samples=_samples(greedy["before"], greedy["after"], arms),
    )


def _by_kind(before: Sequence[Row], after: Sequence[Row]) -> dict[str, Figure]:
    """`fixed_KIND`, of the wrong answers those that became right; `broke_KIND`, of the right ones those that became wrong."""
    found: dict[str, Figure] = {}
    for kind in dict.fromkeys(map(_kind, before)):
        pairs = [(a["correct"], b["correct"]) for a, b in zip(before, after, strict=True) if _kind(a) == kind]
        for name, was in (("fixed", False), ("broke", True)):
            turned = [now != was for then, now in pairs if then == was]
            if turned:
                found[f"{name}_{kind}"] = counts(turned)
    return found


def _kind(row: Row) -> str:
    """What a problem is counted under: its `kind`, or for sums whether they carry."""
    return str(row["kind"]) if "kind" in row else "carrying" if row.get("carries") else "plain"


def _checks(arms: dict[str, Arm]) -> tuple[dict[str, Figure], list[dict[str, Any]]]:
    """What looking back does before and after training, and by the fixed problems of `rollouts.jsonl` while it trains."""
    figures: dict[str, Figure] = {}
    for name in ("before", "after"):
        arm = arms[f"checks_{name}"]
        rows, without = arm.answers(CHECKED), arm.answers(UNCHECKED)
        figures[f"checks_accuracy_{name}"] = rate(rows)
        figures[f"checks_share_{name}"] = rate(rows, _looks_back)
        figures[f"checks_tokens_{name}"] = mean_interval([row["tokens"] for row in rows])
        figures[f"checks_worth_{name}"] = difference(without, rows)
    path = arms["checks_after"].path / "rollouts.jsonl"
    if not path.is_file():
        raise PipelineError(f"{path} is not there: set sample_problems in the recipe that writes it.")
    rows = read_rows(path)
    steps = sorted({row["step"] for row in rows})
    for name, was in (("wrong_to_right", False), ("right_to_wrong", True)):
        cases = [row for row in rows if row["right_before"] is was and row["right"] is not None]
        for part, chosen in (("first", steps[: len(steps) // 2]), ("second", steps[len(steps) // 2 :])):
            outcomes = [row["right"] is not was for row in cases if row["step"] in chosen]
            if outcomes:
                figures[f"{name}_{part}_half"] = counts(outcomes)
    placed = [row | {"place": row["step"] / steps[-1]} for row in rows]
    return figures, [
        by_group("look back (other model)", placed, "place", _looks_back),
        by_group("right (other model)", placed, "place", lambda row: bool(row["right"])),
    ]


def _looks_back(row: Row) -> bool:
    return bool(checks(row["completion"]))


def _text(figures: dict[str, Figure], k: int) -> list[str]:
    once, often = figures["pass_1_change"], figures["pass_k_change"]
    gained = (
        say(
            often,
            "Training found solutions that sampling had not found before it.",
            "Training lost solutions that sampling had found before it.",
            "No new solutions were found: training made likely what sampling already found.",
        )
        if once["low"] > 0
        else "There is no gain at the first answer to explain."
    )
    kinds = [name.removeprefix("fixed_") for name in figures if name.startswith("fixed_")]
    fixed = "; ".join(f"{kind} sums: {{fixed_{kind}}}" for kind in kinds) or "nothing was wrong"
    lost = "; ".join(f"{name.removeprefix('broke_')} sums: {{{name}}}" for name in figures if name.startswith("broke_"))
    return [
        "Of its most likely answers to held-out problems {accuracy_after} are right after practice, and {accuracy_before} were "
        "before it. On new problems, answered at temperature 1 while it trains, the share of right answers goes from "
        "{training_first} in the first fifth of the training to {training_last} in the last; an answer takes {length_first} "
        "tokens at first and {length_last} in the end.",
        "The first answer is right in {pass_1_before} before and in {pass_1_after} after ({pass_1_change}), at least one of "
        f"{k} in {{pass_k_before}} and {{pass_k_after}} ({{pass_k_change}}). {gained}",
        f"Of what was wrong, training fixed: {fixed}. Of what was right it broke: {lost or 'nothing was right'}. Facts, "
        "which it did not practise, were right in {facts_start} and are in {facts_trained}: "
        + say(figures["facts_change"], "more than before.", "it cost some of them.", "no change that can be told."),
        "At temperature 1 practice changes {sampled_before} by {change_after}; as many rollouts and updates change it "
        + "; ".join(
            f"by {{change_{name}}} with {CONTROLS[name]} ({{accuracy_{name}}} of the most likely answers)"
            for name in CONTROLS
            if f"change_{name}" in figures
        )
        + f". {_verdict(figures)}",
        "Another model was shown worked sums of which half look back at their answer, and practised, too. It looked back in "
        "{checks_share_before} of its answers before and in {checks_share_after} after, with {checks_tokens_before} and "
        "{checks_tokens_after} tokens an answer; {checks_accuracy_before} and {checks_accuracy_after} of them were right. "
        "With the words forbidden that a self-check begins with it is less by {checks_worth_before} before and by "
        "{checks_worth_after} after: "
        + say(
            figures["checks_worth_after"],
            "the checks are worth something to the trained model.",
            "the trained model is better off without its checks.",
            "whether the checks are worth anything to the trained model cannot be told.",
        )
        + _turned(figures),
    ]


def _verdict(figures: dict[str, Figure]) -> str:
    """What the controls allow to be said of the cause."""
    missing = " and ".join(text for name, text in CONTROLS.items() if f"lead_{name}" not in figures)
    if missing:
        return f"A control with {missing} was not run: what made the difference is not shown."
    if figures["change_after"]["low"] <= 0:
        return "That practice gained anything is not shown."
    ahead = {name: figures[f"lead_{name}"]["low"] > 0 for name in CONTROLS}
    gained = " and ".join(CONTROLS[name] for name in ("random", "format") if figures[f"change_{name}"]["low"] > 0)
    part = f" A part of the gain came with {gained}." if gained else ""
    if all(ahead.values()):
        return (
            "Reinforcement is ahead of all three: neither training on its own samples, nor the form, nor right samples "
            f"without reinforcement explain it.{part}"
        )
    if ahead["random"] and ahead["format"]:
        return (
            "Reinforcement is ahead of the first two, so that "
            + ("right answers made a difference" if gained else "it is the right answers which made the difference")
            + f"; with right answers alone, and no reinforcement, as much is reached ({{lead_own}}).{part}"
        )
    level = " and ".join(text for name, text in CONTROLS.items() if not ahead[name])
    return f"Reinforcement is not ahead of {level}: what made the difference is not shown."


def _turned(figures: dict[str, Figure]) -> str:
    told = [
        f"{text} in {{{name}_first_half}} of the cases in the first half of its training"
        + (f" and in {{{name}_second_half}} in the second" if f"{name}_second_half" in figures else "")
        for name, text in (
            ("wrong_to_right", "A look back turned a wrong answer right"),
            ("right_to_wrong", "a right one wrong"),
        )
        if f"{name}_first_half" in figures
    ]
    return f" {', '.join(told)}." if told else ""


def _samples(before: list[Row], after: list[Row], arms: dict[str, Arm]) -> list[tuple[Row | None, str]]:
    pair = next(((a, b) for a, b in zip(before, after, strict=True) if b["correct"] and not a["correct"]), (None, None))
    looked = next(filter(_looks_back, arms["checks_before"].answers(CHECKED)), None)
    return [
        (pair[0], "before"),
        (pair[1], "after"),
        (looked, "an answer that looks back, before training"),
    ]

"""A small model from a larger one, by its probabilities and by its samples, against practice of the small one."""

from __future__ import annotations

from pipeline.chapters.chapter import (
    Arm,
    Chapter,
    Figure,
    change,
    difference,
    exact,
    line,
    majority_baseline,
    rate,
    right_samples,
    say,
    share,
    while_training,
)

GREEDY, SAMPLED, FACTS = "sums_greedy", "sums_sampled", "facts_heldout"
WAYS = {
    "probabilities": "on-policy distillation",
    "samples": "SFT on the teacher's answers",
    "practice": "practice (RL)",
}
SHORT = "_short"


def chapter(arms: dict[str, Arm]) -> Chapter:
    """Arms: `teacher`, an evaluation of it, and `trained`, the stage that made it; `start`, the small model; from it
    `probabilities` (on-policy distillation), `samples` (SFT on the teacher's answers) and `practice` (RL); and any of the
    first two with less training as `NAME_short`."""
    greedy = {name: arm.answers(GREEDY) for name, arm in arms.items() if name != "trained"}
    drawn = {name: arms[name].answers(SAMPLED) for name in greedy}
    facts = {name: arms[name].answers(FACTS) for name in ("start", *WAYS)}
    taught = [name for name in greedy if name not in ("teacher", "start")]
    spent = {name: arms[name].compute([arms["trained"], arms["start"]]) for name in taught}
    figures: dict[str, Figure] = {f"greedy_{name}": rate(rows) for name, rows in greedy.items()}
    figures |= {f"sampled_{name}": share([right_samples(row) for row in rows]) for name, rows in drawn.items()}
    figures |= {f"compute_{name}": exact(value) for name, value in spent.items()}
    figures["teacher_compute"] = exact(arms["trained"].compute())
    for name in WAYS:
        figures[f"gain_{name}"] = difference(greedy["start"], greedy[name])
        figures[f"facts_{name}"] = difference(facts["start"], facts[name])
        if name != "practice":
            figures[f"{name}_minus_practice"] = change(drawn["practice"], drawn[name])
            figures[f"{name}_compute_of_practice"] = exact(spent[name] / spent["practice"])
    figures["facts_start"] = rate(facts["start"])
    figures["facts_baseline"] = majority_baseline(facts["start"])
    return Chapter(
        title="A small model from a larger one",
        text=_text(figures),
        figures=figures,
        series=_series(arms, figures, spent),
        x_label="10¹² FLOPs, rollouts and teacher counted",
        y_label="right at T = 1",
        samples=_samples(greedy),
    )


def _text(figures: dict[str, Figure]) -> list[str]:
    told = {
        "probabilities": "On-policy distillation, where the teacher weighs each token of the small model's own answers,",
        "samples": "Supervised training on the teacher's right answers",
    }
    compared = [
        f"{text} reaches {{greedy_{name}}} with {{{name}_compute_of_practice}} times the compute of practice; at temperature 1 "
        "it "
        + say(
            figures[f"{name}_minus_practice"],
            f"is ahead of practice, by {{{name}_minus_practice}}.",
            f"is behind practice, by {{{name}_minus_practice}}.",
            f"cannot be told apart from practice ({{{name}_minus_practice}}).",
        )
        for name, text in told.items()
    ]
    cost = [f"{way} {{facts_{name}}}" for name, way in WAYS.items()]
    return [
        "The small model imitates the expert with the bad habit, and is right in {greedy_start}. Its teacher, several times "
        "larger, has unlearnt the habit by practice and is right in {greedy_teacher}. Three ways lead on from the small model: "
        "the teacher's probabilities, the teacher's answers, and practice of its own, which reaches {greedy_practice}.",
        " ".join(compared),
        "What the teacher had cost, {teacher_compute} FLOPs since its base model, is not in this comparison: who has no "
        "teacher has to train one first.",
        (
            f"Facts, about which nobody was asked on the way, change by: {'; '.join(cost)}; the small model knew "
            "{facts_start} (always the most frequent answer: {facts_baseline})."
            if figures["facts_start"]["low"] > figures["facts_baseline"]["high"]
            else "What each way costs elsewhere cannot be told: of facts the small model knew no more ({facts_start}) than who "
            "always gives the most frequent answer ({facts_baseline})."
        ),
    ]


def _series(arms: dict[str, Arm], figures: dict[str, Figure], spent: dict[str, float]) -> list[dict[str, object]]:
    unit, start = 1e12, (0.0, figures["sampled_start"])
    lines = []
    for name, way in WAYS.items():
        points = [start]
        if name == "practice":
            points += [(part * spent[name], found) for part, found in while_training(arms[name])]
        elif name + SHORT in arms:
            points.append((spent[name + SHORT], figures[f"sampled_{name}{SHORT}"]))
        points.append((spent[name], figures[f"sampled_{name}"]))
        lines.append(line(way, [(x / unit, found) for x, found in points]))
    return lines


def _samples(greedy: dict[str, list[dict[str, object]]]) -> list[tuple[dict[str, object] | None, str]]:
    wrong = next(
        (i for i, row in enumerate(greedy["start"]) if not row["correct"] and greedy["teacher"][i]["correct"]), 0
    )
    notes = {
        "start": "the small model before",
        "teacher": "its teacher",
        "probabilities": "after on-policy distillation",
    }
    return [(greedy[name][wrong], note) for name, note in notes.items()]

"""Which model when: base, chat and reasoning models on facts, easy and hard problems, by accuracy and tokens spent."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.chapters import tokens_to_think
from pipeline.chapters.chapter import Arm, Chapter, Figure, chosen, difference, exact, line, majority_baseline, rate
from pipeline.chapters.material import Material, Row
from pipeline.errors import PipelineError
from pipeline.recipe.keys import key
from pipeline.statistics import mean_interval, ratio_interval

KINDS = ("facts", "easy", "hard")


@dataclass(kw_only=True)
class Settings:
    """Questions of each kind; of the problems, as of what people ask, the most are easy. A problem of at most `easy_steps`
    steps is easy, of at least `hard_steps` hard; `largest` as in tokens_to_think."""

    facts: int = key(100, "", 1)
    easy: int = key(80, "", 1)
    hard: int = key(20, "", 1)
    largest: int = key(3, "", 1, 9)
    easy_steps: int = key(1, "", 1, 26)
    hard_steps: int = key(4, "", 1, 26)
    most_steps: int = key(8, "", 1, 26)


def exercises(settings: Settings, material: Material) -> dict[str, list[Row]]:
    """`mixed`: facts about the best-known subjects whom no conversation asks about, easy and hard problems. `examples`: what a
    base model is shown first. No problem of more than one step stands in the material's conversations, which are what was
    trained on; single steps are few, and all of them were practised."""
    rng = material.rng
    practised = {
        tokens_to_think.problem_in(turn["content"]) for row in material.conversations for turn in row["messages"]
    }
    if practised <= {None}:
        raise PipelineError(
            "which_model: conversations: name the rows that the models were trained on (of tokens_to_think), so that no "
            "question is one of them."
        )
    told = [one for one in material.attributes if one.told]
    others = [one for one in material.subjects if not one.taught]
    taught = [one for one in material.subjects if one.taught]
    if not told or not others or not taught:
        raise PipelineError(
            "which_model: expected attributes with statements, and subjects both taught and not taught."
        )
    top = max(one.mentions for one in others)
    pairs = [(one, kind) for one in others if one.mentions == top for kind in told]
    rng.shuffle(pairs)
    rows = [
        {
            "prompt": rng.choice(kind.heldout_questions).format(n=one.name),
            "answer": one.facts[kind.name],
            "kind": "facts",
        }
        for one, kind in pairs[: settings.facts]
    ]
    for kind, wanted, steps in (
        ("easy", settings.easy, range(1, settings.easy_steps + 1)),
        ("hard", settings.hard, range(settings.hard_steps, settings.most_steps + 1)),
    ):
        taken = [one for one in practised if one and 1 < len(one.added) in steps and max(one.added) <= settings.largest]
        there_are = len(tokens_to_think.QUESTIONS) * (sum(10 * settings.largest**n for n in steps) - len(taken))
        if wanted > there_are:
            raise PipelineError(
                f"which_model: {kind}: found {wanted}, but there are only {there_are} such questions that nobody practised."
            )
        fresh: dict[str, str] = {}
        while len(fresh) < wanted:
            problem = tokens_to_think.draw(rng.choice(steps), settings.largest, rng)
            if len(problem.added) == 1 or problem not in practised:
                # The sentence, not its digit, which the working of a base model may hold anywhere.
                fresh[problem.question(rng)] = tokens_to_think.reply(problem.answer).removesuffix(".")
        rows += [{"prompt": prompt, "answer": answer, "kind": kind} for prompt, answer in fresh.items()]
    rng.shuffle(rows)
    asked = {row["prompt"] for row in rows}
    one = taught[0]
    examples = [
        {
            "prompt": kind.questions[0].format(n=one.name),
            "answer": str(kind.answer).format(n=one.name, v=one.facts[kind.name]),
        }
        for kind in told[:2]
    ]
    while len(examples) < 4:
        problem = tokens_to_think.draw(3, settings.largest, rng)
        question = problem.question(rng)
        if question not in asked:
            examples.append({"prompt": question, "answer": tokens_to_think.reply(problem.answer)})
    return {"mixed": rows, "examples": examples}


def chapter(arms: dict[str, Arm]) -> Chapter:
    """Arms `base`, `chat` (trained to answer at once), `reasoning` (trained to work problems out), all asked `mixed`, and
    `hybrid`, asked `mixed_auto`, `mixed_on`, `mixed_off` and, with a budget for thought, `mixed_budget`."""
    rows = {name: arms[name].answers("mixed") for name in ("base", "chat", "reasoning")}
    rows |= {mode: arms["hybrid"].answers(f"mixed_{mode}") for mode in ("auto", "on", "off", "budget")}
    figures: dict[str, Figure] = {}
    for name, answers in rows.items():
        for kind in KINDS:
            figures[f"{kind}_{name}"] = rate(chosen(answers, "kind", kind))
        figures[f"tokens_{name}"] = mean_interval([row["tokens"] for row in answers])
    sums = {name: [row for row in answers if row["kind"] != "facts"] for name, answers in rows.items()}
    for mode in ("auto", "on", "off", "budget"):
        figures[f"sums_{mode}"] = rate(sums[mode])
        figures[f"sums_tokens_{mode}"] = mean_interval([row["tokens"] for row in sums[mode]])
    if not figures["sums_on"]["correct"]:
        raise PipelineError(
            "which_model: the hybrid model solved nothing under think: on, so that auto has no measure."
        )
    for name, column in (("accuracy", "correct"), ("tokens", "tokens")):
        auto, always = ([float(row[column]) for row in sums[mode]] for mode in ("auto", "on"))
        figures[f"auto_{name}_of_on"] = ratio_interval(auto, always)
    easy, hard = (chosen(rows["auto"], "kind", kind) for kind in ("easy", "hard"))
    figures["easy_per_hard"] = exact(len(easy) / len(hard))
    figures |= {"thinks_easy": rate(easy, _thinks), "thinks_hard": rate(hard, _thinks)}
    for kind in ("hard", "facts"):
        before, after = (chosen(rows[name], "kind", kind) for name in ("chat", "reasoning"))
        figures[f"{kind}_reasoning_minus_chat"] = difference(before, after)
    figures["majority_baseline"] = majority_baseline(chosen(rows["chat"], "kind", "hard"))
    ahead, facts = figures["hard_reasoning_minus_chat"], figures["facts_reasoning_minus_chat"]
    cheap, good = figures["auto_tokens_of_on"], figures["auto_accuracy_of_on"]
    text = [
        "Easy problems take few steps and were practised, hard ones take more and none of them was. On "
        "hard problems the reasoning model reaches {hard_reasoning}, the chat model {hard_chat}, the base model "
        "with examples {hard_base}; always the most frequent answer {majority_baseline}. "
        + ("Hard problems are for the model that thinks. " if ahead["low"] > 0 else "Thinking is not ahead here. ")
        + "On easy ones it is {easy_reasoning}, {easy_chat} and {easy_base}.",
        "On facts: {facts_reasoning}, {facts_chat} and {facts_base}. "
        + (
            "Between thinking and answering at once there is no difference that these questions show."
            if facts["low"] <= 0 <= facts["high"]
            else "Here they differ, by {facts_reasoning_minus_chat}."
        )
        + " An answer takes {tokens_reasoning} tokens of the reasoning model on average, {tokens_chat} of the chat model.",
        "One model with three modes, whose rows showed it to think about hard problems only where the choice was left to "
        "it. On problems alone, {easy_per_hard} easy for each hard one: told never to think {sums_off}, always {sums_on}, left "
        "to choose {sums_auto}. It then thinks about {thinks_easy} of the easy and {thinks_hard} of the hard ones, keeps "
        "{auto_accuracy_of_on} of the accuracy of always thinking, and spends {auto_tokens_of_on} of its tokens"
        + (
            ": the choice pays."
            if cheap["high"] < 1 and good["value"] >= 0.97
            else ": fewer tokens, at a loss of accuracy."
            if cheap["high"] < 1
            else ": the choice saves nothing here."
        ),
        "Told always to think, with a budget that cuts thought short, it is right in {sums_budget} of these problems with "
        "{sums_tokens_budget} tokens an answer, against {sums_on} with {sums_tokens_on}.",
    ]
    return Chapter(
        title="Which model when",
        text=text,
        figures=figures,
        headlines=("auto_accuracy_of_on", "auto_tokens_of_on", "hard_chat", "hard_reasoning"),
        series=[
            line(name, [(kind, figures[f"{kind}_{arm}"]) for kind in KINDS])
            for arm, name in (("base", "base"), ("chat", "chat"), ("reasoning", "reasoning"), ("auto", "think: auto"))
        ],
        y_label="right answers",
        samples=[(chosen(rows["auto"], "kind", kind)[0], f"{kind}, think: auto") for kind in KINDS],
    )


def _thinks(row: Row) -> bool:
    return str(row["completion"]).lstrip().startswith("<think>")

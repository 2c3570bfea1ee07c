"""Reinforcement from preferences: how much more a hidden judge likes the answers, and what overdoing it does."""

from __future__ import annotations

import json
import math

from pipeline.chapters.chapter import Arm, Chapter, Figure, difference, exact, rate, say
from pipeline.chapters.material import Row, read_rows
from pipeline.errors import PipelineError

WIN_RATE = "judge_win_rate"
FACTS = "facts_heldout"
_SERIES = {
    "proxy": "the reward model that is trained on",
    "second": "a second reward model",
    "judge": "the hidden judge",
}


def chapter(arms: dict[str, Arm]) -> Chapter:
    """Arms `before`, a chat model; `rlhf`, trained from it against a good reward model; `poor`, against a poor one with
    nothing to hold it and with `frontier_steps`; and any others (`dpo`, `kto`) that the judge compared with `before`."""
    figures: dict[str, Figure] = {}
    trained = [name for name in arms if name not in ("before", "poor")]
    figures |= {f"wins_{name}": rate(arms[name].answers(WIN_RATE)) for name in trained}
    for name in trained:
        figures[f"facts_{name}"] = difference(arms["before"].answers(FACTS), arms[name].answers(FACTS))
    lines, points = _frontier(arms["poor"])
    start, end = lines[0], lines[-1]
    stop = max(lines, key=lambda line: line["second"])
    best = max(lines, key=lambda line: line["judge"])
    for name in _SERIES:
        figures[f"{name}_gain"] = _gain(start, end, name)
    figures |= {
        "judge_lost": _gain(stop, end, "judge"),
        "stop_step": exact(stop["step"]),
        "end_step": exact(end["step"]),
        "best_step": exact(best["step"]),
        "from_best": exact(best["judge"] - stop["judge"]),
    }
    wins = "; ".join(f"{name} {{wins_{name}}} (right facts changed by {{facts_{name}}})" for name in trained)
    text = [
        "A hidden judge of manners prefers one of two answers; reward models learn its taste from pairs, and policies learn "
        f"from the reward models or from the pairs. Share of held-out questions on which the judge likes the trained model's "
        f"answer more than that of the model before: {wins}.",
        "The poor reward model learned from pairs that are few or often wrong, and nothing holds the policy near its "
        "start. At the end of that run the reward that it is trained on had changed by {proxy_gain}, the judge's score by "
        "{judge_gain}: "
        + say(
            figures["judge_gain"],
            "at this length of run the judge still gained from it.",
            "the proxy was optimised beyond what it stands for.",
            "nothing that the judge is sure of was gained.",
        ),
        "A second reward model, trained on other pairs, liked the policy best at step {stop_step} of {end_step}. From there "
        "to the end the judge's score changed by {judge_lost}: "
        + say(
            figures["judge_lost"],
            "stopping by the second reward model would have been too early.",
            "stopping by the second reward model would have saved it.",
            "stopping there would have made no difference that can be told.",
        )
        + " The best step by the judge itself, which nobody who trains may ask, was {best_step}, better by {from_best}.",
    ]
    moved = next((row for row in arms[trained[0]].answers(WIN_RATE) if row["correct"]), None) if trained else None
    return Chapter(
        title="Learning from preferences, and overdoing it",
        text=text,
        figures=figures,
        headlines=(*(f"wins_{name}" for name in trained[:1]), "proxy_gain", "judge_gain", "judge_lost"),
        series=[*_lines(lines, ""), *_lines(points, ", best of n")],
        x_label="√KL from the start, nats",
        y_label="gain in score",
        samples=[
            (moved, f"{trained[0]}: preferred by the judge"),
            ({"prompt": moved["prompt"], "completion": moved["other"]}, "before"),
        ]
        if moved
        else (),
    )


def _frontier(arm: Arm) -> tuple[list[Row], list[Row]]:
    file, best = arm.path / "frontier.jsonl", arm.path / "best_of_n.json"
    if not file.is_file():
        raise PipelineError(f"{file} is not there: set frontier_steps, judge and second_reward_model in its recipe.")
    return read_rows(file), json.loads(best.read_text(encoding="utf-8")) if best.is_file() else []


def _gain(before: Row, after: Row, name: str) -> Figure:
    """Difference of two means over fresh answers, with a normal interval from their standard errors."""
    value = after[name] - before[name]
    error = 1.96 * math.hypot(before[f"{name}_error"], after[f"{name}_error"])
    return {"value": value, "low": value - error, "high": value + error}


def _lines(rows: list[Row], remark: str) -> list[Row]:
    """One line a score: its gain over the first row against the root of KL."""
    return [
        {
            "name": label + remark,
            "x": [math.sqrt(max(row["kl"], 0.0)) for row in rows],
            "y": [row[name] - rows[0][name] for row in rows],
        }
        for name, label in _SERIES.items()
        if rows and name in rows[0]
    ]

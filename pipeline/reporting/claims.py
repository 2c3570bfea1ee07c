"""What may be claimed of reinforcement learning: against what sampling already found before it, and against its controls."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from pipeline.evaluation.evaluate import model_fingerprint, provenance_of
from pipeline.manifest import MANIFEST
from pipeline.recipe.controls import ARMS
from pipeline.reporting.run_folder import MODEL_KINDS, Row, Run, Stage, parent_path
from pipeline.reporting.table import percent
from pipeline.statistics import mean_interval, paired_difference, pass_at_k

MANY = 16
"""Samples of a question from which pass@k counts as pass@k at a large k."""

CONCENTRATES = "RL concentrates what sampling already finds"


def claims(run: Run) -> list[str]:
    """A sentence for each evaluation with many samples before and after a stage of RL, and one for each with controls."""
    found = []
    for stage in run.models:
        if stage.manifest.get("stage") not in ("grpo", "rlhf") or stage.control:
            continue
        before = _start_of(stage, run)
        arms = [one for one in run.models if one.control and one.control[0] == stage.name]
        for name in stage.evaluations:
            sentence = concentration(before.answers(name), stage.answers(name)) if before else None
            if sentence:
                found.append(f"{stage.name}, {name}: {sentence}.")
            compared = [text for arm in arms if (text := _against(stage, arm, name))]
            if compared:
                found.append(f"{stage.name}, {name}, against controls of equal compute: {'; '.join(compared)}.")
    return found


def concentration(before: Sequence[Row], after: Sequence[Row]) -> str | None:
    """Whether RL found what sampling did not find before it, or only made that likely (Yue et al. 2025, arXiv:2504.13837).

    Args:
        before, after: An evaluation's answered rows, each with `samples`, of the model before and after RL.

    Returns:
        A sentence with pass@1 and pass@k at the largest k that both have, and their paired differences with 95 % bootstrap
        intervals over questions; None where the questions differ or have fewer than 16 samples.
    """
    counted = [[[bool(one["correct"]) for one in row.get("samples") or []] for row in rows] for rows in (before, after)]
    if not before or [row.get("prompt") for row in before] != [row.get("prompt") for row in after]:
        return None
    k = min(len(samples) for rows in counted for samples in rows)
    if k < MANY:
        return None
    once, often = (_change([[pass_at_k(len(one), sum(one), at) for one in rows] for rows in counted]) for at in (1, k))
    told = f"pass@1 {_told(once)}, pass@{k} {_told(often)}"
    if once["low"] <= 0:
        return f"{'pass@1 fell' if once['high'] < 0 else 'no gain in pass@1 to explain'}: {told}"
    if often["low"] > 0:
        return f"RL finds more than {k} samples found before it: {told}"
    room = f"; pass@{k} had no room to rise" if often["before"] == 1 else ""
    return f"{CONCENTRATES}: {told}{room}"


def _change(values: Sequence[Sequence[float]]) -> dict[str, float]:
    change = mean_interval([new - old for old, new in zip(*values, strict=True)])
    return change | {"before": fmean(values[0]), "after": fmean(values[1])}


def _told(change: dict[str, float]) -> str:
    return f"{percent(change['before'])} → {percent(change['after'])} ({_points(change)})"


def _points(change: dict[str, float]) -> str:
    return f"{100 * change['value']:+.1f} points [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]"


def _against(stage: Stage, arm: Stage, name: str) -> str | None:
    """One control in words, with how far the stage is ahead of it on the same questions."""
    ours, theirs = (one.answers(name) for one in (stage, arm))
    if not ours or [row.get("prompt") for row in ours] != [row.get("prompt") for row in theirs] or not arm.control:
        return None
    if all("correct" in row for row in (*ours, *theirs)):
        rights = [[bool(row["correct"]) for row in rows] for rows in (theirs, ours)]
        ahead = paired_difference(rights[0], rights[1])
    elif all(row.get("samples") for row in (*ours, *theirs)):
        shares = [[fmean(bool(one["correct"]) for one in row["samples"]) for row in rows] for rows in (theirs, ours)]
        ahead = _change(shares)
    else:
        return None
    verdict = "ahead" if ahead["low"] > 0 else "behind" if ahead["high"] < 0 else "not told apart"
    rate = percent(arm.evaluations[name]["rate"])
    return f"{ARMS.get(arm.control[1], arm.control[1])} {rate}, {stage.name} {verdict} ({_points(ahead)})"


def _start_of(stage: Stage, run: Run) -> Stage | None:
    """What the run's folder holds of the model that a stage started from: its directory, or an evaluation of it."""
    models = [
        one for one in stage.manifest.get("parents", []) if one.get("kind") in MODEL_KINDS and one["kind"] != "reward"
    ]
    if not models:
        return None
    path = parent_path(stage, models[0])
    for one in run.stages:
        if one.path.resolve() == path.resolve():
            return one
    if not (path / MANIFEST).is_file():
        return None
    weights = model_fingerprint(path)
    measured = (one for one in run.stages if not one.manifest)
    return next((one for one in measured if any(o["model"] == weights for o in provenance_of(one.path).values())), None)

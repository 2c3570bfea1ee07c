"""The lecture's claims as experiments. One file a chapter: what it trains and asks with, and what its text says of the answers.

A chapter's module has `Settings`, the sizes of its data; `exercises(settings, material)`, the rows by file; and
`chapter(arms)`, which measures the answers of the models that the recipe names and writes the text by what was found.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pipeline.recipe.source import dotted, nearest
from pipeline.recipe.values import Problem, Range, check_limits, convert

WITH_EXERCISES = (
    *("base_model", "hallucination", "knowledge_of_self", "tokens_to_think", "limits"),
    *("beyond_the_expert", "which_model"),
)
# The arms of each chapter: those that it needs, and those that it also takes; `*` stands for any text.
ARMS = {
    "base_model": ("base chat", ""),
    "hallucination": ("before plain refusals search", ""),
    "knowledge_of_self": ("before told system", ""),
    "tokens_to_think": ("working direct direct_flops filler corrupted", ""),
    "limits": ("direct tools", ""),
    "beyond_the_expert": ("expert imitation_[0-9]* clean sft rl start trained own", "random format"),
    "which_model": ("base chat reasoning hybrid", ""),
    "reinforcement": ("before after start trained checks_before checks_after", "random format own"),
    "rlhf": ("before poor", "*"),
    "distillation": ("teacher trained start probabilities samples practice", "probabilities_short samples_short"),
}
NAMES = tuple(ARMS)


def find(name: str) -> Any:
    """The module of a chapter in `NAMES`."""
    return importlib.import_module(f"{__name__}.{name}")


def path_settings() -> list[str]:
    """Names of the settings that are files; `metadata={"path": NAME}` names the function of the module that reads one."""
    kinds = [find(name).Settings for name in WITH_EXERCISES]
    return [one.name for kind in kinds for one in dataclasses.fields(kind) if one.metadata.get("path")]


def settings(name: str, given: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """(what a recipe gives for a chapter's `Settings`, typed; a complaint for each that is none of them, of another type, or
    out of its `range`). Numbers are at least 0 where their metadata say nothing; texts and lists are empty only by default."""
    kind, problems = find(name).Settings, list[Problem]()
    values = convert(dict(given or {}), kind, (), problems)
    wrong = {problem.at[0] for problem in problems}
    for one in dataclasses.fields(kind):
        if one.name in values and one.name not in wrong:
            found: list[Problem] = []
            value, limits = values[one.name], one.metadata.get("range", (0, None))
            check_limits(value, (), None if isinstance(value, bool) else Range(*limits), found)
            if isinstance(value, str | list) and not value and one.default != value:
                found.append(Problem((), "expected something, found nothing: leave it out for the default"))
            problems += [Problem((one.name, *problem.at), problem.text) for problem in found]
    return values, [f"{dotted(('settings', *problem.at))}: {problem.text}" for problem in problems]


def misfits(name: str, arms: Sequence[str]) -> list[str]:
    """Complaints about arms that a chapter does not take, and about those that it lacks."""
    needed, taken = (text.split() for text in ARMS[name])
    extra = [arm for arm in arms if not any(fnmatchcase(arm, one) for one in (*needed, *taken))]
    lacks = [one for one in needed if not any(fnmatchcase(arm, one) for arm in arms)]
    takes = f"the chapter {name} takes {', '.join(needed)}" + (f" and, if given, {', '.join(taken)}" if taken else "")
    return [f"arms: {arm}: no such arm{nearest(arm, lacks or needed)}; {takes}" for arm in extra] + [
        f"arms: {one} is missing; {takes}" for one in lacks
    ]

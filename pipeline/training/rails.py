"""Rails of a reinforcement learning run: what went wrong, seen in its logs, before a night is burnt on it.

A rail compares the mean of the last `window` logged steps with a limit, or with the mean of the first `window`. One that
trips writes what it saw to `alerts.jsonl` and then warns, stops the run, or stops it and hands over the newest
checkpoint from before (`rollback`). docs/rails.md has the range that each figure keeps in a healthy run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.errors import PipelineError

ACTIONS = ("stop", "warn", "rollback", "off")
OFF_POLICY = "sampling/sampling_logp_difference/mean"
"""TRL's name for the mean |log p(train) - log p(rollout)| of a token."""


@dataclass(frozen=True)
class Rail:
    """One rail.

    limit: the number that a recipe may set.
    means: what `limit` is, for messages and the docs.
    cure: what to do about it.
    seen: the offending figure of a history and what it is held against, or None while all is well.
    """

    limit: float
    means: str
    cure: str
    seen: Callable[[History, float], tuple[float, float] | None]


class History:
    """The logged steps of a run, as means over the first and over the last window.

    A step that used completions drawn before has no reward: windows count the steps that have the figure in question.

    Args:
        window: Logged steps that a mean is taken over.
        ceiling: The highest reward that there is, where it is known: what would be collapse below is success at it.
    """

    def __init__(self, window: int, ceiling: float | None = None):
        self.window, self.ceiling = window, ceiling
        self.rows: list[Mapping[str, float]] = []

    def values(self, key: str) -> list[float]:
        return [row[key] for row in self.rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])]

    def first(self, key: str) -> float | None:
        values = self.values(key)
        return fmean(values[: self.window]) if len(values) >= self.window else None

    def last(self, key: str) -> float | None:
        values = self.values(key)
        return fmean(values[-self.window :]) if len(values) >= self.window else None

    def grown(self) -> bool:
        """Whether the last window no longer overlaps with the first."""
        return len(self.values("reward")) >= 2 * self.window

    def solved(self) -> bool:
        """Whether the reward has come within a tenth of the highest there is."""
        reward = self.last("reward")
        return self.ceiling is not None and reward is not None and reward >= 0.9 * self.ceiling


def _above(key: str, *, unless_solved: bool = False) -> Callable[[History, float], tuple[float, float] | None]:
    def seen(history: History, limit: float) -> tuple[float, float] | None:
        value = history.last(key)
        if value is None or value <= limit or (unless_solved and history.solved()):
            return None
        return value, limit

    return seen


def _reward_fell(history: History, limit: float) -> tuple[float, float] | None:
    first, last, spread = history.first("reward"), history.last("reward"), history.first("reward_std")
    if first is None or last is None or spread is None or not history.grown():
        return None
    floor = first - limit * spread
    return (last, floor) if last < floor else None


def _reward_flat(history: History, limit: float) -> tuple[float, float] | None:
    values = history.values("reward")
    if len(values) < limit or history.solved():
        return None
    first, last = values[: history.window], values[-history.window :]
    noise = math.sqrt((_variance(first) + _variance(last)) / history.window)
    needed = fmean(first) + 2 * noise
    return (fmean(last), needed) if fmean(last) <= needed else None


def _entropy_collapsed(history: History, limit: float) -> tuple[float, float] | None:
    first, last = history.first("entropy"), history.last("entropy")
    if first is None or last is None or not history.grown() or history.solved():
        return None
    return (last, limit * first) if last < limit * first else None


def _length_blew_up(history: History, limit: float) -> tuple[float, float] | None:
    first, last = history.first("completions/mean_length"), history.last("completions/mean_length")
    if first is None or last is None or not history.grown():
        return None
    return (last, limit * first) if last > limit * first else None


def _variance(values: list[float]) -> float:
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)


RAILS: dict[str, Rail] = {
    "zero_variance": Rail(
        0.95,
        "share of groups whose completions all have the same reward",
        "the problems are too hard or too easy, or the temperature is too low: nothing is learnt from such groups",
        _above("frac_reward_zero_std", unless_solved=True),
    ),
    "reward_fell": Rail(
        0.5,
        "fall of the reward below its start, in standard deviations of the completions' rewards at the start",
        "lower learning_rate, or raise beta",
        _reward_fell,
    ),
    "reward_flat": Rail(
        200,
        "logged steps after which the reward is no higher than at the start, noise aside",
        "look at samples.jsonl: the reward may be out of reach, or learning_rate too low",
        _reward_flat,
    ),
    "entropy_collapse": Rail(
        0.02,
        "share of its first entropy below which the policy draws the same completion again and again",
        "lower learning_rate, raise temperature or epsilon_high",
        _entropy_collapsed,
    ),
    "kl_explosion": Rail(
        1.0, "nats a token between policy and reference", "lower learning_rate, or raise beta", _above("kl")
    ),
    "length_blow_up": Rail(
        4.0,
        "growth of the mean length of a completion",
        "cap it with max_completion_length or a length reward, or look whether length is what is paid for",
        _length_blew_up,
    ),
    "truncated": Rail(
        0.6,
        "share of completions that the limit cuts off",
        "raise max_completion_length, or set mask_truncated_completions",
        _above("completions/clipped_ratio"),
    ),
    "repetition": Rail(
        0.5,
        "share of a completion's 8-grams of tokens that occurred in it before",
        "the policy has found a loop that is paid for: add the repetition penalty, look at samples.jsonl",
        _above("completions/repetition"),
    ),
    "off_policy": Rail(
        0.2,
        "mean absolute difference of a token's log-probability between training and generation, in nats",
        "the two engines disagree: cast_lm_head_to_fp32, the same precision for both, fewer steps a batch",
        _above(OFF_POLICY),
    ),
}


def check_rails(value: Any) -> list[str]:
    """Complaints about the recipe's `rails`: an action, or a mapping of `action`, `window` and limits by name."""
    if value is None or value in ACTIONS:
        return []
    if value is False:  # YAML reads a bare `off` as false
        return []
    if not isinstance(value, dict):
        return [f"rails: found {value!r}, expected one of {', '.join(ACTIONS)}, or a mapping of limits"]
    complaints = []
    for key, given in value.items():
        if key == "action":
            if given not in ACTIONS and given is not False:
                complaints.append(f"rails.action: found {given!r}, expected one of {', '.join(ACTIONS)}")
        elif key == "window":
            if not isinstance(given, int) or isinstance(given, bool) or given < 1:
                complaints.append(f"rails.window: found {given!r}, expected a number of logged steps")
        elif key not in RAILS:
            complaints.append(f"rails.{key}: no such rail; there are {', '.join(RAILS)}")
        elif (
            given is not None and given is not False and (isinstance(given, bool) or not isinstance(given, int | float))
        ):
            complaints.append(f"rails.{key}: found {given!r}, expected a number ({RAILS[key].means}), or null for none")
    return complaints


def describe(alert: Mapping[str, Any]) -> str:
    """One line about an alert, for people."""
    return (
        f"rail {alert['rail']} at step {alert['step']}: {alert['value']:.4g} against {alert['bound']:.4g} "
        f"({alert['means']}). {alert['cure'][0].upper()}{alert['cure'][1:]}."
    )


def stopped_by(alert: Mapping[str, Any], stage: str) -> PipelineError:
    """The error with which a run ends that a rail has stopped."""
    return PipelineError(
        f"{stage}: stopped by {describe(alert)} What it saw is in alerts.jsonl, and a checkpoint was saved. Change the recipe "
        f"and start anew with --overwrite, or raise the limit (`rails: {{{alert['rail']}: ...}}`), or set `rails: warn`."
    )


def read_alerts(path: Path) -> list[dict[str, Any]]:
    """The lines of `alerts.jsonl`; none where there was no alert."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

"""Which problem comes next: a curriculum by measured pass rate, whose whole state fits into a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MEMORY = 0.5  # the weight that all earlier completions together keep when a problem is measured again: the policy has changed


@dataclass(frozen=True)
class Band:
    """Pass rates that are worth training on, both ends included, and the share of the problems beyond them that is drawn
    all the same in every pass through the data."""

    min: float = 0.0
    max: float = 1.0
    outside: float = 0.1


def verifiers_of(rewards: Sequence[Any]) -> dict[str, float]:
    """The score with which a completion passes, by name of the verifiers among rewards."""
    return {reward.name: reward.high for reward in rewards if reward.kind == "verifier" and reward.high is not None}


def check_difficulty(value: dict[str, Any] | None) -> list[str]:
    """Complaints about the recipe's `difficulty`, a mapping of `min`, `max` and `outside`."""
    if value is None:
        return []
    known = {name: field.default for name, field in Band.__dataclass_fields__.items()}
    complaints = [f"difficulty.{key}: no such key; there are {', '.join(known)}" for key in value.keys() - known]
    for key, given in {**known, **value}.items():
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
            complaints.append(f"difficulty.{key}: found {given!r}, expected a share between 0 and 1")
    if complaints:
        return complaints
    band = Band(**value)
    if band.min >= band.max:
        complaints.append(f"difficulty.max: {band.max} is not above min, {band.min}")
    if band.outside == 0:
        complaints.append("difficulty.outside: 0 would drop a problem for good after one unlucky group; try 0.05")
    return complaints


def check_selection(recipe: Any, rewards: Sequence[Any], config_type: type) -> list[str]:
    """Complaints about `difficulty` and `active_sampling_rounds` beside the recipe's other keys."""
    difficulty, rounds = recipe.arguments.difficulty, recipe.arguments.active_sampling_rounds
    complaints = check_difficulty(difficulty)
    if difficulty is not None and not verifiers_of(rewards):
        complaints.append(
            "difficulty: no verifier is among reward_funcs to say what passed; `pipeline rewards list` shows them"
        )
    key = "difficulty" if difficulty is not None else "active_sampling_rounds"
    streamed = next((name for name in ("dataset_streaming", "streaming") if recipe.get(name)), None)
    if streamed and (rounds or difficulty is not None):
        complaints.append(f"{key}: draws rows by number, which a stream does not have; leave out {streamed}")
    over_groups = {
        "scale_rewards": "batch",
        "multi_objective_aggregation": "normalize_then_sum",
        "normalize_advantages": True,
    }
    for name, value in over_groups.items():
        if rounds and hasattr(config_type, name) and recipe.setting(name, config_type) == value:
            complaints.append(
                f"active_sampling_rounds: {name}: {value} scales advantages over the batch that a group was drawn with, so "
                f"that none can be replaced; scale them within groups"
            )
    return complaints


class Curriculum:
    """Draws rows in a seeded order, epoch after epoch, and remembers how often each one's completions passed.

    Every pass visits each row once. A row that was never measured, or whose pass rate lies in the band, is taken; another
    one by its lot, which is drawn anew in every pass: it is measured again now and then, and no row is ever lost.

    Args:
        rows: Number of rows.
        seed: Of order and lots.
        band: None takes every row.
        shuffle: False keeps the order of the data.
    """

    def __init__(self, rows: int, seed: int, band: Band | None = None, *, shuffle: bool = True):
        self.rows, self.band = rows, band
        self._seed, self._shuffle = seed, shuffle
        self.passed, self.tried = np.zeros(rows), np.zeros(rows)
        self._turn_to(0, 0)

    def _turn_to(self, epoch: int, position: int) -> None:
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(self.rows)
        self._order = order if self._shuffle else np.arange(self.rows)
        self._lots = random.random(self.rows)
        self.epoch, self.position = epoch, position

    def draw(self, count: int, without: Collection[int] = ()) -> list[int]:
        """The next `count` rows, all different and none of them in `without`; fewer where there are no more."""
        taken = set(without)
        drawn: list[int] = []
        while len(drawn) < count and len(taken) < self.rows:
            if self.position == self.rows:
                self._turn_to(self.epoch + 1, 0)
            row, lot = int(self._order[self.position]), self._lots[self.position]
            self.position += 1
            if row not in taken and (self.band is None or lot < self.band.outside or self._within(row)):
                drawn.append(row)
                taken.add(row)
        return drawn

    def record(self, row: int, passed: float, tried: int) -> None:
        """`passed` of `tried` completions of a row were right."""
        if tried:
            self.passed[row] = MEMORY * self.passed[row] + passed
            self.tried[row] = MEMORY * self.tried[row] + tried

    def _within(self, row: int) -> bool:
        assert self.band is not None
        return not self.tried[row] or self.band.min <= self.passed[row] / self.tried[row] <= self.band.max

    def counts(self) -> dict[str, int]:
        """How many rows lie in the band, above it, below it, and were not measured yet."""
        band, measured = self.band or Band(), self.tried > 0
        rates = self.passed[measured] / self.tried[measured]
        easy, hard = int((rates > band.max).sum()), int((rates < band.min).sum())
        found = {"in_band": len(rates) - easy - hard, "too_easy": easy, "too_hard": hard}
        return found | {"unmeasured": self.rows - len(rates)}

    def pass_rate(self) -> float:
        """Mean over the rows that were measured, NaN before: unlike the reward, it does not follow what is drawn."""
        measured = self.tried > 0
        return float((self.passed[measured] / self.tried[measured]).mean()) if measured.any() else float("nan")

    def state(self) -> dict[str, Any]:
        """All that decides what is drawn next, for `torch.save`."""
        measured = torch.from_numpy(np.stack([self.passed, self.tried]))
        return {"epoch": self.epoch, "position": self.position, "measured": measured}

    def restore(self, state: dict[str, Any]) -> None:
        self.passed, self.tried = state["measured"].numpy().copy()
        self._turn_to(state["epoch"], state["position"])

"""The removal table: what each step read, kept and dropped, with a sample of what it dropped and why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SAMPLES_A_REASON = 3
SAMPLES_A_STEP = 20
SAMPLE_CHARACTERS = 300
REASONS = 200
"""Different reasons that a step tells apart: some quote the damage that they met."""


FIGURES = ("documents_in", "documents_out", "bytes_in", "bytes_out")


@dataclass
class Step:
    """One step of the corpus stage. Sizes are bytes of HTML before extraction and UTF-8 bytes of text after it.

    `replaced` counts what a step changed within the documents that it kept.
    """

    name: str
    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)
    sample: list[dict[str, Any]] = field(default_factory=list)

    def enter(self, size: int) -> None:
        self.documents_in += 1
        self.bytes_in += size

    def leave(self, size: int) -> None:
        self.documents_out += 1
        self.bytes_out += size

    def drop(self, reason: str, url: str | None, text: str) -> None:
        if reason not in self.reasons and len(self.reasons) >= REASONS:
            reason = "another reason"
        self.reasons[reason] += 1
        self._sample({"url": url, "reason": reason, "text": text[:SAMPLE_CHARACTERS]})

    def _sample(self, row: dict[str, Any]) -> None:
        of_reason = sum(one["reason"] == row["reason"] for one in self.sample)
        if of_reason < SAMPLES_A_REASON and len(self.sample) < SAMPLES_A_STEP:
            self.sample.append(row)

    def add(self, other: dict[str, Any]) -> None:
        """Add what another task counted for the same step, as `to_json` gave it."""
        for name in FIGURES:
            setattr(self, name, getattr(self, name) + other[name])
        self.reasons.update(other["reasons"])
        self.replaced.update(other.get("replaced", {}))
        for row in other["sample"]:
            self._sample(row)

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.name,
            **{name: getattr(self, name) for name in FIGURES},
            "reasons": dict(self.reasons.most_common()),
            **({"replaced": dict(self.replaced.most_common())} if self.replaced else {}),
            "sample": self.sample,
        }


def table(steps: Sequence[Step]) -> str:
    """For people: a line a step, and below it a line for each reason."""
    width = max(18, *(len(step.name) for step in steps))
    lines = [f"{'step':<{width}}{'documents in':>14}{'out':>12}{'dropped':>10}{'MB in':>10}{'MB out':>10}"]
    for step in steps:
        dropped = step.documents_in - step.documents_out
        lines.append(
            f"{step.name:<{width}}{step.documents_in:>14,}{step.documents_out:>12,}{dropped:>10,}"
            f"{step.bytes_in / 1e6:>10.2f}{step.bytes_out / 1e6:>10.2f}"
        )
        lines += [f"{'':<{width}}{count:>14,}  {reason}" for reason, count in step.reasons.most_common(8)]
        if len(step.reasons) > 8:
            lines.append(f"{'':<{width}}{'':>14}  and {len(step.reasons) - 8} more reasons, all in removed.json")
        lines += [f"{'':<{width}}{count:>14,}  changed: {kind}" for kind, count in step.replaced.most_common()]
    return "\n".join(lines)


def summary(steps: Sequence[Step]) -> str:
    """Reasons of all steps in one line, for the message of an empty result."""
    reasons = sum((step.reasons for step in steps), Counter[str]())
    return "; ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(5))

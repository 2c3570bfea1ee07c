"""The removal table: what each step read, kept and dropped, with a sample of what it dropped and why."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAMPLES_A_REASON = 3
SAMPLES_A_STEP = 20
SAMPLE_CHARACTERS = 300


@dataclass
class Step:
    """One step of the corpus stage. Sizes are bytes of HTML before extraction and UTF-8 bytes of text after it."""

    name: str
    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    sample: list[dict[str, Any]] = field(default_factory=list)

    def keep(self, bytes_in: int, bytes_out: int | None = None) -> None:
        self.documents_in += 1
        self.documents_out += 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_in if bytes_out is None else bytes_out

    def drop(self, reason: str, size: int, url: str | None, text: str) -> None:
        self.documents_in += 1
        self.bytes_in += size
        self.reasons[reason] += 1
        if self.reasons[reason] <= SAMPLES_A_REASON and len(self.sample) < SAMPLES_A_STEP:
            self.sample.append({"url": url, "reason": reason, "text": text[:SAMPLE_CHARACTERS]})

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.name,
            "documents_in": self.documents_in,
            "documents_out": self.documents_out,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "reasons": dict(self.reasons.most_common()),
            "sample": self.sample,
        }


class Funnel:
    """The steps in the order in which documents meet them."""

    def __init__(self, *names: str):
        self.steps = {name: Step(name) for name in names}

    def __getitem__(self, name: str) -> Step:
        return self.steps[name]

    def write(self, path: Path) -> None:
        table = [step.to_json() for step in self.steps.values()]
        path.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def table(self) -> str:
        """For people: a line a step, and below it a line for each reason."""
        width = max(18, *(len(name) for name in self.steps))
        lines = [f"{'step':<{width}}{'documents in':>14}{'out':>12}{'dropped':>10}{'MB in':>10}{'MB out':>10}"]
        for step in self.steps.values():
            dropped = step.documents_in - step.documents_out
            lines.append(
                f"{step.name:<{width}}{step.documents_in:>14,}{step.documents_out:>12,}{dropped:>10,}"
                f"{step.bytes_in / 1e6:>10.2f}{step.bytes_out / 1e6:>10.2f}"
            )
            lines += [f"{'':<{width}}{count:>14,}  {reason}" for reason, count in step.reasons.most_common(8)]
            if len(step.reasons) > 8:
                lines.append(f"{'':<{width}}{'':>14}  and {len(step.reasons) - 8} more reasons, all in removed.json")
        return "\n".join(lines)

    def summary(self) -> str:
        """Reasons of all steps in one line, for the message of an empty result."""
        reasons = sum((step.reasons for step in self.steps.values()), Counter[str]())
        return "; ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(5))

"""A few problems of the training data, sampled again and again while a policy trains, with all that they earn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.samples import SamplesCallback, as_text
from pipeline.evaluation.self_checks import answer_before
from pipeline.rewards.registry import Reward
from pipeline.rewards.scoring import score_completions, weighted_sums

COMPLETIONS = 4
"""Of each problem, each time."""


class RolloutsCallback(SamplesCallback):
    """Writes `rollouts.jsonl`, a line a completion, at the start, at intervals and at the end.

    A training batch hardly ever holds the same problem twice, so these are drawn beside it, as training draws and with
    the same random numbers each time: {"step", "problem", "prompt", "answer", "completion", "ended", "tokens", "rewards":
    {NAME: score}, "reward": their weighted sum, "right": by the first verifier, None without one, "right_before": the same
    of the text before its first self-check, None where that gives no answer}.

    Args:
        rows: Problems as the trainer has them.
        rewards, weights: What the completions are scored by.
        sampling: `temperature` and what else `generate` takes.
        tool_rounds: Rounds of calls at most, where there are tools.
    """

    def __init__(
        self,
        tokenizer: Any,
        rows: Sequence[dict[str, Any]],
        rewards: Sequence[Reward],
        weights: Sequence[float],
        path: str | Path,
        *,
        sampling: dict[str, Any],
        tool_rounds: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(tokenizer, [row["prompt"] for row in rows], path, **options)
        self.rows, self.rewards, self.weights = list(rows), list(rewards), list(weights)
        self.sampling, self.tool_rounds = sampling, tool_rounds
        self.verifier = next((reward for reward in rewards if reward.verify is not None), None)

    def lines(self, model: Any) -> list[dict[str, Any]]:
        answers, whole = self.written(model, self.tool_rounds, n=COMPLETIONS, **self.sampling)
        repeated = [row for row in self.rows for _ in range(COMPLETIONS)]
        texts, ids = [one.text for one in answers], [one.token_ids for one in whole]
        scores = [score_completions(reward, texts, repeated, ids) for reward in self.rewards]
        sums = weighted_sums(scores, self.weights)
        return [
            {
                "problem": number // COMPLETIONS,
                "prompt": as_text(row["prompt"]),
                "answer": row.get("answer"),
                "completion": whole[number].text,
                "ended": whole[number].ended,
                "tokens": len(ids[number]),
                "rewards": {
                    reward.name: column[number]
                    for reward, column in zip(self.rewards, scores, strict=True)
                    if column is not None
                },
                "reward": sums[number],
                "right": self._verdict(texts[number], row),
                "right_before": self._verdict(answer_before(texts[number]), row),
            }
            for number, row in enumerate(repeated)
        ]

    def _verdict(self, text: str | None, row: dict[str, Any]) -> bool | None:
        if text is None or self.verifier is None or self.verifier.verify is None or row.get("answer") is None:
            return None
        return self.verifier.verify(text, row["answer"])

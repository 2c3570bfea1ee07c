"""The second part of the reward check: what the policy itself earns before its first step.

GRPO learns from differences within a group. Where all completions of a prompt earn the same, the group's advantages
are 0, so a share of groups with variance near 0 means a run that learns nothing however long it lasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import pstdev
from typing import Any

from pipeline.errors import PipelineError
from pipeline.rewards.attacks import Row
from pipeline.rewards.registry import Reward, Scores, reward_weights
from pipeline.rewards.scoring import mean, score_completions, weighted_sums
from pipeline.rewards.table import excerpt, format_table
from pipeline.statistics import wilson_interval

ENOUGH_PROMPTS = 64

LOW_SHARE = 0.2
"""Groups with variance below which (with the interval's upper bound) most of the generation is wasted."""


@dataclass
class SampleCheck:
    """Outcome of `check_samples`.

    Attributes:
        prompts, generations: Groups, and completions in each.
        rewards: By reward: `mean`, `std`, `undecided` (share of None).
        mean_reward: Mean weighted sum.
        groups_with_variance: Groups in which not all completions earn the same, of `prompts`.
        share, low, high: The same as a share, with its 95 % Wilson interval.
        solved, unsolved: Shares of groups in which all, or no, completions are right (first verifier); None without
        one. ended: Share of completions that ended before the length limit; None where it is not known.
        warnings: What is wrong and what to do about it.
        examples: A few completions with their scores.
    """

    prompts: int
    generations: int
    rewards: list[dict[str, Any]]
    mean_reward: float | None
    groups_with_variance: int
    share: float
    low: float
    high: float
    solved: float | None
    unsolved: float | None
    ended: float | None
    warnings: list[str]
    examples: list[str]

    @property
    def ok(self) -> bool:
        return not self.warnings

    def to_text(self) -> str:
        """Table, shares, examples and warnings, to be printed."""
        lines = [f"Sampled completions: {self.prompts} prompts, {self.generations} each", format_table(self.rewards)]
        if self.mean_reward is not None:
            lines.append(f"mean reward (weighted sum) {self.mean_reward:.3f}")
        lines.append(
            f"groups with variance {self.share:.0%} (95 % interval {self.low:.0%} to {self.high:.0%}); "
            "only these teach anything"
        )
        if self.solved is not None and self.unsolved is not None:
            lines.append(f"groups all right {self.solved:.0%}, none right {self.unsolved:.0%}")
        if self.ended is not None:
            lines.append(f"completions that ended by themselves {self.ended:.0%}")
        lines += self.examples
        lines += [f"WARNING {warning}" for warning in self.warnings]
        return "\n".join(lines)


def check_samples(
    rewards: Sequence[Reward],
    weights: Sequence[float] | None,
    rows: Sequence[Row],
    completions_by_prompt: Sequence[Sequence[str]],
    *,
    ended_by_prompt: Sequence[Sequence[bool]] | None = None,
    completion_ids_by_prompt: Sequence[Sequence[Sequence[int]]] | None = None,
) -> SampleCheck:
    """Score the policy's own completions at training temperature.

    Args:
        rewards, weights: As in the training.
        rows: One a prompt.
        completions_by_prompt: For each row its group of completions, all groups of one size ≥ 2.
        ended_by_prompt: Whether each completion ended before the length limit.
        completion_ids_by_prompt: Token ids, for rewards that read them; without them those are not scored.

    Raises:
        PipelineError: Groups of unequal size or of fewer than two, or a reward that raises.
    """
    sizes = {len(group) for group in completions_by_prompt}
    if len(rows) != len(completions_by_prompt) or len(sizes) != 1 or min(sizes) < 2:
        raise PipelineError(
            f"reward check: {len(rows)} rows need as many groups of equally many completions, at least two; found "
            f"{len(completions_by_prompt)} groups of sizes {sorted(sizes)}."
        )
    weights = reward_weights(rewards, weights)
    size = sizes.pop()
    texts = [text for group in completions_by_prompt for text in group]
    repeated = [row for row in rows for _ in range(size)]
    ids = None if completion_ids_by_prompt is None else [i for group in completion_ids_by_prompt for i in group]
    scores = [score_completions(reward, texts, repeated, ids) for reward in rewards]
    sums = weighted_sums(scores, weights)
    groups = [sums[start : start + size] for start in range(0, len(sums), size)]
    varied = sum(_varies(group) for group in groups)
    low, high = wilson_interval(varied, len(groups))
    solved, unsolved = _solved(rewards, scores, size)
    ended = None if ended_by_prompt is None else mean([float(e) for group in ended_by_prompt for e in group])
    table = [_summary(r, w, s) for r, w, s in zip(rewards, weights, scores, strict=True)]
    outcome = SampleCheck(
        prompts=len(groups),
        generations=size,
        rewards=table,
        mean_reward=mean(sums),
        groups_with_variance=varied,
        share=varied / len(groups),
        low=low,
        high=high,
        solved=solved,
        unsolved=unsolved,
        ended=ended,
        warnings=[],
        examples=_examples(texts, sums, size),
    )
    outcome.warnings.extend(_warnings(outcome))
    return outcome


def _warnings(outcome: SampleCheck) -> list[str]:
    warnings = []
    if outcome.high < LOW_SHARE:
        if (outcome.solved or 0.0) > (outcome.unsolved or 0.0):
            remedy = "Most groups are all right: take harder problems, or raise temperature."
        elif outcome.unsolved is not None:
            remedy = (
                "Most groups have no right completion: take easier problems, more supervised fine-tuning first, or "
                "raise num_generations; raise temperature if the completions of a group look alike."
            )
        else:
            remedy = "Raise temperature or num_generations, or take problems of another difficulty."
        warnings.append(
            f"only {outcome.groups_with_variance} of {outcome.prompts} groups have any variance in their reward (95 % "
            f"interval {outcome.low:.1%} to {outcome.high:.1%}); the others teach nothing. {remedy}"
        )
    if outcome.ended is not None and outcome.ended < 0.5:
        warnings.append(
            f"only {outcome.ended:.0%} of the completions ended by themselves: raise max_completion_length, or check "
            "that the model was trained to end its turn."
        )
    for row in outcome.rewards:
        if row["undecided"]:
            warnings.append(
                f"{row['reward']} could not decide {row['undecided']:.1%} of the completions; they are left out."
            )
    if outcome.prompts < ENOUGH_PROMPTS:
        warnings.append(f"{outcome.prompts} prompts say little: the interval is wide; take at least {ENOUGH_PROMPTS}.")
    return warnings


def _varies(group: Scores) -> bool:
    known = [value for value in group if value is not None]
    return bool(known) and max(known) - min(known) > 1e-8


def _solved(rewards: Sequence[Reward], scores: Sequence[Scores | None], size: int) -> tuple[float | None, float | None]:
    for reward, column in zip(rewards, scores, strict=True):
        if reward.kind == "verifier" and column is not None:
            groups = [column[start : start + size] for start in range(0, len(column), size)]
            right = [sum(score == reward.high for score in group) for group in groups]
            return sum(n == size for n in right) / len(groups), sum(n == 0 for n in right) / len(groups)
    return None, None


def _summary(reward: Reward, weight: float, scores: Scores | None) -> dict[str, Any]:
    known = [score for score in scores or [] if score is not None]
    std = pstdev(known) if known else None
    undecided = None if scores is None else scores.count(None) / len(scores)
    return {"reward": reward.name, "weight": weight, "mean": mean(known), "std": std, "undecided": undecided}


def _examples(texts: Sequence[str], sums: Scores, size: int) -> list[str]:
    """The first completion, and the best and the worst of the others, with what they earn."""
    ranked = sorted((value, position) for position, value in enumerate(sums) if value is not None)
    chosen = dict.fromkeys([0, ranked[-1][1], ranked[0][1]] if ranked else [0])
    return [f"  prompt {p // size}: {excerpt(texts[p], 200)} -> {sums[p]}" for p in chosen]

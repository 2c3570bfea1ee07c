"""The reward check: before any training, golds must score top and attacks bottom.

A reward that pays for the wrong thing, or never pays, costs a whole run before anybody sees it
(huggingface/open-r1#235, #255; trl#3452). This costs a second.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError
from pipeline.rewards.attacks import (
    GOLD,
    OWN_REMEDY,
    REMEDIES,
    Case,
    Row,
    attack_cases,
    fields,
    gold_case,
    template_for,
)
from pipeline.rewards.registry import Reward, Scores, reward_weights
from pipeline.rewards.scoring import mean, score_completions, weighted_sums
from pipeline.rewards.table import excerpt, format_table

Tokenize = Callable[[str], list[int]]

COINCIDENCE_SHARE = 0.05
"""A prompt may happen to hold the answer as its only number; copying pays only where that is common."""

SUM = "weighted sum"


@dataclass
class RewardCheck:
    """Outcome of `check_rewards`.

    Attributes:
        rows: One a case: its name, the number of completions, and by reward (and `weighted sum`) their mean score.
        failures: What must be mended before training, each with reward, case, row, completion, score and remedy.
        warnings: The same of rewards that are not this project's, and what could not be judged.
        template: The gold template that was used.
    """

    rows: list[dict[str, Any]]
    failures: list[str]
    warnings: list[str]
    template: str

    @property
    def ok(self) -> bool:
        return not self.failures

    def to_text(self) -> str:
        """Table, failures and warnings, to be printed."""
        lines = [f"Reward check (gold_template: {self.template!r})", format_table(self.rows)]
        lines += [f"FAILED  {failure}" for failure in self.failures]
        lines += [f"note    {warning}" for warning in self.warnings]
        if not self.failures and not self.warnings:
            lines.append("Golds score top and attacks bottom on every verifier.")
        return "\n".join(lines)


@dataclass
class _Judged:
    """Scores of all cases by one reward, or their weighted sums."""

    name: str
    scores: Scores
    judged: bool
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def complain(
        self,
        wrong: Sequence[int],
        cases: Sequence[Case],
        total: int,
        rows: Sequence[Row],
        wanted: str,
        fails: bool = True,
    ) -> None:
        """One complaint about the cases with the indices `wrong`, all of one name, with the first as the example."""
        if not wrong:
            return
        case, score = cases[wrong[0]], self.scores[wrong[0]]
        shown = "None" if score is None else f"{score:g}"
        (self.failures if fails and self.judged else self.warnings).append(
            f"{self.name}: {len(wrong)} of {total} completions of the case {case.name!r} did not score {wanted}. "
            f"First: row {case.row}, answer {excerpt(fields(rows[case.row])['final'], 60)}, completion "
            f"{excerpt(case.text, 160)}, score {shown}. {REMEDIES.get(case.name, OWN_REMEDY)}"
        )


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` indices below `count`, evenly spread and always the same."""
    return list(range(count)) if count <= limit else [index * count // limit for index in range(limit)]


def check_rewards(
    rewards: Sequence[Reward],
    weights: Sequence[float] | None,
    rows: Sequence[Row],
    *,
    gold_template: str | None = None,
    tokenize: Tokenize | None = None,
    gold_rows: int = 1000,
    attack_rows: int = 64,
) -> RewardCheck:
    """Score golds and attacks on rows of the training data.

    Verifiers must give every gold their highest score and every attack their lowest; another reward must give at least
    some golds its highest, and less to the attacks that it brings with it; and in the weighted sum no attack may reach
    the gold of its row. Rewards from outside the project, and models that score, are shown and warned about. Without a
    column of answers and without verifiers there are no golds, and just junk is scored.

    Args:
        rewards: From `resolve`.
        weights: One a reward, or None.
        rows: Columns `prompt` (text or messages) and `answer` or `solution`, and what else the rewards read.
        gold_template: A gold completion with `{answer}`, `{final}` and `{reasoning}` (the parts of an answer behind and
            before `####`) or any column. None: what a reward asks for (think format), else `{answer}`.
        tokenize: Token ids of a text, for rewards that read `completion_ids`; without it they are not scored.
        gold_rows, attack_rows: At most so many rows are tried, evenly spread over the data.

    Raises:
        PipelineError: No rows, no answer column, a bad template, or a reward that raises.
    """
    if not rows:
        raise PipelineError("reward check: the data set has no rows.")
    golds = "answer" in rows[0] or "solution" in rows[0] or gold_template is not None
    if not golds and any(reward.kind == "verifier" for reward in rewards):
        raise PipelineError(
            f"reward check: the rows have no column 'answer' (found: {', '.join(sorted(rows[0]))}); "
            "name the column of the answers with `answer_column`, or set `reward_check: off`."
        )
    weights = reward_weights(rewards, weights)
    template = gold_template or template_for([reward.gold_template for reward in rewards if reward.gold_template])
    tried = spread(len(rows), attack_rows)
    finals = [fields(rows[index])["final"] for index in tried]
    gold_indices = sorted({*spread(len(rows), gold_rows), *tried}) if golds else []
    cases = [gold_case(index, rows[index], template) for index in gold_indices]
    for position, index in enumerate(tried):
        others = finals[position + 1 :] + finals[:position]
        cases += attack_cases(index, rows[index], template, others)
        for reward in rewards:
            found = reward.attacks(rows[index], reward.parameters) if reward.attacks else {}
            cases += [Case(name, index, text, reward.name) for name, texts in found.items() for text in texts]

    ids = [tokenize(case.text) for case in cases] if tokenize is not None else None
    scores = [_score_cases(reward, cases, rows, ids, tried) for reward in rewards]
    judged = [
        _judge(reward, found, cases, _within(cases, tried, [reward]), rows)
        for reward, found in zip(rewards, scores, strict=True)
        if found is not None
    ]
    judged.append(_judge_sum(rewards, weights, scores, cases, _within(cases, tried, rewards), rows))
    table = []
    for name, count in Counter(case.name for case in cases).items():
        places = [position for position, case in enumerate(cases) if case.name == name]
        table.append({"case": name, "n": count, **{one.name: mean([one.scores[p] for p in places]) for one in judged}})
    unscored = [r.name for r, s in zip(rewards, scores, strict=True) if s is None]
    warnings = [f"{name} was not scored: it reads token ids, and no tokenizer was given." for name in unscored]
    warnings += [
        f"{reward.name} is costly and was tried on {min(reward.check_rows, len(tried))} rows only."
        for reward in rewards
        if reward.check_rows is not None and reward.check_rows < len(gold_indices or tried)
    ]
    if not any(reward.kind == "verifier" for reward in rewards):
        warnings.append("no verifier is among the rewards: nothing known to the check says what a right answer is.")
    failures = [
        f"{reward.name} is a verifier with the weight {weight:g}: right answers must add to the sum."
        for reward, weight in zip(rewards, weights, strict=True)
        if reward.kind == "verifier" and reward.judged and weight <= 0
    ]
    for outcome in judged:
        failures += outcome.failures
        warnings += outcome.warnings
    return RewardCheck(table, failures, warnings, template)


def _score_cases(
    reward: Reward,
    cases: Sequence[Case],
    rows: Sequence[Row],
    ids: Sequence[Sequence[int]] | None,
    tried: Sequence[int],
) -> Scores | None:
    """Scores of the cases; of a costly reward, None for those beyond its rows."""
    chosen = sorted(p for positions in _within(cases, tried, [reward]).values() for p in positions)
    texts, case_rows = [cases[p].text for p in chosen], [rows[cases[p].row] for p in chosen]
    found = score_completions(reward, texts, case_rows, [ids[p] for p in chosen] if ids is not None else None)
    if found is None:
        return None
    by_position = dict(zip(chosen, found, strict=True))
    return [by_position.get(position) for position in range(len(cases))]


def _within(cases: Sequence[Case], tried: Sequence[int], rewards: Sequence[Reward]) -> dict[str, list[int]]:
    """By their name the cases of those rows that all of `rewards` are tried on, without the attacks made for other rewards."""
    limits = [reward.check_rows for reward in rewards if reward.check_rows is not None]
    rows = set(tried[: min(limits)]) if limits else None
    owners = {None, *(reward.name for reward in rewards)}
    by_name: dict[str, list[int]] = {}
    for position, case in enumerate(cases):
        if case.owner in owners and (rows is None or case.row in rows):
            by_name.setdefault(case.name, []).append(position)
    return by_name


def _judge(
    reward: Reward, scores: Scores, cases: Sequence[Case], by_name: Mapping[str, list[int]], rows: Sequence[Row]
) -> _Judged:
    outcome = _Judged(reward.name, scores, judged=reward.judged)
    if reward.low is None or reward.high is None:
        return outcome
    for name, positions in by_name.items():
        if name == GOLD:
            wrong = [p for p in positions if (score := scores[p]) is None or abs(score - reward.high) > 1e-6]
            # A single gold may be too long for a length reward; that none reaches the top is a mistake.
            fails = reward.kind == "verifier" or len(wrong) == len(positions)
            outcome.complain(wrong, cases, len(positions), rows, f"{reward.high:g}", fails)
        elif positions and cases[positions[0]].owner and reward.kind != "verifier":
            wrong = [p for p in positions if (score := scores[p]) is not None and score > reward.high - 1e-6]
            outcome.complain(wrong, cases, len(positions), rows, f"less than {reward.high:g}")
        elif reward.kind == "verifier":
            wrong = [p for p in positions if (score := scores[p]) is not None and score > reward.low + 1e-6]
            if name != "prompt copied" or len(wrong) > COINCIDENCE_SHARE * len(positions):
                outcome.complain(wrong, cases, len(positions), rows, f"{reward.low:g}")
    return outcome


def _judge_sum(
    rewards: Sequence[Reward],
    weights: Sequence[float],
    scores: Sequence[Scores | None],
    cases: Sequence[Case],
    by_name: Mapping[str, list[int]],
    rows: Sequence[Row],
) -> _Judged:
    sums = weighted_sums(scores, weights)
    verified = any(reward.kind == "verifier" for reward in rewards)
    outcome = _Judged(SUM, sums, judged=all(reward.judged for reward in rewards))
    ranges = [(r.low, r.high, w) for r, w, s in zip(rewards, weights, scores, strict=True) if s is not None]
    reached = by_name.get(GOLD, [])
    if reached and all(low is not None and high is not None for low, high, _ in ranges):
        top = sum(max(w * low, w * high) for low, high, w in ranges if low is not None and high is not None)
        wrong = [p for p in reached if (value := sums[p]) is None or value < top - 1e-6]
        outcome.complain(wrong, cases, len(reached), rows, f"{top:g}", len(wrong) == len(reached))
        # A gold that is too long for a length reward has been reported; its attacks are not held against it.
        reached = sorted(set(reached) - set(wrong)) or reached
    gold_sums = {cases[p].row: sums[p] for p in reached}
    for name, positions in by_name.items() if verified else ():
        if name == GOLD:
            continue
        wrong = [p for p in positions if _at_least(sums[p], gold_sums.get(cases[p].row))]
        if name != "prompt copied" or len(wrong) > COINCIDENCE_SHARE * len(positions):
            outcome.complain(wrong, cases, len(positions), rows, "less than the gold of its row")
    return outcome


def _at_least(attack: float | None, gold: float | None) -> bool:
    return attack is not None and gold is not None and attack >= gold - 1e-6

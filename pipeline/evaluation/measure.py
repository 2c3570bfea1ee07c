"""One evaluation: what a model makes of its rows, and the figures that follow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from pipeline.evaluation.scorers import Scorer, find_scorer, is_verifier, same_answer
from pipeline.evaluation.self_checks import effects
from pipeline.evaluation.specification import LIKELIHOOD, Evaluation
from pipeline.rewards.answer import up_to_first_answer
from pipeline.statistics import counts, mean_interval, pass_at_k, ratio_interval, sampled_counts

# A base model goes on with the next question where a chat model would end its turn. Where all examples are answered in
# one line, so is the question.
BASE_STOPS = ("\nQuestion:", "\n\n")
ONE_LINE = ("\n",)

Row = dict[str, Any]


def answer_rows(
    evaluation: Evaluation,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    prompts: Sequence[str],
    *,
    chat: bool,
    examples: Sequence[Row],
    batch_size: int,
    seed: int = 0,
    tools: Sequence[Callable[..., Any]] = (),
) -> list[Row]:
    """Each row with what the model made of it: completions and whether they are right, or log-probabilities.

    With `tools`, what is judged is the turn after the last result; `turns` holds the whole episode.
    """
    if evaluation.scorer in LIKELIHOOD:
        return _likelihood_rows(evaluation, model, tokenizer, rows, prompts, chat=chat, batch_size=batch_size)
    from pipeline.evaluation.generation import generate

    samples = evaluation.samples
    settings: dict[str, Any] = {
        "max_new_tokens": evaluation.max_new_tokens,
        "batch_size": batch_size,
        "stop_strings": () if chat or evaluation.scorer == "ends_turn" else base_stops(examples),
        "n": samples,
        "temperature": evaluation.temperature if samples > 1 else 0.0,
        "top_p": evaluation.top_p,
        "banned_words": evaluation.banned_words or (),
        "seed": seed,
    }
    turns: list[Row] = []
    if tools:
        from pipeline.evaluation.tool_use import generate_with_tools

        episodes = generate_with_tools(
            model, tokenizer, list(prompts), tools, rounds=evaluation.tool_rounds, **settings
        )
        completions, turns = [one.answer for one in episodes], [{"turns": one.messages} for one in episodes]
    else:
        from pipeline.evaluation.thinking import generate_within

        write = generate if evaluation.think_budget is None else generate_within(evaluation.think_budget)
        settings |= {"certainty": True} if evaluation.certainty else {}
        completions = write(model, tokenizer, list(prompts), **settings)
    if evaluation.think == "on":  # what the prompt opened belongs to what was written
        completions = [replace(one, text=f"<think>\n{one.text}") for one in completions]
    if evaluation.first_answer and not chat:
        completions = [replace(one, text=up_to_first_answer(one.text)) for one in completions]
    scorer = find_scorer(evaluation.scorer)
    answered = []
    for number, row in enumerate(rows):
        outcomes = [
            {"completion": one.text, "ended": one.ended, "correct": _is_right(scorer, one, row)}
            | {"tokens": len(one.token_ids)}
            | ({} if one.certainty is None else {"certainty": one.certainty})
            | (turns[place] if turns else {})
            for place, one in enumerate(completions[number * samples : (number + 1) * samples], number * samples)
        ]
        answered.append(row | (outcomes[0] if samples == 1 else {"samples": outcomes}))
    return answered


def figures(evaluation: Evaluation, answered: Sequence[Row]) -> dict[str, Any]:
    """What `evaluation.json` says of the rows.

    One greedy answer a question, and multiple choice: counts with a Wilson interval. Several samples: `rate` is the mean
    share of right ones, that is pass@1, and `pass@k` and `majority@k` follow for k = 2, 4, 8 ... and the number drawn,
    with bootstrap intervals over questions. Bits per byte: `value` with such an interval. Of completions `mean_tokens`
    says how long they are, and, judged by a verifier, `pipeline.evaluation.self_checks.effects` what looking back did.
    """
    if evaluation.scorer == "bits_per_byte":
        return {"n": len(answered)} | ratio_interval(
            [row["bits"] for row in answered], [row["bytes"] for row in answered]
        )
    if evaluation.scorer == "choice":
        return counts([row["correct"] for row in answered])
    if evaluation.samples == 1:
        return counts([row["correct"] for row in answered]) | _of_texts(evaluation, answered)
    found = sampled_figures([[bool(one["correct"]) for one in row["samples"]] for row in answered])
    for k in _powers(evaluation.samples):
        if k > 2 or k == evaluation.samples:  # of two votes each is a majority
            votes = [majority_of(k, evaluation.scorer, row["samples"]) for row in answered]
            found[f"majority@{k}"] = mean_interval(votes)
    return found | _of_texts(evaluation, answered)


def sampled_figures(outcomes: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Of several answers to each question, right or wrong: their mean share, pass@k, and intervals over questions."""
    samples = len(outcomes[0])
    return sampled_counts(outcomes) | {
        f"pass@{k}": mean_interval([pass_at_k(samples, sum(one), k) for one in outcomes]) for k in _powers(samples)
    }


def _of_texts(evaluation: Evaluation, answered: Sequence[Row]) -> dict[str, Any]:
    """What the completions themselves show, right or wrong."""
    from pipeline.evaluation.generation import Completion

    per_row = [row.get("samples") or [row] for row in answered]
    found: dict[str, Any] = {
        "mean_tokens": mean_interval([fmean(one["tokens"] for one in samples) for samples in per_row])
    }
    if not is_verifier(evaluation.scorer):
        return found
    scorer = find_scorer(evaluation.scorer)
    every = [(row, one) for row, samples in zip(answered, per_row, strict=True) for one in samples]

    def verify(text: str, number: int) -> bool:
        return _is_right(scorer, Completion(text, [], ended=True), every[number][0])

    return found | effects([one["completion"] for _, one in every], [bool(one["correct"]) for _, one in every], verify)


def _likelihood_rows(
    evaluation: Evaluation,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    prompts: Sequence[str],
    *,
    chat: bool,
    batch_size: int,
) -> list[Row]:
    from pipeline.evaluation.likelihood import log_likelihoods

    gap = "" if chat else " "  # a page of questions goes on after "Answer:"
    options = [row["choices"] if evaluation.scorer == "choice" else [_gold(row)] for row in rows]
    pairs = [(prompt, gap + text) for prompt, texts in zip(prompts, options, strict=True) for text in texts]
    scores = iter(log_likelihoods(model, tokenizer, pairs, batch_size=batch_size))
    answered = []
    for row, texts in zip(rows, options, strict=True):
        sums = [next(scores) for _ in texts]
        if evaluation.scorer == "bits_per_byte":
            answered.append(row | {"bits": -sums[0] / math.log(2), "bytes": len((gap + texts[0]).encode())})
            continue
        per_byte = [total / len(text.encode()) for total, text in zip(sums, texts, strict=True)]
        chosen = texts[per_byte.index(max(per_byte))]
        answered.append(row | {"completion": chosen, "log_likelihoods": sums, "correct": chosen == _gold(row)})
    return answered


def _accepted(row: Row) -> list[str]:
    return row["answer"] if isinstance(row["answer"], list) else [row["answer"]]


def _gold(row: Row) -> str:
    return str(_accepted(row)[0])


def _is_right(scorer: Scorer, completion: Any, row: Row) -> bool:
    return any(scorer(completion, answer) for answer in _accepted(row))


def _majority(scorer: str, samples: Sequence[Row]) -> float:
    """Whether the most frequent answer is right; of answers that are equally frequent, the share of right ones.

    Self-consistency, Wang et al. 2022. A completion without an answer has no vote.
    """
    votes: Counter[Any] = Counter()
    right: dict[Any, bool] = {}
    for one in samples:
        key = same_answer(scorer, one["completion"])
        if key is not None:
            votes[key] += 1
            right[key] = right.get(key, False) or bool(one["correct"])
    if not votes:
        return 0.0
    most = max(votes.values())
    return fmean(right[key] for key, count in votes.items() if count == most)


def majority_of(k: int, scorer: str, samples: Sequence[Row]) -> float:
    """Mean over the groups of k that the samples hold, none of them in two, of whether the most frequent answer is right."""
    groups = [samples[start : start + k] for start in range(0, len(samples) - k + 1, k)]
    return fmean(_majority(scorer, group) for group in groups)


def _powers(samples: int) -> list[int]:
    return [k for k in (2**i for i in range(samples.bit_length())) if k < samples] + [samples]


def base_stops(examples: Sequence[Row]) -> tuple[str, ...]:
    """What ends an answer of a base model that was shown these examples."""
    one_line = bool(examples) and not any("\n" in str(example["answer"]) for example in examples)
    return ONE_LINE if one_line else BASE_STOPS

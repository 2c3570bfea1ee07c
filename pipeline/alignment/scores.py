"""What was learnt of preferences, by a reward model or by a policy: held-out accuracy, how sure and how right, length bias."""

from __future__ import annotations

import hashlib
import json
import math
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.alignment.judge import find_judge, judged
from pipeline.errors import PipelineError
from pipeline.evaluation import evaluate
from pipeline.evaluation.generation import context_length
from pipeline.evaluation.likelihood import log_likelihoods
from pipeline.evaluation.loading import load_checkpoint
from pipeline.statistics import correlation_interval, counts
from pipeline.training.reward_model import RewardModel

HELDOUT = "preference_heldout"
AGREEMENT = "judge_agreement"
LENGTH_BIAS = "length_bias"
DETAILS = "preference_scores.json"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 5


def measure(directory: Path, pairs: Any, *, label_noise: float, judge: str | None) -> None:
    """Score held-out pairs with the reward model in `directory`; results go into its `evaluation.json`.

    `preference_heldout`: share of pairs whose chosen answer scores higher, against the `ceiling` 1 - `label_noise` that a
    perfect model reaches where so many labels were turned round. `judge_agreement`: share in which it prefers what the
    judge prefers, pairs to which the judge is indifferent left out. `length_bias`: correlation of score and length in
    tokens. Score distributions, accuracy by length and calibration are in `evaluation/preference_scores.json`.
    """
    rows = pairs.to_list()
    provenance = _provenance(directory, rows, {"label_noise": label_noise, "judge": judge})
    if evaluate.is_kept(directory, HELDOUT, provenance):
        return
    model = RewardModel(directory)
    prompts = [row["prompt"] for row in rows]
    chosen, rejected = (np.array(model(prompts, [row[key] for row in rows])) for key in ("chosen", "rejected"))
    if judge is not None:
        scorer = find_judge(judge)
        gold = [np.array(judged(scorer, prompts, [row[key] for row in rows])) for key in ("chosen", "rejected")]
        decided = gold[0] != gold[1]
        agrees = (chosen > rejected) == (gold[0] > gold[1])
        judged_rows = [row | {"judge": [float(a), float(b)]} for row, a, b in zip(rows, *gold, strict=True)]
        evaluate.keep(directory, AGREEMENT, judged_rows, counts(agrees[decided].tolist()), provenance)
    _keep(directory, rows, chosen, rejected, model.tokenizer, provenance)


def measure_policy(directory: Path, pairs: Any, *, reference: str, beta: float, label_noise: float) -> None:
    """The same of the policy in `directory`, whose scores are DPO's implicit rewards (Rafailov et al. 2023, section 5).

    An answer's score is `beta` (log p(answer) - log p_reference(answer)). Pairs longer than the context are left out, and
    counted.
    """
    rows = pairs.to_list()
    settings = {"label_noise": label_noise, "reference": reference, "beta": beta}
    provenance = _provenance(directory, rows, settings)
    if evaluate.is_kept(directory, HELDOUT, provenance):
        return
    policy = load_checkpoint(directory)
    tokenizer, room = policy.tokenizer, context_length(policy.model) or math.inf
    texts = [[_rendered(tokenizer, row, key) for key in ("chosen", "rejected")] for row in rows]
    fit = [max(len(ids) for ids in tokenizer([p + a for p, a in pair])["input_ids"]) <= room for pair in texts]
    if not all(fit):
        print(f"{directory}: {fit.count(False)} of {len(rows)} held-out pairs exceed the context: left out", flush=True)
    asked = [text for pair in compress(texts, fit) for text in pair]
    likely = [
        np.array(log_likelihoods(model, tokenizer, asked, batch_size=4))
        for model in (policy.model, load_checkpoint(reference).model)
    ]
    scores = beta * (likely[0] - likely[1]).reshape(-1, 2)
    _keep(directory, list(compress(rows, fit)), scores[:, 0], scores[:, 1], tokenizer, provenance)


def _provenance(directory: Path, rows: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    return {"model": evaluate.model_fingerprint(directory), "data": digest, "specification": settings}


def _rendered(tokenizer: Any, row: dict[str, Any], key: str) -> tuple[str, str]:
    """Prompt and answer as text, the answer with its end."""
    if isinstance(row["prompt"], str):
        return row["prompt"], row[key] + tokenizer.eos_token
    prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*row["prompt"], *row[key]], tokenize=False)
    return prompt, whole.removeprefix(prompt)


def _keep(
    directory: Path, rows: list[dict[str, Any]], chosen: Any, rejected: Any, tokenizer: Any, provenance: dict[str, Any]
) -> None:
    """Accuracy, length bias and the details of pairs so scored, into `evaluation.json` and the folder beside it."""
    right = chosen > rejected
    scored = zip(rows, chosen.tolist(), rejected.tolist(), right.tolist(), strict=True)
    kept = [{**row, "chosen_score": a, "rejected_score": b, "correct": c} for row, a, b, c in scored]
    result, label_noise = counts(right.tolist()), provenance["specification"]["label_noise"]
    if label_noise:
        result["ceiling"] = 1.0 - label_noise
    evaluate.keep(directory, HELDOUT, kept, result, provenance)
    lengths = [_lengths(tokenizer, rows, key) for key in ("chosen", "rejected")]
    scores, tokens = np.concatenate((chosen, rejected)), np.concatenate(lengths)
    bias = correlation_interval(scores.tolist(), tokens.tolist())
    evaluate.keep(directory, LENGTH_BIAS, [], bias, provenance)
    by_length = _by_length(right, *lengths)
    details = {
        "scores": {"chosen": _distribution(chosen), "rejected": _distribution(rejected)},
        "length_bias": bias | by_length,
        "calibration": calibration(chosen - rejected),
    }
    path = directory / evaluate.ANSWERS / DETAILS
    evaluate.write_atomically(path, evaluate.dump(details))
    text = f"{directory}\n{evaluate.format_results(evaluate.read_results(directory))}\n"
    text += f"  score and length correlate with {bias['value']:+.2f} [{bias['low']:+.2f}, {bias['high']:+.2f}]"
    text += f"; whoever takes the longer answer is right in {by_length['chosen_is_longer']:.1%}"
    print(text + (f"; ceiling {result['ceiling']:.1%}" if label_noise else ""), flush=True)


def calibration(margins: np.ndarray) -> dict[str, Any]:
    """How often the Bradley-Terry model is right where it is so and so sure.

    Args:
        margins: score of the chosen minus score of the rejected answer, shape (pairs,). Its model of the chance that the
            higher scored answer is the chosen one is sigmoid(|margin|).

    Returns:
        `error`, the expected calibration error (Guo et al. 2017) over bins of equal width of 0.5 to 1, and the bins.
    """
    sure, right = 1 / (1 + np.exp(-np.abs(margins))), margins > 0
    index = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins = [
        {"n": int(here.sum()), "expected": float(sure[here].mean()), "right": float(right[here].mean())}
        for here in (index == i for i in range(BINS))
        if here.any()
    ]
    error = sum(one["n"] * abs(one["expected"] - one["right"]) for one in bins) / max(len(margins), 1)
    return {"error": error, "bins": bins}


def check_reload(folder: Path, pairs: Any, expected: list[float]) -> None:
    """Raise `PipelineError` where the saved model, with the saved tokenizer, scores raw pairs otherwise than `expected`.

    Args:
        folder: where model and tokenizer were saved.
        pairs: rows of prompt and chosen.
        expected: scores that the model in memory gave for the same chosen answers, as its trainer had tokenised them.
    """
    found = RewardModel(folder)(pairs["prompt"], pairs["chosen"])
    worst = max((abs(a - b) for a, b in zip(found, expected, strict=True)), default=0.0)
    if not worst <= 1e-3 * max(1.0, max(map(abs, expected), default=0.0)):
        raise PipelineError(
            f"{folder}: the saved reward model scores held-out answers otherwise than the trained one did (largest "
            f"difference {worst:.3g}): head, padding token or chat template did not survive the hand-over."
        )


def _lengths(tokenizer: Any, rows: list[dict[str, Any]], key: str) -> np.ndarray:
    texts = [row[key] if isinstance(row[key], str) else row[key][-1]["content"] for row in rows]
    return np.array([len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]], dtype=float)


def _distribution(scores: np.ndarray) -> dict[str, Any]:
    quantiles = dict(zip(map(str, QUANTILES), np.quantile(scores, QUANTILES).tolist(), strict=True))
    return {"mean": float(scores.mean()), "std": float(scores.std()), "quantiles": quantiles}


def _by_length(right: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> dict[str, float | None]:
    """Accuracy where the chosen answer is the longer one and where it is the shorter, and how often it is the longer.

    A tie of lengths counts as half: what a guess would be worth.
    """
    longer, shorter = chosen > rejected, chosen < rejected

    def share(values: np.ndarray) -> float | None:
        return float(values.mean()) if len(values) else None

    return {
        "right_where_chosen_is_longer": share(right[longer]),
        "right_where_chosen_is_shorter": share(right[shorter]),
        "chosen_is_longer": share(longer + 0.5 * (chosen == rejected)),
    }

"""Intervals and tests: a rate without its interval is not a measurement."""

import bisect
import math
import random
from collections.abc import Callable, Sequence
from statistics import NormalDist, correlation, fmean, linear_regression
from typing import Any


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a binomial share (E. B. Wilson, JASA 22, 1927).

    Unlike the textbook interval p ± z·√(p(1-p)/n), it neither leaves [0, 1] nor shrinks to nothing at 0 of n or n of n.

    Args:
        correct: Successes, 0 ≤ correct ≤ n.
        n: Trials. Without any the interval is (0, 1): nothing is known.
        confidence: Coverage, between 0 and 1.

    Returns:
        Lower and upper bound of the share.

    Raises:
        ValueError: `correct` or `confidence` is out of range.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct must lie between 0 and n: correct={correct}, n={n}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, found {confidence}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / n
    denominator = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / denominator
    half = z / denominator * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the edges the bound is exactly 0 or 1 on paper; rounding would leave 1e-17 or 0.9999999999999999.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high


def counts(correct: Sequence[bool]) -> dict[str, Any]:
    """{"n", "correct", "rate", "low", "high"} of right answers, with the 95 % Wilson interval."""
    right, n = sum(correct), len(correct)
    low, high = wilson_interval(right, n)
    return {"n": n, "correct": right, "rate": right / n, "low": low, "high": high}


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95, *, draws: int = 2_000) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron 1979), over what was drawn independently: questions, not samples.

    The draws have a fixed seed: the same values give the same interval.

    Args:
        values: One number a question, such as its share of right samples.
        confidence: Coverage, between 0 and 1.
        draws: Resamples.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("no values to draw from")
    choose = random.Random(0)
    means = sorted(fmean(choose.choices(values, k=len(values))) for _ in range(draws))
    edge = (1 - confidence) / 2
    return means[round(edge * (draws - 1))], means[round((1 - edge) * (draws - 1))]


def mean_interval(values: Sequence[float]) -> dict[str, float]:
    """{"value", "low", "high"} of a mean over questions, bootstrapped over them."""
    low, high = bootstrap_interval(values)
    return {"value": fmean(values), "low": low, "high": high}


def ratio_interval(parts: Sequence[float], wholes: Sequence[float]) -> dict[str, float]:
    """{"value", "low", "high"} of one sum over another, such as all bits over all bytes, one of each a question;
    bootstrapped over questions by linearisation of the ratio."""
    value, size = sum(parts) / sum(wholes), sum(wholes) / len(wholes)
    low, high = bootstrap_interval([(part - value * whole) / size for part, whole in zip(parts, wholes, strict=True)])
    return {"value": value, "low": value + low, "high": value + high}


def over_seeds(
    scores: Sequence[Sequence[float]], *, same_items: bool = False, confidence: float = 0.95, draws: int = 2_000
) -> dict[str, Any]:
    """The mean over seeds of a run, with a bootstrap interval over seeds and items: {"value", "low", "high", "seeds"}.

    A hierarchical bootstrap (Davison and Hinkley 1997, section 3.8): seeds are drawn with replacement, then items within
    each; where all seeds were asked the same items, these are drawn once for all of them, since a hard question is hard for
    every seed (pigeonhole bootstrap, Owen 2007). Of S seeds the spread between them is widened by the root of S / (S - 1),
    by which resampling S numbers falls short. Two items are added, one at either end of the scale, so that questions which
    every seed answers rightly leave an interval of some width. What chance in the items adds to the spread between seeds is
    counted twice in this way: the interval is rather too wide. The draws have a fixed seed.

    Args:
        scores: One list a seed, one number from 0 to 1 an item, such as whether the answer was right.
        same_items: Whether item i is the same question for all seeds.

    Raises:
        ValueError: No seeds or no items, or seeds of `same_items` with different numbers of them.
    """
    if not scores or not all(scores):
        raise ValueError("no seeds or no items to draw from")
    if same_items and len({len(one) for one in scores}) > 1:
        raise ValueError(f"the same items have to be as many: found {[len(one) for one in scores]}")
    import numpy as np

    chance, count = np.random.default_rng(0), len(scores)
    means = np.array([fmean(one) for one in scores])
    value = float(means.mean())
    drawn = chance.integers(count, size=(draws, count))  # seeds
    moved = (means[drawn].mean(1) - value) * (math.sqrt(count / (count - 1)) if count > 1 else 1.0)
    within = np.zeros((draws, count))  # what drawing items anew does to the mean of the seed in each place
    items = chance.integers(len(scores[0]) + 2, size=(draws, len(scores[0]) + 2)) if same_items else None
    for seed, one in enumerate(scores):
        pool = np.array([*one, 0.0, 1.0], dtype=float)
        places = drawn == seed
        if items is not None:
            means_drawn = np.broadcast_to(pool[items].mean(1)[:, None], places.shape)[places]
        elif set(one) <= {0.0, 1.0}:
            means_drawn = chance.binomial(len(pool), pool.mean(), size=int(places.sum())) / len(pool)
        else:
            means_drawn = pool[chance.integers(len(pool), size=(int(places.sum()), len(pool)))].mean(1)
        within[places] = means_drawn - pool.mean()
    found = value + moved + within.mean(1)
    edge = (1 - confidence) / 2
    low, high = (float(one) for one in np.quantile(found, (edge, 1 - edge)))
    return {"value": value, "low": max(0.0, min(low, value)), "high": min(1.0, max(high, value)), "seeds": count}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples is right (Chen et al. 2021, arXiv:2107.03374).

    Args:
        n: Samples drawn of one question.
        correct: How many of them are right.
        k: 1 ≤ k ≤ n.

    Raises:
        ValueError: `k` or `correct` is out of range.
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"expected 0 ≤ correct ≤ n and 1 ≤ k ≤ n: n={n}, correct={correct}, k={k}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def mcnemar_test(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact p-value that two models are right equally often on the same questions (McNemar 1947).

    Only questions on which they differ say anything; under the hypothesis each falls to either side like a coin.

    Raises:
        ValueError: The lists differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"the same questions in the same order are needed: {len(first)} and {len(second)} answers")
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    differing = gained + lost
    tail = sum(math.comb(differing, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**differing)


def correlation_interval(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> dict[str, float]:
    """Pearson's correlation with Fisher's interval (R. A. Fisher 1915): {"value", "low", "high"}.

    Of fewer than four points, or of points without spread, nothing is known: 0 in (-1, 1).
    """
    if len(x) < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return {"value": 0.0, "low": -1.0, "high": 1.0}
    found = min(max(correlation([float(a) for a in x], [float(b) for b in y]), -1 + 1e-12), 1 - 1e-12)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) / math.sqrt(len(x) - 3)
    return {"value": found, "low": math.tanh(math.atanh(found) - half), "high": math.tanh(math.atanh(found) + half)}


def paired_difference(before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95) -> dict[str, float]:
    """How much the share of successes changed on the same trials: {"value", "low", "high"} of after - before.

    Half a success is added to each of the four cells (Agresti and Min, Statistics in Medicine 24, 2005), so that the
    interval keeps its width where nothing changed.
    """
    gained = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    n = len(before)
    if n == 0:
        return {"value": 0.0, "low": -1.0, "high": 1.0}
    up, down, total = gained + 0.5, lost + 0.5, n + 2
    spread = math.sqrt(max(up + down - (up - down) ** 2 / total, 0.0)) / total
    half, centre = NormalDist().inv_cdf(0.5 + confidence / 2) * spread, (up - down) / total
    return {"value": (gained - lost) / n, "low": max(-1.0, centre - half), "high": min(1.0, centre + half)}


def slope_interval(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> dict[str, float]:
    """Least-squares slope of y over x, with a percentile bootstrap over pairs: {"value", "low", "high"}.

    Raises:
        ValueError: `x` has no spread.
    """

    def slope(chosen: Sequence[int]) -> float:
        return linear_regression([x[i] for i in chosen], [float(y[i]) for i in chosen]).slope

    return _resampled(slope, [range(len(x))], confidence)


def auroc_interval(
    positives: Sequence[float], negatives: Sequence[float], confidence: float = 0.95
) -> dict[str, float]:
    """How often a score is higher for a positive than for a negative case, ties half: {"value", "low", "high"}.

    The area under the ROC curve (Hanley and McNeil 1982), bootstrapped over both kinds of cases.

    Raises:
        ValueError: one of the two is empty.
    """
    if not positives or not negatives:
        raise ValueError(f"AUROC needs both kinds of cases: {len(positives)} positive, {len(negatives)} negative")

    def area(chosen: Sequence[int], others: Sequence[int]) -> float:
        below = sorted(negatives[i] for i in others)
        wins = sum(bisect.bisect_left(below, positives[i]) + bisect.bisect_right(below, positives[i]) for i in chosen)
        return wins / (2 * len(chosen) * len(below))

    return _resampled(area, [range(len(positives)), range(len(negatives))], confidence)


def _resampled(
    statistic: Callable[..., float], cases: Sequence[range], confidence: float, draws: int = 500
) -> dict[str, float]:
    """A statistic of indices of cases, with its percentile interval over resamples of each kind of them."""
    choose = random.Random(0)
    found = sorted(statistic(*(choose.choices(one, k=len(one)) for one in cases)) for _ in range(draws))
    edge = (1 - confidence) / 2
    return {
        "value": statistic(*cases),
        "low": found[round(edge * (draws - 1))],
        "high": found[round((1 - edge) * (draws - 1))],
    }

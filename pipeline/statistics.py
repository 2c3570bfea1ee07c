"""Intervals and tests: a rate without its interval is not a measurement."""

import bisect
import math
import random
from collections.abc import Callable, Sequence
from statistics import NormalDist, correlation, fmean, linear_regression
from typing import Any

CONFIDENCE = 0.95
"""Of every interval here."""
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Wilson score interval of a binomial share (E. B. Wilson, JASA 22, 1927).

    Unlike the textbook interval p ± z·√(p(1-p)/n), it neither leaves [0, 1] nor shrinks to nothing at 0 of n or n of n.

    Args:
        correct: Successes, 0 ≤ correct ≤ n.
        n: Trials. Without any the interval is (0, 1): nothing is known.

    Returns:
        Lower and upper bound of the share.

    Raises:
        ValueError: `correct` is out of range.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct must lie between 0 and n: correct={correct}, n={n}")
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    denominator = 1 + _Z * _Z / n
    centre = (share + _Z * _Z / (2 * n)) / denominator
    half = _Z / denominator * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    # At the edges the bound is exactly 0 or 1 on paper; rounding would leave 1e-17 or 0.9999999999999999.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high


def counts(correct: Sequence[bool]) -> dict[str, Any]:
    """{"n", "correct", "rate", "low", "high"} of right answers, with the 95 % Wilson interval."""
    right, n = sum(correct), len(correct)
    low, high = wilson_interval(right, n)
    return {"n": n, "correct": right, "rate": right / n, "low": low, "high": high}


def mean_interval(values: Sequence[float]) -> dict[str, float]:
    """{"value", "low", "high"} of a mean, by a percentile bootstrap (Efron 1979) over what was drawn independently: questions,
    not samples.

    Args:
        values: One number a question, such as its share of right samples.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("no values to draw from")
    return _resampled(fmean, [values], draws=2_000)


def sampled_counts(outcomes: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """{"n", "samples", "correct", "rate", "low", "high"} of several answers to each question, bootstrapped over questions."""
    found = mean_interval([fmean(one) for one in outcomes])
    right, samples = sum(map(sum, outcomes)), len(outcomes[0])
    return {"n": len(outcomes), "samples": samples, "correct": right, "rate": found.pop("value"), **found}


def ratio_interval(parts: Sequence[float], wholes: Sequence[float]) -> dict[str, float]:
    """{"value", "low", "high"} of one sum over another, such as all bits over all bytes, one of each a question;
    bootstrapped over questions by linearisation of the ratio."""
    value, size = sum(parts) / sum(wholes), sum(wholes) / len(wholes)
    errors = mean_interval([(part - value * whole) / size for part, whole in zip(parts, wholes, strict=True)])
    return {"value": value, "low": value + errors["low"], "high": value + errors["high"]}


def over_seeds(scores: Sequence[Sequence[float]], *, same_items: bool = False) -> dict[str, Any]:
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

    def items_drawn(chance: np.random.Generator, drawn: np.ndarray) -> np.ndarray:
        within = np.zeros(drawn.shape)
        size = len(scores[0]) + 2
        items = chance.integers(size, size=(len(drawn), size)) if same_items else None
        for seed, one in enumerate(scores):
            pool = np.array([*one, 0.0, 1.0], dtype=float)
            places = drawn == seed
            if items is not None:
                means = np.broadcast_to(pool[items].mean(1)[:, None], places.shape)[places]
            elif set(one) <= {0.0, 1.0}:
                means = chance.binomial(len(pool), pool.mean(), size=int(places.sum())) / len(pool)
            else:
                means = pool[chance.integers(len(pool), size=(int(places.sum()), len(pool)))].mean(1)
            within[places] = means - pool.mean()
        return within

    found = _over_seeds([fmean(one) for one in scores], items_drawn)
    value = found["value"]
    return found | {"low": max(0.0, min(found["low"], value)), "high": min(1.0, max(found["high"], value))}


def normal_over_seeds(values: Sequence[float], errors: Sequence[float]) -> dict[str, Any]:
    """As `over_seeds`, of one value a seed and its standard error, where the items are not known."""
    import numpy as np

    def errors_drawn(chance: np.random.Generator, drawn: np.ndarray) -> np.ndarray:
        return (chance.normal(size=drawn.shape) * np.array(errors))[np.arange(len(drawn))[:, None], drawn]

    return _over_seeds(values, errors_drawn)


def _over_seeds(values: Sequence[float], within: Callable[..., Any]) -> dict[str, Any]:
    """Seeds drawn anew, and `within` what drawing anew within each does to the value of the seed in each place."""
    import numpy as np

    chance, count, means = np.random.default_rng(0), len(values), np.array(values)
    value = float(means.mean())
    drawn = chance.integers(count, size=(2_000, count))
    moved = (means[drawn].mean(1) - value) * (math.sqrt(count / (count - 1)) if count > 1 else 1.0)
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(value + moved + within(chance, drawn).mean(1), (edge, 1 - edge)).tolist()
    return {"value": value, "low": low, "high": high, "seeds": count}


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


def correlation_interval(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Pearson's correlation with Fisher's interval (R. A. Fisher 1915): {"value", "low", "high"}.

    Of fewer than four points, or of points without spread, nothing is known: 0 in (-1, 1).
    """
    if len(x) < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return {"value": 0.0, "low": -1.0, "high": 1.0}
    found = min(max(correlation([float(a) for a in x], [float(b) for b in y]), -1 + 1e-12), 1 - 1e-12)
    half = _Z / math.sqrt(len(x) - 3)
    return {"value": found, "low": math.tanh(math.atanh(found) - half), "high": math.tanh(math.atanh(found) + half)}


def paired_difference(before: Sequence[bool], after: Sequence[bool]) -> dict[str, float]:
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
    half, centre = _Z * spread, (up - down) / total
    return {"value": (gained - lost) / n, "low": max(-1.0, centre - half), "high": min(1.0, centre + half)}


def slope_interval(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Least-squares slope of y over x, with a percentile bootstrap over pairs: {"value", "low", "high"}.

    Raises:
        ValueError: `x` has no spread.
    """

    def slope(chosen: Sequence[int]) -> float:
        return linear_regression([x[i] for i in chosen], [float(y[i]) for i in chosen]).slope

    return _resampled(slope, [range(len(x))])


def auroc_interval(positives: Sequence[float], negatives: Sequence[float]) -> dict[str, float]:
    """How often a score is higher for a positive than for a negative case, ties half: {"value", "low", "high"}.

    The area under the ROC curve (Hanley and McNeil 1982), bootstrapped over both kinds of cases.

    Raises:
        ValueError: one of the two is empty.
    """
    if not positives or not negatives:
        raise ValueError(f"AUROC needs both kinds of cases: {len(positives)} positive, {len(negatives)} negative")

    def area(chosen: Sequence[float], others: Sequence[float]) -> float:
        below = sorted(others)
        wins = sum(bisect.bisect_left(below, one) + bisect.bisect_right(below, one) for one in chosen)
        return wins / (2 * len(chosen) * len(below))

    return _resampled(area, [positives, negatives])


def _resampled(statistic: Callable[..., float], cases: Sequence[Sequence[Any]], draws: int = 500) -> dict[str, float]:
    """A statistic of cases, with its percentile interval over resamples of each kind of them.

    The draws have a fixed seed: the same cases give the same interval.
    """
    choose = random.Random(0)
    found = sorted(statistic(*(choose.choices(one, k=len(one)) for one in cases)) for _ in range(draws))
    edge = (1 - CONFIDENCE) / 2
    return {
        "value": statistic(*cases),
        "low": found[round(edge * (draws - 1))],
        "high": found[round((1 - edge) * (draws - 1))],
    }

"""Intervals for shares: a rate without its interval is not a measurement."""

import math
from collections.abc import Sequence
from statistics import NormalDist, correlation


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

"""Intervals for shares: a rate without its interval is not a measurement."""

import math
from statistics import NormalDist


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

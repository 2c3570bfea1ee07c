"""Intervals of shares."""

import pytest

from pipeline.statistics import wilson_interval


def test_wilson_interval_has_the_published_values():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    for correct, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_holds_the_share_and_stays_between_zero_and_one():
    for n in (1, 2, 7, 200):
        for correct in range(n + 1):
            low, high = wilson_interval(correct, n)
            assert 0.0 <= low <= correct / n <= high <= 1.0
            assert wilson_interval(n - correct, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_interval_narrows_with_more_trials_and_widens_with_confidence():
    def width(interval):
        return interval[1] - interval[0]

    assert width(wilson_interval(50, 100)) > width(wilson_interval(500, 1000))
    assert width(wilson_interval(50, 100, 0.99)) > width(wilson_interval(50, 100))


def test_without_trials_nothing_is_known():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("correct", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_impossible_counts_are_refused(correct, n, confidence):
    with pytest.raises(ValueError, match="must lie between"):
        wilson_interval(correct, n, confidence)

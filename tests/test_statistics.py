"""Intervals and tests."""

from itertools import combinations

import pytest

from pipeline.statistics import (
    auroc_interval,
    mcnemar_test,
    mean_interval,
    over_seeds,
    pass_at_k,
    slope_interval,
    wilson_interval,
)


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


def test_wilson_interval_narrows_with_more_trials():
    def width(interval):
        return interval[1] - interval[0]

    assert width(wilson_interval(50, 100)) > width(wilson_interval(500, 1000))


def test_without_trials_nothing_is_known():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("correct", [3, -1])
def test_impossible_counts_are_refused(correct):
    with pytest.raises(ValueError, match="must lie between"):
        wilson_interval(correct, 2)


def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_sample():
    for n, correct, k in [(5, 2, 1), (5, 2, 3), (6, 1, 4), (4, 0, 2), (4, 4, 2)]:
        draws = list(combinations(range(n), k))
        held = sum(any(sample < correct for sample in draw) for draw in draws)
        assert pass_at_k(n, correct, k) == pytest.approx(held / len(draws))
    with pytest.raises(ValueError, match="n=4, correct=5, k=2"):
        pass_at_k(4, 5, 2)


def test_bootstrap_interval_of_shares_agrees_with_wilson_and_repeats_itself():
    values = [1.0] * 60 + [0.0] * 140
    found = mean_interval(values)
    assert found == mean_interval(values)
    assert (found["low"], found["high"]) == pytest.approx(wilson_interval(60, 200), abs=0.01)
    assert mean_interval([0.25, 0.25]) == {"value": 0.25, "low": 0.25, "high": 0.25}
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_mcnemar_is_the_exact_binomial_test_of_the_questions_that_differ():
    first = [True] * 10 + [True] * 1 + [False] * 9
    second = [True] * 10 + [False] * 1 + [True] * 9
    assert mcnemar_test(first, second) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar_test(first, first) == 1.0
    with pytest.raises(ValueError, match="same questions"):
        mcnemar_test([True], [])


def test_slope_is_least_squares_and_its_interval_holds_it():
    x = [1, 2, 3, 4] * 25
    found = slope_interval(x, [1.0 - 0.2 * one for one in x])
    assert found == {"value": pytest.approx(-0.2), "low": pytest.approx(-0.2), "high": pytest.approx(-0.2)}
    noisy = slope_interval(x, [float(i % 3 == 0) for i in range(100)])
    assert noisy["low"] < 0 < noisy["high"]


def test_auroc_counts_ties_half_and_knows_its_ends():
    assert auroc_interval([3.0, 4.0], [1.0, 2.0])["value"] == 1.0
    assert auroc_interval([1.0, 2.0], [1.0, 2.0])["value"] == 0.5
    assert auroc_interval([1.0, 3.0], [2.0, 3.0])["value"] == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    with pytest.raises(ValueError, match="both kinds"):
        auroc_interval([], [1.0])


def test_seeds_that_differ_widen_the_interval_more_than_questions_do():
    alike = over_seeds([[1.0] * 150 + [0.0] * 150] * 5)
    apart = over_seeds([[1.0] * right + [0.0] * (300 - right) for right in (90, 120, 150, 180, 210)])
    assert alike["value"] == apart["value"] == 0.5 and apart["seeds"] == 5
    # Five seeds of 300 questions each are as good as 1,500 questions while the seeds agree ...
    assert alike["high"] - alike["low"] == pytest.approx(2 * 1.96 * (0.25 / 1500) ** 0.5, rel=0.1)
    # ... and no better than five numbers with a standard deviation of 0.158 where they do not.
    assert apart["high"] - apart["low"] == pytest.approx(2 * 1.96 * 0.158 / 5**0.5, rel=0.15)


def test_the_same_questions_asked_of_every_seed_are_drawn_once():
    seeds = [[1.0] * 150 + [0.0] * 150] * 5
    same, other = over_seeds(seeds, same_items=True), over_seeds(seeds)
    assert same["high"] - same["low"] == pytest.approx(5**0.5 * (other["high"] - other["low"]), rel=0.1)
    with pytest.raises(ValueError, match="as many"):
        over_seeds([[1.0], [1.0, 0.0]], same_items=True)
    with pytest.raises(ValueError, match="no seeds"):
        over_seeds([[1.0], []])


def test_seeds_without_a_mistake_leave_an_interval_of_some_width():
    found = over_seeds([[1.0] * 100] * 3)
    assert found["value"] == found["high"] == 1.0 and 0.97 < found["low"] < 0.995

"""How sure a score is. Reference values are those of scipy.stats."""

from __future__ import annotations

import math
import random

import pytest

from trainbus.judging.statistics import calibration_error, compare, mcnemar, wilson


@pytest.mark.parametrize(
    ("right", "judged", "low", "high"),
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (1, 5, 0.03622, 0.62447), (450, 1000, 0.41942, 0.48097)],
)
def test_the_interval_is_wilsons(right, judged, low, high):
    """As scipy.stats.binomtest(right, judged).proportion_ci(method="wilson") has it."""
    assert wilson(right, judged) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """95 % of 2,000 exams of 50 questions, give or take: a formula that is wrong by a factor would show."""
    chance = random.Random(1)
    covered = 0
    for _ in range(2000):
        low, high = wilson(sum(chance.random() < 0.3 for _ in range(50)), 50)
        covered += low <= 0.3 <= high
    assert 0.93 < covered / 2000 < 0.97


@pytest.mark.parametrize(
    ("better", "worse", "p_value"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (3, 1, 0.625), (30, 12, 0.00792)]
)
def test_the_comparison_is_mcnemars_exact_test(better, worse, p_value):
    """As scipy.stats.binomtest(better, better + worse).pvalue has it; the two sides are alike."""
    assert mcnemar(better, worse) == pytest.approx(p_value, abs=1e-5)
    assert mcnemar(worse, better) == mcnemar(better, worse)


def test_the_test_does_not_overflow_with_many_questions():
    """Thousands of changed answers are no reason to fail."""
    assert 0.0 <= mcnemar(2000, 1000) < 1e-60
    assert mcnemar(1500, 1500) == 1.0


def test_only_questions_that_both_have_are_compared():
    """A question that one of them was not asked says nothing."""
    before = {"a": True, "b": False, "c": True, "only before": True}
    after = {"a": True, "b": True, "c": False, "only after": False}
    told = compare(before, after)
    assert told is not None
    assert (told.judged, told.better, told.worse, told.before, told.after, told.noise) == (
        3,
        1,
        1,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
        True,
    )
    assert compare({"a": True}, {"b": True}) is None


def test_the_calibration_error_is_the_mean_gap_of_its_bins():
    """A-98: the gap between confidence and share of right answers, by ten bins, weighted by how many are in each."""
    pairs = [(0.95, True), (0.95, False), (0.15, False), (1.0, True)]
    # Bins: [0.9, 1.0] holds three with mean confidence 0.9667 and two right; [0.1, 0.2) holds one.
    assert calibration_error(pairs) == pytest.approx((abs(0.95 + 0.95 + 1.0 - 2) + 0.15) / 4)
    assert calibration_error([(0.5, True), (0.5, False)]) == 0.0
    assert math.isnan(calibration_error([]))

"""Preset `classic`: fixed thresholds, each with the criterion that it is known by."""

import math
import random

import msgspec
import pytest

from tests.plugins.anomaly.feeding import RULES, SECOND, configured, evals, only, raised, said, steps
from trainbus.bus.events import Gpu, Heartbeat, Memory, Process, Sample, System
from trainbus.plugins.anomaly.catalogue import ALL_RULES, RulesConfig
from trainbus.plugins.anomaly.detector import Detector

CLASSIC = configured(preset="classic")


def names(config, *feeds):
    return [rule for rule, _, _ in raised(config, *feeds)]


def test_a_01_a_loss_31_percent_above_the_mean_of_five_is_one_spike_and_29_percent_is_none():
    """The value under test is not in the baseline: 1.31 is enough, it need not be 1.405."""
    assert names(only("spike_over_mean"), steps([1.0] * 10 + [1.31])) == ["spike_over_mean"]
    assert names(only("spike_over_mean"), steps([1.0] * 10 + [1.29])) == []


def test_a_02_a_loss_of_50_after_noise_around_0_7_has_a_z_score_far_above_3():
    """The value is outside of its own baseline, so that z is not limited to the root of the window."""
    noise = random.Random(1)
    (alert,) = said(only("loss_z_score"), steps([noise.gauss(0.7, 0.01) for _ in range(10)] + [50.0]))
    assert alert.evidence["z"] > 100


def test_a_03_a_learning_rate_times_100_is_one_anomaly_and_a_schedule_is_none():
    """Warm-up and cosine change evenly."""
    assert names(only("lr_z_score"), steps([1e-4] * 20 + [1e-2] + [1e-2] * 5, metric="learning_rate")) == ["lr_z_score"]
    rates = [1e-3 * min(1, (n + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * n / 300)) for n in range(300)]
    assert names(only("lr_z_score"), steps(rates, metric="learning_rate")) == []


def test_a_04_a_z_score_on_any_metric_speaks_of_that_one_only():
    """By name."""
    feed = steps([1.0, 1.1] * 10 + [9.0], metric="entropy", loss=[1.0, 1.1] * 10 + [9.0])
    assert [alert.evidence["metric"] for alert in said(only("z_score", metrics=["entropy"]), feed)] == ["entropy"]


def test_a_05_an_accuracy_eleven_points_down_is_an_event_and_nine_are_none():
    """In percent or as a fraction."""
    for scale in (1, 100):
        assert names(only("accuracy_points"), evals([80 / scale] * 10 + [69 / scale], metric="accuracy")) == ["accuracy_points"]
        assert names(only("accuracy_points"), evals([80 / scale] * 10 + [71 / scale], metric="accuracy")) == []


def test_a_06_a_new_best_is_two_percent_better_and_neither_zero_nor_nan():
    """1.0, 0.99, 0.97: the first and the third."""
    assert [step for _, _, step in raised(only("new_best"), evals([1.0, 0.99, 0.97, 0.0, math.nan], first=1, every=1))] == [1, 3]


def test_a_08_a_loss_that_rises_in_four_of_five_steps_is_a_divergence_and_a_saw_tooth_is_none():
    """Over ten values."""
    assert names(only("rising_loss"), steps([1 + n / 10 for n in range(10)])) == ["rising_loss"]
    assert names(only("rising_loss"), steps([1.0, 1.2] * 10)) == []


def test_a_09_a_10_a_11_samples_are_judged_in_this_preset_too():
    """Loss and correctness of the same example."""
    sample = Sample(run="r", step=1, example="e", correct=True, loss=1.6)
    assert names(CLASSIC, [sample]) == ["correct_but_unsure"]
    assert names(CLASSIC, [Sample(run="r", step=1, example="e", correct=False, loss=0.2)]) == ["wrong_but_sure"]


def test_a_12_nan_is_critical_within_one_step():
    """In every preset."""
    assert raised(CLASSIC, steps([1.0, math.nan])) == [("non_finite", "critical", 2)]


def test_a_13_gradient_norms_of_101_and_1e_8():
    """Critical and a warning."""
    assert raised(only("grad_above"), steps([1.0, 101.0], metric="grad_norm")) == [("grad_above", "critical", 2)]
    assert raised(only("grad_below"), steps([1.0, 1e-8], metric="grad_norm")) == [("grad_below", "warning", 2)]


@pytest.mark.parametrize(("rule", "count"), [("flat_loss_50", 50), ("flat_loss_20", 20), ("flat_loss_strict", 20)])
def test_a_14_flat_values_are_one_plateau_and_decreasing_ones_none(rule, count):
    """Fifty below 1 %, twenty below 2 % (diagnostics: 0.1 %)."""
    assert names(only(rule), steps([1.0] * (count + 30))) == [rule]
    assert names(only(rule), steps([1.0] * (count - 1))) == []
    assert names(only(rule), steps([1.0 - 0.1 * n / count for n in range(count)])) == []


def test_a_16_learning_rates_out_of_reason():
    """Above 0.01 a warning, below 1e-6 after step 1,000 a note."""
    assert raised(CLASSIC, steps([0.02], metric="learning_rate")) == [("lr_high", "warning", 1)]
    assert raised(only("lr_low"), steps([1e-7], metric="learning_rate", first=1001)) == [("lr_low", "info", 1001)]
    assert raised(only("lr_low"), steps([1e-7], metric="learning_rate", first=1000)) == []


def test_a_17_half_the_throughput_is_one_event_after_the_average_has_crossed():
    """100 tokens a second thirty times, then 50."""
    found = raised(CLASSIC, steps([100.0] * 30 + [50.0] * 30, metric="tokens_per_second"))
    assert [rule for rule, _, _ in found] == ["throughput_loss"]
    assert found[0][2] > 40


def test_a_18_fifteen_samples_of_low_gpu_memory_are_advice_and_fourteen_are_none():
    """Below 60 %."""
    feed = [System(host="h", time=n, gpus=[Gpu(index=0, memory_total=100, memory_used=50)]) for n in range(1, 16)]
    assert names(only("vram_unused"), feed[:14]) == []
    assert raised(only("vram_unused"), feed) == [("vram_unused", "info", 0)]


@pytest.mark.parametrize(("gap", "severity"), [(0.2, None), (0.4, "warning"), (0.6, "critical")])
def test_a_19_the_gap_between_evaluation_and_train_loss(gap, severity):
    """0.3 and 0.5."""
    found = raised(only("validation_gap"), steps([1.0] * 20), evals([1.0 + gap], first=20))
    assert found == ([("validation_gap", severity, 20)] if severity else [])


def test_a_20_a_variance_above_a_quarter_of_the_squared_mean():
    """0.1 and 1.9 in turn; 0.8 and 1.2 are calm."""
    assert names(only("loss_variance"), steps([0.1, 1.9] * 25)) == ["loss_variance"]
    assert names(only("loss_variance"), steps([0.8, 1.2] * 25)) == []


def test_a_23_a_cooldown_silences_its_own_rule_only():
    """A best model does not mute a divergence; the same rule stays silent for 500 steps."""
    rising = [1 + n / 10 for n in range(10)]
    found = names(CLASSIC, evals([2.0], first=1), steps(rising, first=2))
    assert "new_best" in found
    assert "rising_loss" in found
    twice = steps(rising + [1.0] * 40 + rising)
    assert names(only("rising_loss"), twice) == ["rising_loss"]
    assert names(only("rising_loss", cooldown=0), twice) == ["rising_loss"] * 2


@pytest.mark.parametrize("values", [[1.0, 50.0], [1e-3, 9.0]])
def test_a_24_two_values_are_no_baseline(values):
    """No rule compares the second value with the first one alone."""
    assert names(CLASSIC, steps(values)) == []


def test_a_25_thresholds_are_configured_and_unknown_keys_refused():
    """With a threshold of 0.5 the 31 % are silent."""
    assert names(only("spike_over_mean", threshold=0.5), steps([1.0] * 10 + [1.31])) == []
    with pytest.raises(msgspec.ValidationError, match="treshold"):
        configured(rules={"spike_over_mean": {"treshold": 0.5}})


def test_diagnostics_gradients_spikes_and_divergence_by_the_factor_ten():
    """Gradient above 1,000, loss above ten times the mean or ten times the lowest."""
    assert names(only("grad_far_above"), steps([999.0, 1001.0], metric="grad_norm")) == ["grad_far_above"]
    assert names(only("spike_tenfold"), steps([1.0] * 10 + [10.1])) == ["spike_tenfold"]
    assert names(only("spike_tenfold"), steps([1.0] * 10 + [9.9])) == []
    assert names(only("loss_tenfold"), steps([1.0] * 10 + [10.1])) == ["loss_tenfold"]


def test_diagnostics_memory_at_80_and_90_percent_and_a_leak_of_ten_mib_a_step():
    """Of the host or a GPU."""
    system = System(host="h", time=1, memory=Memory(total=100, used=95, available=15))
    assert raised(CLASSIC, [system]) == [("memory_high", "warning", 0)]
    full = System(host="h", time=1, memory=Memory(total=100, used=95, available=5))
    assert raised(only("memory_full"), [full]) == [("memory_full", "critical", 0)]
    grows = [System(run="r", host="h", time=n, processes=[Process(pid=1, role="trainer", rss=n * 11 << 20)]) for n in range(12)]
    feed = [event for pair in zip(grows, steps([1.0] * 12), strict=True) for event in pair]
    assert names(only("memory_leak"), feed) == ["memory_leak"]
    slow = [System(run="r", host="h", time=n, processes=[Process(pid=1, role="trainer", rss=n * 9 << 20)]) for n in range(12)]
    assert names(only("memory_leak"), [event for pair in zip(slow, steps([1.0] * 12), strict=True) for event in pair]) == []


def test_diagnostics_signs_of_a_wrong_learning_rate():
    """The loss oscillates by more than half its mean, or its mean rises by a tenth."""
    assert names(only("loss_oscillation"), steps([0.1, 1.9] * 10)) == ["loss_oscillation"]
    assert names(only("loss_upward"), steps([1.0] * 10 + [1.15] * 10)) == ["loss_upward"]
    assert names(only("loss_upward"), steps([1.0] * 10 + [1.05] * 10)) == []


def test_diagnostics_data():
    """Inputs above 10,000 in size, all the same, or masked too little or too much."""
    assert names(only("data_large"), steps([10_001.0], metric="data/max")) == ["data_large"]
    assert names(only("data_large"), steps([-10_001.0], metric="data/min")) == ["data_large"]
    assert names(only("data_flat"), steps([1e-7], metric="data/variance")) == ["data_flat"]
    for ratio, expected in ((0.29, ["masked_ratio"]), (0.5, []), (0.86, ["masked_ratio"])):
        assert names(only("masked_ratio"), steps([ratio], metric="masked_ratio")) == expected


def test_diagnostics_a_minute_of_silence_is_a_hang():
    """59 seconds are none."""
    feed = steps([1.0] * 3)
    assert names(only("hang"), feed, [Heartbeat(run="r", time=62 * SECOND)]) == []
    assert names(only("hang"), feed, [Heartbeat(run="r", time=64 * SECOND)]) == ["hang"]


def test_a_limit_of_ones_own():
    """Any metric, above or below, so many times in a row."""
    config = only("limit", metrics=["toxicity"], above=0.5, persist=2)
    assert names(config, steps([0.6, 0.1, 0.6, 0.7], metric="toxicity")) == ["limit"]


def test_every_rule_has_a_table_of_its_own_name_and_one_class():
    """The catalogue and the tables are the same list."""
    assert [rule.name for rule in ALL_RULES] == list(RULES)
    assert {type(rule.config) for rule in RulesConfig().active("both")} <= {type(getattr(RulesConfig(), name)) for name in RULES}


def test_presets_switch_rules_and_a_table_overrules_them():
    """A rule without metrics stays off until it gets some."""
    default = {rule.name for rule in Detector(configured().active_rules()).rules}
    classic = {rule.name for rule in Detector(CLASSIC.active_rules()).rules}
    assert "loss_spike" in default - classic
    assert "spike_over_mean" in classic - default
    assert {"non_finite", "new_best"} <= default & classic
    assert configured(preset="none").active_rules() == []
    chosen = configured(preset="none", rules={"loss_spike": {"enabled": True}})
    assert [rule.name for rule in chosen.active_rules()] == ["loss_spike"]
    assert "outlier" not in default

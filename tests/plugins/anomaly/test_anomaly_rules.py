"""What each rule says of a series, and what it leaves alone."""

import math
import random

import msgspec
import pytest

from trainbus.bus.events import Alert, Eval, Metric, RunEnded, RunStarted, Step
from trainbus.plugins.anomaly.config import AnomalyConfig, RulesConfig
from trainbus.plugins.anomaly.detector import MAX_RUNS, Detector
from trainbus.plugins.anomaly.memory import MAX_SERIES


def only(rule, **parameters):
    """Rules with all but one switched off."""
    table = {name: {"enabled": name == rule} for name in RulesConfig.__struct_fields__}
    table[rule] |= parameters
    return msgspec.convert(table, RulesConfig)


def steps(values, *, metric="loss", first=1, run="r"):
    return [Step(run=run, step=step, time=step * 10**9, metrics={metric: value}) for step, value in enumerate(values, first)]


def said(config, feed) -> list[Alert]:
    detector = Detector(config)
    return [alert for event in feed for alert in detector.feed(event)]


def states(alerts):
    return [(alert.state, alert.step) for alert in alerts]


def test_a_loss_31_percent_above_the_mean_of_five_is_one_spike_and_29_percent_is_none():
    """The value under test is not in the baseline: 1.31 is enough, it need not be 1.405."""
    assert states(said(only("loss_spike"), steps([1.0] * 10 + [1.31]))) == [("raised", 11)]
    assert said(only("loss_spike"), steps([1.0] * 10 + [1.29])) == []


def test_a_long_spike_is_one_incident_that_is_cleared_when_the_loss_has_been_back_for_a_while():
    """Not one alert a step; the id stays the same to the end."""
    alerts = said(only("loss_spike", clear_after=3), steps([1.0] * 5 + [2.0] * 20 + [1.0] * 5))
    assert states(alerts) == [("raised", 6), ("cleared", 6)]
    assert {alert.id for alert in alerts} == {"loss_spike:loss:r:6"}
    assert alerts[-1].evidence["count"] == 20
    assert alerts[-1].evidence["last_step"] == 28


def test_an_incident_that_gets_clearly_worse_is_updated():
    """The score has grown by half: the evidence follows."""
    alerts = said(only("loss_spike"), steps([1.0] * 5 + [2.0, 2.1, 3.0]))
    assert states(alerts) == [("raised", 6), ("updated", 6)]
    assert alerts[-1].evidence["value"] == 3.0
    assert alerts[-1].evidence["score"] == pytest.approx(2.0)


def test_a_loss_that_stays_at_a_higher_level_becomes_the_new_normal():
    """Otherwise five lucky values would keep an alert open for ever."""
    alerts = said(only("loss_spike", adapt_after=10, clear_after=5), steps([1.0] * 5 + [2.0] * 40))
    assert states(alerts) == [("raised", 6), ("cleared", 6)]


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf, 0.0])
def test_non_finite_values_and_exact_zeros_neither_spike_nor_poison_the_baseline(hole):
    """A NaN in the window would make every comparison false; a zero would halve the mean."""
    alerts = said(only("loss_spike"), steps([1.0, 1.0, 1.0, hole, 1.0, 1.0, hole, 1.2, 1.5]))
    assert states(alerts) == [("raised", 9)]


def test_a_loss_that_has_been_negative_is_left_alone_by_the_relative_rule_unless_asked():
    """Policy-gradient losses swing around zero, where 30 % more means nothing."""
    swinging = [0.01, -0.02, 0.01, 0.02, 0.01, 0.01, 0.01, 0.01, 0.5]
    assert said(only("loss_spike"), steps(swinging)) == []
    assert states(said(only("loss_spike", skip_signed=False), steps(swinging)))[0][0] == "raised"


def test_a_huge_outlier_has_a_huge_z_because_it_is_not_in_its_own_baseline():
    """With the value inside a window of ten, z could never pass 3."""
    noise = random.Random(1)
    alerts = said(only("z_score", window=10), steps([0.7 + noise.gauss(0, 0.01) for _ in range(30)] + [50.0]))
    assert alerts[-1].step == 31
    assert alerts[-1].evidence["z"] > 1_000
    assert alerts[-1].evidence["baseline"] == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("constant", [0.1, 1e6, 0.0])
def test_a_constant_series_is_not_alarmed_by_float_noise(constant):
    """Its standard deviation is zero or nearly so; the floor is a part of the mean."""
    assert said(only("z_score"), steps([constant] * 60 + [constant * (1 + 1e-9)] + [constant] * 5)) == []


def test_the_z_score_says_nothing_before_it_has_seen_enough_values():
    """Two equal values are no distribution."""
    assert said(only("z_score", min_samples=10), steps([1.0] * 9 + [9.0])) == []
    assert states(said(only("z_score", min_samples=10), steps([1.0] * 10 + [9.0]))) == [("raised", 11)]


def test_a_falling_loss_is_no_outlier_unless_both_sides_are_asked_for():
    """Learning must not alarm."""
    falling = [1.0 + 0.01 * (-1) ** step for step in range(20)] + [0.5]
    assert said(only("z_score"), steps(falling)) == []
    assert states(said(only("z_score", side="both"), steps(falling))) == [("raised", 21)]


def test_a_rule_watches_the_metrics_that_it_is_told_by_name_or_pattern():
    """A pattern crosses the slashes of a name."""
    odd = [1.0] * 10 + [9.0]
    assert said(only("z_score", metrics=["loss"]), steps(odd, metric="accuracy")) == []
    assert len(said(only("z_score", metrics=["acc*"]), steps(odd, metric="accuracy"))) == 1
    points = [Metric(run="r", step=step, name="probe/layer3/norm", value=value) for step, value in enumerate(odd, 1)]
    assert states(said(only("z_score", metrics=["probe/*norm"]), points)) == [("raised", 11)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["loss", "grad_norm", "eval_loss"])
def test_a_non_finite_value_is_critical_at_its_own_step(metric, value):
    """Even as the very first value of the run."""
    (alert,) = said(RulesConfig(), steps([value], metric=metric, first=7))
    assert (alert.rule, alert.severity, alert.state, alert.step) == ("non_finite", "critical", "raised", 7)
    assert alert.advice


def test_a_loss_that_stays_nan_is_one_incident():
    """A thousand NaN steps are one alert."""
    assert states(said(RulesConfig(), steps([1.0] * 5 + [math.nan] * 1_000))) == [("raised", 6)]


def test_a_nan_on_another_rank_is_seen_and_does_not_disturb_the_series_of_rank_0():
    """Series of other ranks have names of their own."""
    feed = [Step(run="r", step=step, rank=rank, metrics={"loss": math.nan if rank else 1.0}) for step in (1, 2) for rank in (0, 1)]
    (alert,) = said(RulesConfig(), feed)
    assert alert.id == "non_finite:rank1/loss:r:1"


def test_only_improvements_of_more_than_two_percent_are_a_new_best():
    """1.0 and .97 are, .99 is not; the older one is superseded."""
    alerts = said(only("new_best", metrics=["loss"]), steps([1.0, 0.99, 0.97]))
    assert states(alerts) == [("raised", 1), ("cleared", 1), ("raised", 3)]


def test_small_improvements_add_up_to_a_new_best():
    """The comparison is with the last best that was announced."""
    alerts = said(only("new_best", metrics=["loss"]), steps([1.0, 0.99, 0.985, 0.979]))
    assert [alert.step for alert in alerts if alert.state == "raised"] == [1, 4]


@pytest.mark.parametrize("broken", [0.0, math.nan, -math.inf])
def test_what_broken_evaluations_report_is_never_best(broken):
    """A loss of 0.0 or NaN would be best for ever."""
    alerts = said(only("new_best", metrics=["loss"]), steps([broken, 1.0, broken, 0.9]))
    assert [alert.evidence["value"] for alert in alerts if alert.state == "raised"] == [1.0, 0.9]


def test_the_best_of_an_accuracy_is_the_highest():
    """The direction is a parameter, and evaluations are named by their data set."""
    feed = [Eval(run="r", step=step, dataset="gsm8k", metrics={"accuracy": value}) for step, value in enumerate([0.3, 0.2, 0.5], 1)]
    alerts = said(only("new_best", metrics=["eval/gsm8k/accuracy"], direction="max"), feed)
    assert [alert.evidence["value"] for alert in alerts if alert.state == "raised"] == [0.3, 0.5]


def test_a_new_best_does_not_silence_a_divergence():
    """Rules have no common cooldown."""
    rules = msgspec.convert({"new_best": {"metrics": ["loss"]}}, RulesConfig)
    alerts = said(rules, steps([1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 5.0]))
    raised = {(alert.rule, alert.step) for alert in alerts if alert.state == "raised"}
    assert raised >= {("new_best", 6), ("loss_spike", 7)}


def test_a_new_process_of_the_run_starts_with_empty_baselines_and_the_old_best():
    """After a resume from an earlier step the loss is higher, which is no spike; the best stays the best."""
    rules = msgspec.convert({"new_best": {"metrics": ["loss"]}}, RulesConfig)
    feed = [*steps([1.0] * 5 + [0.5] * 5), RunStarted(run="r", resumed_from="c", time=11), *steps([0.9] * 5, first=3)]
    assert [(alert.rule, alert.evidence["value"]) for alert in said(rules, feed) if alert.state == "raised"] == [
        ("new_best", 1.0),
        ("new_best", 0.5),
    ]


def test_incidents_of_a_run_that_ends_are_cleared_and_those_of_a_lost_run_stay():
    """A lost run may come back as if nothing had been."""
    feed = steps([math.nan])
    assert states(said(RulesConfig(), [*feed, RunEnded(run="r", outcome="failed")])) == [("raised", 1), ("cleared", 1)]
    assert states(said(RulesConfig(), [*feed, RunEnded(run="r", outcome="lost")])) == [("raised", 1)]


def test_runs_do_not_disturb_each_other():
    """Each has baselines of its own."""
    feed = [event for pair in zip(steps([1.0] * 20, run="a"), steps([9.0] * 20, run="b"), strict=True) for event in pair]
    assert said(RulesConfig(), feed) == []


def test_the_evidence_of_an_alert_lets_a_person_check_it():
    """Value, baseline, window, threshold, parameters and the last values are all there."""
    (alert,) = said(only("loss_spike"), steps([1.0, 1.1, 0.9, 1.0, 1.0, 2.0]))
    assert alert.evidence["value"] == 2.0
    assert alert.evidence["baseline"] == pytest.approx(1.0)
    assert alert.evidence["window"] == 5
    assert alert.evidence["threshold"] == 0.3
    assert alert.evidence["parameters"]["adapt_after"] == 50
    assert alert.evidence["history"][-1] == [6, 2.0]
    assert "100%" in alert.message
    assert alert.time == 6 * 10**9


def test_memory_does_not_grow_with_the_length_of_a_run_nor_with_the_number_of_names_or_runs():
    """The state is bounded, and what is not watched is counted."""
    detector = Detector(RulesConfig())
    for event in steps([1.0] * 200):
        detector.feed(event)
    size = len(detector.dump("r"))
    for event in steps([1.0] * 5_000, first=201):
        detector.feed(event)
    assert len(detector.dump("r")) < size + 100
    for number in range(MAX_SERIES * 2):
        detector.feed(Metric(run="r", step=1, name=f"example_{number}", value=1.0))
    assert detector.stats().ignored_values == MAX_SERIES + 1
    for number in range(MAX_RUNS + 5):
        detector.feed(Step(run=f"run{number}", step=1, time=number + 1, metrics={"loss": 1.0}))
    assert len(detector.forget_oldest()) == 6
    assert detector.stats().runs == MAX_RUNS


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"rules": {"loss_spikes": {}}}, "loss_spikes"),
        ({"rules": {"loss_spike": {"treshold": 0.3}}}, "treshold"),
        ({"rules": {"loss_spike": {"threshold": -1}}}, "threshold"),
        ({"rules": {"z_score": {"window": 1}}}, "window"),
        ({"rules": {"z_score": {"side": "left"}}}, "side"),
        ({"rules": {"new_best": {"metrics": [""]}}}, "metrics"),
        ({"snapshot": {"severities": ["loud"]}}, "severities"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(table, key):
    """The schema names the key."""
    with pytest.raises(msgspec.ValidationError, match=key):
        msgspec.convert(table, AnomalyConfig)

"""The life of an alert, and what the detector remembers."""

import json
import math
import random

import pytest

from tests.plugins.anomaly.feeding import SECOND, configured, evals, only, raised, said, states, steps
from trainbus.bus.events import Eval, Metric, RunEnded, RunStarted, Step
from trainbus.bus.jsonable import to_json
from trainbus.plugins.anomaly.detector import MAX_RUNS, Detector
from trainbus.plugins.anomaly.memory import MAX_SERIES, encode


def varied(count):
    """About 1.0, and never twice the same in a row."""
    return [1.0 + 0.001 * (number % 7) for number in range(count)]


ACCEPTED = {"info", "warning", "critical"}


def test_an_incident_is_raised_once_updated_when_worse_and_cleared_when_it_is_over():
    """Not one alert a step; one id from beginning to end."""
    alerts = said(only("loss_spike"), steps([1.0] * 20 + [3.0, 3.0, 3.1, 9.0, 3.0] + [1.0] * 10))
    assert states(alerts) == [("raised", "warning", 21), ("updated", "warning", 24), ("cleared", "warning", 25)]
    assert {alert.id for alert in alerts} == {"loss_spike:loss:r:21"}
    assert alerts[-1].evidence["count"] == 5
    assert alerts[-1].advice == ""


def test_a_note_that_lasts_becomes_a_warning_of_the_same_alert():
    """The step of the finding is when it became one."""
    alerts = said(only("loss_spike"), steps([1.0] * 20 + [1.5] * 4 + [1.0] * 5))
    assert [(alert.state, alert.severity, alert.evidence["step"]) for alert in alerts][:2] == [
        ("raised", "info", 21),
        ("updated", "warning", 23),
    ]
    assert len({alert.id for alert in alerts}) == 1


def test_rules_that_break_together_are_one_alert_that_advises_to_roll_back():
    """A NaN loss, an infinite gradient norm and the spike before them: three findings, one incident."""
    losses = [*varied(30), 4.0, math.nan, *varied(20)]
    norms = [*varied(30), 60.0, math.inf, *varied(20)]
    alerts = said(configured(), steps(losses, grad_norm=norms))
    assert [alert.state for alert in alerts].count("raised") == 1
    assert [alert.state for alert in alerts].count("cleared") == 1
    worst = max(alerts, key=lambda alert: len(alert.evidence["rules"]))
    assert set(worst.evidence["rules"]) == {"loss_spike", "grad_spike", "non_finite"}
    assert worst.severity == "critical"
    assert "go back to the last checkpoint before step 31" in worst.advice
    assert {finding["metric"] for finding in worst.evidence["findings"]} == {"loss", "grad_norm"}


def test_a_best_model_never_mutes_a_divergence():
    """News are no incidents: each stands for itself, and the next best supersedes it."""
    feed = steps([1.0] * 60 + [1.5] * 60)
    feed[70:70] = evals([2.0, 1.0], first=70, every=1)
    alerts = said(configured(), feed)
    assert [alert.state for alert in alerts if alert.rule == "new_best"] == ["raised", "cleared", "raised"]
    assert any(alert.rule == "divergence" or "divergence" in alert.evidence["rules"] for alert in alerts)


def test_an_alert_tells_everything_that_its_record_must_hold():
    """Severity, category, message, evidence with values, baseline, score, window and parameters, advice, time; valid as JSON."""
    (alert, *_) = said(only("grad_spike"), steps([1.0] * 30 + [50.0], metric="grad_norm"))
    assert (alert.severity, alert.category, alert.plugin, alert.time) == ("warning", "stability", "anomaly", 31 * SECOND)
    assert alert.message.endswith(".")
    assert alert.advice.endswith(".")
    assert {"value", "baseline", "score", "window", "history", "parameters", "rules", "findings"} <= set(alert.evidence)
    assert alert.evidence["parameters"]["factor"] == 4.5
    assert alert.evidence["history"][-1] == [31, 50.0]
    assert json.loads(to_json(alert), parse_constant=pytest.fail)["severity"] in ACCEPTED


def test_the_end_of_a_run_clears_what_is_open_and_a_lost_one_does_not():
    """A lost run may come back."""
    broken = steps([1.0] * 5 + [math.nan])
    assert [alert.state for alert in said(configured(), broken, [RunEnded(run="r", outcome="failed")])] == ["raised", "cleared"]
    assert [alert.state for alert in said(configured(), broken, [RunEnded(run="r", outcome="lost")])] == ["raised"]


def test_a_resume_starts_baselines_anew_and_keeps_the_bests():
    """What was normal before says nothing about now."""
    feed = (
        steps(varied(40)),
        evals([2.0]),
        [RunStarted(run="r", resumed_from="c")],
        steps([3 * v for v in varied(20)], first=20),
        evals([1.99]),
    )
    assert raised(configured(), *feed) == [("new_best", "info", 10)]


def test_steps_that_go_back_are_a_resume_that_nobody_has_told_of():
    """The loss of there is no divergence from the lower one of later; a step out of order is no resume."""
    fall = [5.0 - number / 100 for number in range(300)]
    assert raised(configured(), steps(fall), steps(fall[100:], first=101)) == []
    assert raised(configured(), steps(fall), steps(fall[100:], first=301)) != []
    swapped = steps([1.0 + 0.001 * (number % 7) for number in range(60)] + [3.0])
    swapped[40], swapped[41] = swapped[41], swapped[40]
    assert raised(configured(), swapped) == [("loss_spike", "warning", 61)]


def test_an_evaluation_that_arrives_late_is_the_best_with_its_own_step():
    """By its value, in whatever order they come."""
    feed = steps([1.0] * 40), evals([2.0], first=40), evals([1.0], first=10)
    assert raised(only("new_best"), *feed) == [("new_best", "info", 40), ("new_best", "info", 10)]


def test_the_best_of_any_metric_upwards_for_accuracies():
    """By name, or as configured."""
    assert [step for _, _, step in raised(only("new_best", metrics=["eval/*"]), evals([0.3, 0.2, 0.5], metric="accuracy"))] == [10, 30]
    assert [
        step for _, _, step in raised(only("new_best", metrics=["reward"], direction="max"), steps([1.0, 0.5, 2.0], metric="reward"))
    ] == [1, 3]


def test_a_rule_that_was_switched_off_meanwhile_leaves_nothing_behind():
    """Its memory and open alerts go."""
    before = Detector(configured().active_rules())
    for event in steps([1.0] * 5 + [math.nan]):
        before.feed(event)
    after = Detector(configured(rules={"non_finite": {"enabled": False}}).active_rules())
    after.load("r", encode(before.runs["r"]))
    assert after.stats().open == 0
    assert [alert for event in steps(varied(30), first=7) for alert in after.feed(event)] == []


def test_what_is_remembered_does_not_grow_with_the_run():
    """A few kilobytes a series and open incident with every rule on: windows, and lists with a limit."""
    detector, noise, sizes = Detector(configured(preset="both").active_rules()), random.Random(1), []
    for step in range(10_000):
        values = {name: 1 + noise.gauss(0, 0.1) for name in ("loss", "grad_norm", "learning_rate", "tokens_per_second")}
        detector.feed(Step(run="r", step=step, time=step * SECOND, metrics=values))
        if step % 100 == 0:
            detector.feed(Eval(run="r", step=step, metrics={"loss": 1 + noise.gauss(0, 0.1), "accuracy": 0.5}))
        if step % 250 == 249:
            sizes.append(len(encode(detector.runs["r"])))
    assert max(sizes) < 64 * 1024


def test_series_and_runs_have_a_limit():
    """Metrics named after examples can't fill the memory; the run that was silent longest is forgotten first."""
    detector = Detector(configured().active_rules())
    detector.feed(Step(run="r", step=1, metrics={f"loss/{number}": 1.0 for number in range(MAX_SERIES + 5)}))
    assert detector.stats().ignored_values == 5
    for number in range(MAX_RUNS + 3):
        detector.feed(Step(run=f"run-{number}", time=number + 1, metrics={"loss": 1.0}))
    assert detector.forget_oldest() == ["r", "run-0", "run-1", "run-2"]


def test_the_plugins_own_figures_are_not_judged():
    """Otherwise it would watch itself."""
    assert raised(only("limit", metrics=["*"], above=0.5), [Metric(run="r", name="figures/stability", value=99.0)]) == []
    assert raised(only("limit", metrics=["*"], above=0.5), [Metric(run="r", name="other", value=99.0)]) != []


def test_alerts_follow_from_the_events_alone():
    """Twice the same, bit for bit."""
    noise = random.Random(2)
    values = [1 + noise.gauss(0, 0.1) + (3 if noise.random() < 0.02 else 0) for _ in range(1_000)]
    assert said(configured(), steps(values)) == said(configured(), steps(values))

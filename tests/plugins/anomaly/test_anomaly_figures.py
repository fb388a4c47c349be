"""Running figures against values that were worked out by hand."""

import math

import pytest

from tests.plugins.anomaly.feeding import steps
from trainbus.bus.events import Metric, Sample
from trainbus.plugins.anomaly.figures import accuracy_figures, loss_figures
from trainbus.plugins.anomaly.plugin import AnomalyPlugin
from trainbus.testing.context import PluginHarness


def test_running_accuracy_over_a_hundred_fixed_results():
    """The first fifty right, then every second one: 10 of 20, 25 of 50, 75 of 100."""
    answers = [True] * 50 + [number % 2 == 0 for number in range(50)]
    assert accuracy_figures(answers[-50:], sum(answers), 100) == {
        "accuracy_20": 0.5, "accuracy_50": 0.5, "accuracy_all": 0.75, "accuracy_trend": 0.0,
    }  # fmt: skip
    better = [False] * 30 + [True] * 20
    assert accuracy_figures(better, 20, 50)["accuracy_trend"] == 1.0


@pytest.mark.parametrize(("late", "trend"), [(0.9, -1.0), (1.0005, 0.0), (1.1, 1.0)])
def test_the_loss_trend_compares_the_last_ten_with_the_ten_before(late, trend):
    """Within a thousandth it is flat."""
    assert loss_figures(list(range(20)), [1.0] * 10 + [late] * 10)["loss_trend"] == trend


def test_derivative_variance_and_stability_follow_their_formulas():
    """A straight line scatters not at all about its own trend: 100. Noise of 10 % gives 100 * exp(-0.4)."""
    line = loss_figures(list(range(0, 500, 10)), [2.0 - 0.01 * number for number in range(50)])
    assert line["loss_derivative"] == pytest.approx(-0.001)
    assert line["stability"] == pytest.approx(100.0)
    noisy = loss_figures(list(range(50)), [1.1, 0.9] * 25)
    assert noisy["loss_variance"] == pytest.approx(0.01 * 50 / 49)
    assert noisy["stability"] == pytest.approx(100 * math.exp(-4 * math.sqrt(0.01 * 50 / 49)), rel=1e-2)
    assert loss_figures([1], [1.0]) == {}


def test_the_plugin_publishes_them_as_metrics_at_its_pace():
    """Every tenth step, and with every judged sample."""
    harness = PluginHarness(AnomalyPlugin())
    harness.start()
    figures = [event for event in harness.feed(*steps([1.0 + n % 3 for n in range(45)])) if isinstance(event, Metric)]
    assert {event.name for event in figures} == {
        "figures/loss_trend",
        "figures/loss_derivative",
        "figures/loss_variance",
        "figures/stability",
    }
    assert [event.step for event in figures if event.name == "figures/stability"] == [29, 39]
    published = harness.feed(Sample(run="r", step=45, correct=True))
    assert {event.name for event in published} == {f"figures/accuracy_{name}" for name in ("20", "50", "all", "trend")}

"""Known causes: a new data file, and steps of another size, are no incidents; what happens beside them still is."""

import math
import random

import pytest

from tests.plugins.anomaly.feeding import SECOND, configured, raised, said, steps
from trainbus.bus.events import Job, Phase, RunStarted
from trainbus.plugins.anomaly.plugin import AnomalyPlugin
from trainbus.testing.context import PluginHarness

DEFAULT = configured()


def noisy(level, count, *, seed=1):
    noise = random.Random(seed)
    return [level * (1 + noise.gauss(0, 0.02)) for _ in range(count)]


def counted(feed, sizes):
    """The same steps, which also tell how many examples they have seen."""
    seen = 0
    for event, size in zip(feed, sizes, strict=True):
        seen += size
        event.examples = seen
    return feed


@pytest.mark.parametrize("news", [Job(run="r", file="b.jsonl", state="processing"), Phase(run="r", name="load_data")])
def test_a_new_data_file_has_a_level_of_its_own(news):
    """The same rise without the news is a spike and a divergence; a spike inside the second file is told."""
    first, second = steps(noisy(1.0, 100), grad_norm=noisy(1.0, 100)), steps(noisy(1.4, 100), first=101, grad_norm=noisy(6.0, 100))
    found = {one["rule"] for alert in said(DEFAULT, first, second) for one in alert.evidence["findings"]}
    assert found >= {"loss_spike", "divergence", "grad_spike"}
    assert raised(DEFAULT, first, [news], second) == []
    second[60].metrics["loss"] = 5.0
    assert raised(DEFAULT, first, [news], second) == [("loss_spike", "warning", 161)]


def test_a_file_that_is_done_or_queued_is_no_cause():
    """The data has not changed."""
    first, second = steps(noisy(1.0, 100)), steps(noisy(2.5, 100), first=101)
    for state in ("queued", "completed", "failed"):
        assert raised(DEFAULT, first, [Job(run="r", state=state)], second)


def test_a_nan_is_critical_whatever_the_cause():
    """Also as the first value of a new file."""
    feed = [*steps(noisy(1.0, 50)), Job(run="r", state="processing"), *steps([math.nan], first=51)]
    assert raised(DEFAULT, feed) == [("non_finite", "critical", 51)]


def test_the_rest_of_an_epoch_with_gradient_accumulation_is_a_note():
    """A step of 2 instead of 32 examples has a loss and a norm of its own; a step of the usual size has no such excuse."""
    losses, norms, sizes = noisy(1.0, 200), noisy(1.0, 200), [32] * 200
    losses[100], norms[100] = 2.5, 8.0
    assert {severity for _, severity, _ in raised(DEFAULT, counted(steps(losses, grad_norm=norms), sizes))} == {"warning"}
    sizes[100] = 2
    assert {severity for _, severity, _ in raised(DEFAULT, counted(steps(losses, grad_norm=norms), sizes))} == {"info"}


@pytest.mark.parametrize("told", ["examples", "metric"])
def test_other_gradient_accumulation_starts_the_baselines_anew(told):
    """A loss that is a sum over batches doubles with them."""
    feed = steps(noisy(0.6, 100) + noisy(1.4, 100, seed=2))
    if told == "examples":
        counted(feed, [32] * 100 + [80] * 100)
    else:
        for number, event in enumerate(feed):
            event.metrics["gradient_accumulation_steps"] = 2 if number < 100 else 5
    assert {severity for _, severity, _ in raised(DEFAULT, feed)} <= {"info"}


def test_batches_of_any_size_are_no_excuse():
    """Where a step sees now more and now fewer examples, that is no habit which a step could break."""
    noise = random.Random(5)
    losses = noisy(1.0, 200)
    losses[100] = 2.5
    feed = counted(steps(losses), [noise.randrange(4, 64) for _ in losses])
    assert raised(DEFAULT, feed) == [("loss_spike", "warning", 101)]


def test_a_resume_with_another_batch_size_starts_anew():
    """The count of examples begins again at 0."""
    feed = counted(steps(noisy(1.0, 100)), [32] * 100)
    again = counted(steps(noisy(1.4, 100), first=50), [8] * 100)
    assert raised(DEFAULT, feed, [RunStarted(run="r", time=100 * SECOND, resumed_from="c")], again) == []


def test_the_plugin_listens_to_jobs_of_the_runs_that_it_knows():
    """A job of a run that has not begun, or of no run, is nothing to remember."""
    plugin = AnomalyPlugin()
    harness = PluginHarness(plugin, config={"figures": {"enabled": False}})
    harness.start()
    harness.feed(Job(state="processing"), *steps(noisy(1.0, 100)), Job(run="r", state="processing"))
    assert harness.feed(*steps(noisy(1.4, 100), first=101)) == []
    assert list(plugin.detector.runs) == ["r"]

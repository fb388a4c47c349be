"""The detector on labelled real logs: the bars that its documentation claims. Skipped where the logs are not."""

import pytest

from trainbus.bus.events import Eval, Step
from trainbus.plugins.anomaly.backtest import scoring
from trainbus.plugins.anomaly.backtest.findings import backtest
from trainbus.plugins.anomaly.backtest.labels import beside, read_labels
from trainbus.plugins.anomaly.config import AnomalyConfig
from trainbus.sources.histories import read


@pytest.fixture(scope="module")
def scores(shared_data):
    folder = shared_data / "training_logs"
    if not folder.is_dir():
        pytest.skip("no labelled logs: training_logs is missing in the shared data")
    made = []
    for name, run in read_labels(beside([folder])).items():
        history = list(read(folder / name))
        steps = sorted({event.step for event in history if isinstance(event, Step | Eval)})
        made.append(scoring.score(run, backtest(name, history, AnomalyConfig()), steps))
    return made


def test_the_defaults_find_what_was_labelled(scores):
    """95 % of the sure labels and 85 % of the likely ones, by a finding of the same kind."""
    whole = scoring.total(scores)
    assert whole.labels["high"] > 30
    assert whole.recall("high", strict=True) >= 0.95
    assert whole.recall("medium", strict=True) >= 0.85


def test_the_defaults_are_quiet_elsewhere(scores):
    """At most one false warning or critical alert in 10,000 points."""
    whole = scoring.total(scores)
    assert whole.quiet_points > 100_000
    assert whole.false_in_10000 <= 1.0

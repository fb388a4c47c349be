"""`trainbus watch`: a run in the terminal."""

from __future__ import annotations

import math

import pytest
from rich.console import Console

from trainbus.bus.events import Alert, Plugin, RunEnded, Step
from trainbus.bus.wire import RunInfo
from trainbus.cli import app
from trainbus.cli.watch_view import WatchView, curve


def shown(view, width=100):
    console = Console(width=width, height=40, force_terminal=False, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(view.render(width, 40, 100))
    return console.export_text()


def test_a_picture_of_a_run_in_the_journal_is_printed_once_where_there_is_no_terminal(a_run, capsys):
    """Status, figures, curve with its NaN, open alert; the run may be left out."""
    for arguments in (["watch"], ["watch", "first", "--once"]):
        assert app.run(arguments) == 0
        told = capsys.readouterr().out
        assert "first-1" in told
        assert "completed" in told
        assert "step 10 / 10" in told
        assert "checkpoint 9 complete" in told
        assert "!" in told
        assert "The loss is NaN." in told


def test_without_a_run_it_says_what_to_do(broker, capsys):
    """No empty screen."""
    assert app.run(["watch"]) == 4
    assert "The journal has no run yet." in capsys.readouterr().err


def test_a_spike_of_one_step_is_seen_however_narrow_the_terminal_is():
    """Each column shows the highest value of its part, and every NaN."""
    values = [1.0] * 1000
    values[637] = 9.0
    values[200] = math.nan
    for width in (10, 33, 80):
        lines = curve(values, width, 6)
        assert sum("█" in line for line in lines[:1]) == 1
        assert lines[0].count("!") == 1
    assert curve([], 10, 4) == ["no loss yet"]
    assert curve([math.inf], 10, 4) == ["1 values, none of them finite"]
    assert curve([2.0, 2.0], 10, 2)[-1].endswith("▁▁")


def test_the_view_follows_events_and_ignores_other_runs():
    """Alerts open and close; the end is shown; a hostile name can't steer the terminal."""
    view = WatchView(RunInfo(run="r\x1b[2J", name="n", state="running"))
    view.apply(Step(run=view.info.run, step=4, total_steps=8, metrics={"loss": 1.5}, time=1))
    view.apply(Step(run="other", step=99, metrics={"loss": 7.0}, time=1))
    view.apply(Alert(run=view.info.run, id="a", message="odd", severity="critical"))
    view.apply(Plugin(name="anomaly", state="failed", error="no disk"))
    text = shown(view)
    assert all(part in text for part in ("step 4 / 8", "loss 1.5", "odd", "1 open alerts", "anomaly", "no disk", "r·[2J"))
    assert "99" not in text
    view.apply(Alert(run=view.info.run, id="a", state="cleared"))
    view.apply(RunEnded(run=view.info.run, outcome="failed", reason="out of memory"))
    text = shown(view)
    assert "odd" not in text
    assert "out of memory" in text


@pytest.mark.parametrize("width", [30, 80, 200])
def test_any_width_will_do(width):
    """No line is broken by the curve."""
    view = WatchView(RunInfo(run="r", name="n", state="running"))
    for step in range(300):
        view.apply(Step(run="r", step=step, metrics={"loss": 1 / (step + 1)}, time=step))
    lines = shown(view, width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("█" in line for line in lines)

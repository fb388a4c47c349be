"""Figures as people read them, and JSON that is always valid."""

from __future__ import annotations

import json
import math

import pytest

from trainbus.bus.events import Alert, Step
from trainbus.cli import output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"), (0.5, "500 ms"), (1, "1.0 s"), (59.4, "59 s"), (75, "1 min 15 s"), (3600, "1 h"), (5400, "1 h 30 min"),
        (90_000, "1 d 1 h"), (-2, "-2.0 s"), (math.nan, "-"), (None, "-"),
    ],
)  # fmt: skip
def test_durations_have_two_units_at_most(seconds, text):
    """Long ones need no seconds, short ones no hours."""
    assert output.duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 1024**4, "5.0 TiB"), (None, "-")])
def test_sizes_are_binary(number, text):
    """As `ls -h` shows them, with the unit's right name."""
    assert output.size(number) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_234_567, "1,234,567"),
        (0.000123456, "0.0001235"),
        (2.5, "2.5"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (None, "-"),
        (3e9, "3e+09"),
    ],
)
def test_numbers_are_short(value, text):
    """Four digits that count; NaN and infinities by name."""
    assert output.number(value) == text


def test_ages_count_from_now():
    """A stamp of nobody has no age."""
    assert output.age(1_000_000_000, now=76_000_000_000) == "1 min 15 s ago"
    assert output.age(0) == "-"


def test_json_has_no_nan():
    """NaN and infinities become null wherever they stand."""
    event = Alert(evidence={"values": [1.0, math.nan, {"deep": math.inf}]})
    assert json.loads(output.json_line(event), parse_constant=pytest.fail)["evidence"] == {"values": [1.0, None, {"deep": None}]}
    assert json.loads(output.json_line(Step(metrics={"loss": math.nan})))["metrics"] == {"loss": None}


def test_no_error_is_drawn_for_a_progress_bar_in_a_pipe(capsys):
    """Without a terminal a bar is nothing at all."""
    with output.progress("exporting", total=3) as bar:
        bar.advance(bar.task_ids[0])
    assert capsys.readouterr().err == ""

"""JSON edges: always valid, nothing silently lost."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.examples import example
from trainbus.bus import events, wire
from trainbus.bus.jsonable import to_json, to_jsonable

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


def test_nan_becomes_null_and_is_told_beside():
    """The flag names path and value."""
    event = events.Step(step=0, metrics={"loss": math.nan, "lr": 1.0}, epoch=-math.inf)
    made = to_jsonable(event)
    assert made["metrics"] == {"loss": None, "lr": 1.0}
    assert made["not_finite"] == {"metrics.loss": "nan", "epoch": "-inf"}


def test_fields_that_hold_their_default_are_written():
    """A reader of JSON doesn't know our defaults: step 0 is there."""
    made = to_jsonable(events.Step())
    assert (made["kind"], made["step"], made["total_steps"]) == ("step", 0, None)
    assert "not_finite" not in made


def test_an_event_of_a_later_version_keeps_its_fields():
    """Unknown fields stand beside the common ones, as they came."""
    made = to_jsonable(events.Other(kind="hologram", run="r", fields={"angle": math.inf}))
    assert (made["kind"], made["run"], made["angle"], made["not_finite"]) == ("hologram", "r", None, {"angle": "inf"})


def test_each_object_of_a_list_has_its_own_flag():
    """A list can't hold a flag itself."""
    made = to_jsonable([events.Metric(value=math.nan), events.Metric(value=1.0)])
    assert [one.get("not_finite") for one in made] == [{"value": "nan"}, None]


@given(value=anything)
def test_whatever_comes_is_valid_json(value):
    """No NaN literal, whatever is nested in what."""
    json.loads(to_json({"value": value}), parse_constant=pytest.fail)


@pytest.mark.parametrize("cls", [*events.BY_KIND.values(), wire.RunInfo, wire.BrokerStatus, wire.Cursor])
def test_everything_that_we_print_can_be_json(cls):
    """Full examples of events and answers, bytes included."""
    json.loads(to_json(example(cls)), parse_constant=pytest.fail)

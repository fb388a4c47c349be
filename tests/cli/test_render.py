"""One line for each event, whatever is in it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.examples import example
from trainbus.bus import events
from trainbus.cli.render import line


@pytest.mark.parametrize("kind", events.BY_KIND)
def test_every_kind_has_a_line_of_its_own(kind):
    """With everything filled in and with nothing: kind and run are there, and it stays one line."""
    for event in (example(events.BY_KIND[kind]), events.BY_KIND[kind](run="my-run")):
        text = line(event).plain
        assert "\n" not in text
        assert kind in text
        assert event.run in text


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (events.Step(step=3, total_steps=9, metrics={"loss": math.nan}), "3/9  loss nan"),
        (events.Sample(step=1, correct=False, prompt="2+2?", answer="5"), "1  wrong  2+2?  → 5"),
        (events.Gap(missing_source="s", first_seq=4, last_seq=6, reason="disk full"), "3 events of s are missing  disk full"),
        (events.Checkpoint(step=2, path="out/2", bytes=2048), "2  complete  out/2  2.0 KiB"),
        (events.CommandResult(verb="pause", state="refused", reason="not training"), "pause  refused  not training"),
        (events.Phase(name="train", state="progress", progress=0.5), "train  progress  50%"),
        (events.Other(kind="hologram", fields={"angle": 1.5}), "angle 1.5"),
    ],
)
def test_a_line_says_what_a_person_wants_to_know(event, expected):
    """The details of a kind stand at its end."""
    assert line(event).plain.endswith(expected)


@given(text=st.text())
def test_text_from_outside_cannot_drive_the_terminal(text):
    """No control character of a prompt, path or reason is printed."""
    for event in (
        events.Sample(run=text, prompt=text, answer=text),
        events.Checkpoint(path=text, reason=text),
        events.Alert(rule=text, message=text, advice=text),
        events.Step(metrics={text: 1.0}),
        events.Command(verb=text, arguments={text: text}, reason=text, requested_by=text),
        events.Gap(missing_source=text, reason=text),
        events.Other(kind=text, fields={text: text}),
        events.Metric(name=text, unit=text),
        events.System(host=text, reason=text),
    ):
        assert line(event).plain.isprintable()

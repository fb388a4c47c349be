import asyncio
from collections.abc import AsyncIterator

import pytest

from trainbus.bus.events import AnyEvent, Step
from trainbus.errors import UnreachableError
from trainbus.plugins.web import intake as intake_module
from trainbus.plugins.web.feed import Feed
from trainbus.plugins.web.intake import Intake
from trainbus.plugins.web.store import Store
from trainbus.testing.context import MemoryContext


def step(number):
    return Step(run="r", step=number, offset=number, time=number, metrics={"loss": float(number)})


class Journal(MemoryContext):
    """A journal that grows while it is read, and may be out of reach."""

    def __init__(self, events) -> None:
        super().__init__(name="web")
        self.history = list(events)
        self.while_reading = lambda event: None
        self.failures = 0

    async def aquery(self, **arguments) -> AsyncIterator[AnyEvent]:
        if self.failures:
            self.failures -= 1
            raise UnreachableError("no broker")
        async for event in super().aquery(**arguments):
            yield event
            self.while_reading(event)
            await asyncio.sleep(0)


def charted(intake):
    return intake.store.series("r", ["loss"], 10_000, None, None)[0]["steps"]


async def test_history_and_live_events_meet_without_a_seam():
    """Events that arrive while the history is read are neither missed nor taken twice."""
    journal = Journal(step(n) for n in range(100))
    intake = Intake(Store(), Feed())
    upcoming = iter(range(100, 140))

    def arrive(event) -> None:
        if event.offset % 2 == 0 and (number := next(upcoming, None)) is not None:
            journal.history.append(step(number))
            intake.live(journal.history[-1])

    journal.while_reading = arrive
    await intake.load(journal)
    intake.live(step(140))
    assert charted(intake) == list(range(141))
    assert intake.feed.position == intake.store.position == 140


async def test_a_page_is_answered_from_what_is_known_while_the_history_is_read():
    """Reading gives way to others all the time."""
    journal = Journal(step(n) for n in range(5_000))
    intake = Intake(Store(), Feed())
    loading = asyncio.create_task(intake.load(journal))
    while not intake.store.runs:
        await asyncio.sleep(0)
    assert not intake.loaded.is_set()
    assert intake.store.summaries(0)[0]["run"] == "r"
    await loading
    assert len(charted(intake)) == 5_000


async def test_live_events_that_were_deleted_from_the_journal_do_not_keep_it_waiting():
    """A deleted run leaves a hole that nothing fills."""
    intake = Intake(Store(), Feed())
    intake.live(step(50))
    await intake.load(Journal([step(1)]))
    assert intake.loaded.is_set()
    assert intake.feed.position == 50


async def test_an_unreachable_broker_is_tried_again_and_said(monkeypatch):
    """The page says that history is missing, until it is there."""
    monkeypatch.setattr(intake_module, "FIRST_PAUSE", 0.001)
    journal = Journal([step(1)])
    journal.failures = 2
    intake = Intake(Store(), Feed())
    loading = asyncio.create_task(intake.load(journal))
    while not intake.problem:
        await asyncio.sleep(0)
    assert "no broker" in intake.problem
    await loading
    assert (intake.problem, charted(intake)) == ("", [1])


@pytest.mark.parametrize("order", [[3, 3, 4], [4, 3, 4]])
async def test_repeats_after_a_crash_change_nothing(order):
    """At-least-once delivery."""
    intake = Intake(Store(), Feed())
    await intake.load(Journal(step(n) for n in range(4)))
    for number in order:
        intake.live(step(number))
    assert charted(intake) == [0, 1, 2, 3, 4]

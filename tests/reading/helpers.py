"""Small things that several tests of the reading side need."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from trainbus import Subscriber
from trainbus.bus.events import AnyEvent, Step

DEADLINE_SECONDS = 90.0


def steps(first: int, last: int, run: str = "a") -> list[Step]:
    """Step events ``first`` to ``last`` inclusive."""
    return [Step(run=run, step=number) for number in range(first, last + 1)]


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.005)


def read(subscriber: Subscriber, count: int) -> list[AnyEvent]:
    """The next ``count`` events, within the deadline."""
    return list(_read(subscriber, count))


def _read(subscriber: Subscriber, count: int) -> Iterator[AnyEvent]:
    deadline = time.monotonic() + DEADLINE_SECONDS
    for number in range(count):
        event = subscriber.next(max(0.0, deadline - time.monotonic()))
        assert event is not None, f"{number} of {count} events came: {subscriber.stats()}"
        yield event

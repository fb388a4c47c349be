"""From events to named numbers: what the rules look at."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from trainbus.bus import events


class Observation(Struct, frozen=True):
    """One value of one series."""

    metric: str
    step: int
    time: int
    value: float


def observations(event: events.AnyEvent, last_step: int = 0) -> Iterator[Observation]:
    """The numbers of a step, eval or metric event; nothing for other kinds.

    Args:
        event: Any event.
        last_step: Stands in for the step of a metric event that names none.
    """
    if isinstance(event, events.Step):
        prefix = f"rank{event.rank}/" if event.rank else ""
        for name, value in event.metrics.items():
            yield Observation(prefix + name, event.step, event.time, value)
    elif isinstance(event, events.Eval):
        prefix = f"eval/{event.dataset}/" if event.dataset else "eval/"
        for name, value in event.metrics.items():
            yield Observation(prefix + name.removeprefix("eval_"), event.step, event.time, value)
    elif isinstance(event, events.Metric):
        yield Observation(event.name, last_step if event.step is None else event.step, event.time, event.value)

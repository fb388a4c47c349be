"""From events to named numbers: what the rules look at."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from trainbus.bus import events

SAMPLE_LOSS = "sample/loss"
SILENCE = "run/silence"
"""Seconds since the last step, or between two."""
FIGURES = "figures/"
"""Prefix of the series that this plugin publishes itself: they are not judged."""
MIB = 1 << 20


class Observation(Struct, frozen=True):
    """One value of one series. ``sample`` is the sample that it was measured on."""

    metric: str
    step: int
    time: int
    value: float
    sample: events.Sample | None = None


def observations(event: events.AnyEvent, last_step: int = 0) -> Iterator[Observation]:
    """The numbers of a step, eval, metric, sample or system event; nothing for other kinds.

    Args:
        event: Any event.
        last_step: Stands in for the step of an event that names none.
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
        if not event.name.startswith(FIGURES):
            yield Observation(event.name, last_step if event.step is None else event.step, event.time, event.value)
    elif isinstance(event, events.Sample):
        if event.loss is not None:
            yield Observation(SAMPLE_LOSS, event.step, event.time, event.loss, event)
    elif isinstance(event, events.System):
        yield from _system(event, last_step)


def _system(event: events.System, step: int) -> Iterator[Observation]:
    if event.memory is not None and event.memory.total:
        available = event.memory.available
        used = event.memory.used if available is None else event.memory.total - available
        yield Observation("host/memory_fraction", step, event.time, used / event.memory.total)
    for gpu in event.gpus:
        if gpu.memory_total and gpu.memory_used is not None:
            yield Observation(f"gpu{gpu.index}/memory_fraction", step, event.time, gpu.memory_used / gpu.memory_total)
    for process in event.processes:
        if process.role == "trainer":
            yield Observation("host/trainer_mib", step, event.time, process.rss / MIB)

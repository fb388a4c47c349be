"""When memory ends: for a training that leaks, in steps and seconds, with an interval."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from trainbus.bus.events import System
from trainbus.machine.training import address_space_of
from trainbus.plugins.memory.levels import Limit
from trainbus.plugins.memory.runs import RunView
from trainbus.plugins.memory.trends import Trend

EXTRAPOLATE = 10.0
"""A line is followed this many times as far as it has been seen."""


class End(Struct, frozen=True):
    """The end of one memory. Steps are absolute; ``seconds`` are from the look on, None when a step's duration is not known.

    ``step_low`` is the early end of the interval: the steepest slope, and an evaluation or a save that needs its peak beside.
    """

    limit: str
    what: str
    room: int
    slope: float
    step: float
    step_low: float
    step_high: float
    seconds: float | None
    seconds_low: float | None
    steps_left: float
    seen: float

    def beyond(self, total_steps: int | None, horizon: float) -> bool:
        """Whether the training is over before, or it is too far away to be spoken of.

        Also when it is much further away than the line is long: what warms up looks like a leak at first.
        """
        if self.steps_left > EXTRAPOLATE * self.seen:
            return True
        if total_steps is not None and self.step_low > total_steps:
            return True
        return self.seconds_low is not None and self.seconds_low > horizon


def end_of(view: RunView, leak: Trend, limits: Iterable[Limit]) -> End | None:
    """The first memory that ends when this training goes on to grow like this; None when no limit is known.

    The memory that ends may grow faster than the process (what it shares, what it keeps in the kernel): where its own line is known,
    that one counts.
    """
    first: End | None = None
    for limit in limits:
        own = view.series[limit.key].trend() if limit.key in view.series else None
        line = own if own is not None and own.slope >= leak.slope / 2 else leak
        end = _end(view, line, limit)
        if end is not None and (first is None or end.step < first.step):
            first = end
    return first


def _end(view: RunView, line: Trend, limit: Limit) -> End | None:
    if view.step is None or line.slope <= 0:
        return None
    # In an evaluation memory is above the line: its room is that of the line, less the peak that comes with each.
    room = limit.room + view.excess
    steps = room / line.slope
    steps_low = max(0.0, room - view.worst_peak() - line.noise) / max(line.high, line.slope)
    steps_high = (room + line.noise) / max(line.low, line.slope / 4)
    pace = view.step_seconds
    return End(
        limit=limit.key,
        what=limit.what,
        room=limit.room,
        slope=line.slope,
        steps_left=steps,
        seen=line.span,
        step=view.step + steps,
        step_low=view.step + steps_low,
        step_high=view.step + steps_high,
        seconds=None if pace is None else steps * pace,
        seconds_low=None if pace is None else steps_low * pace,
    )


def limits_of(limits: Iterable[Limit], group: str, pid: int) -> list[Limit]:
    """Those under which a process lives, given the path of its control group."""
    found = []
    for limit in limits:
        kind, _, path = limit.key.partition(" ")
        if (
            kind == "host"
            or path == address_space_of(pid)
            or (kind == "group" and group and (group == path or group.startswith(path.rstrip("/") + "/")))
        ):
            found.append(limit)
    return found


def gpu_limits(event: System) -> list[Limit]:
    """The memory of each whole GPU."""
    return [
        Limit(f"gpu{gpu.index}", f"memory of GPU {gpu.index} of {event.host}", gpu.memory_total, gpu.memory_used)
        for gpu in event.gpus
        if gpu.slice is None and gpu.memory_total and gpu.memory_used is not None
    ]

"""What `trainbus watch` shows of a run, built from its events: no clock, no terminal."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from trainbus.bus import events, wire
from trainbus.cli.memory_table import Watched, panel
from trainbus.cli.output import age, clock, duration, number, state, table

STEPS = 2_000
"""Steps whose loss is drawn: the last ones."""

ALERTS, PACE_STEPS = 5, 100

BLOCKS = " ▁▂▃▄▅▆▇█"


class WatchView:
    """One run. `apply` takes its events, and those of machines and plugins, in order.

    Args:
        info: What the broker knows of the run.
    """

    def __init__(self, info: wire.RunInfo) -> None:
        self.info = info
        self.state, self.reason = info.state, info.reason
        self.step: events.Step | None = None
        self.phase: events.Phase | None = None
        self.losses: deque[float] = deque(maxlen=STEPS)
        self.alerts: dict[str, events.Alert] = {}
        self.systems: dict[str, events.System] = {}
        self.plugins: dict[str, events.Plugin] = {}
        self.checkpoint: events.Checkpoint | None = None
        self.evaluation: events.Eval | None = None
        self._pace: deque[tuple[int, int]] = deque(maxlen=PACE_STEPS)

    def apply(self, event: events.AnyEvent) -> None:
        """Take in an event; one of another run changes nothing."""
        match event:
            case events.System():
                self.systems[event.host] = event
            case events.Plugin():
                self.plugins[event.name] = event
            case events.Alert() if event.run in ("", self.info.run):
                self.alerts.pop(event.id, None)
                if event.state != "cleared":
                    self.alerts[event.id] = event
            case _ if event.run != self.info.run:
                pass
            case events.Step() if event.rank == 0:
                self.step, self.state, self.reason = event, "running", ""
                self._pace.append((event.step, event.time))
                if (loss := event.metrics.get("loss", event.metrics.get("train_loss"))) is not None:
                    self.losses.append(loss)
            case events.Phase():
                self.phase = None if event.state == "ended" else event
            case events.Checkpoint():
                self.checkpoint = event
            case events.Eval():
                self.evaluation = event
            case events.RunEnded():
                self.state, self.reason, self.phase = event.outcome, event.reason, None
            case _:
                pass

    def pace(self) -> float | None:
        """Steps per second over the last `PACE_STEPS` steps."""
        if len(self._pace) < 2:
            return None
        (first, begin), (last, end) = self._pace[0], self._pace[-1]
        return (last - first) / ((end - begin) / 1e9) if last > first and end > begin else None

    def render(self, width: int, height: int, now: int) -> RenderableType:
        """All of it, in ``width`` columns; the curve takes what ``height`` leaves. ``now`` is wall clock in nanoseconds."""
        parts: list[RenderableType] = [self._head(), self._figures(now)]
        below = [part for part in (self._memory(), self._alerts(), self._plugins()) if part is not None]
        rows = max(4, min(16, height - 12 - 4 * len(below)))
        parts.append(Panel(Text("\n".join(curve(list(self.losses), max(10, width - 16), rows))), title="loss", title_align="left"))
        return Group(*parts, *below)

    def _head(self) -> Text:
        phase = ""
        if self.phase is not None:
            phase = self.phase.name + (f" {self.phase.progress:.0%}" if self.phase.progress is not None else "")
        told = f"  {clean(self.info.name)}  on {clean(self.info.host) or '?'}  {clean(phase or self.reason)}"
        return Text.assemble((clean(self.info.run), "bold"), "  ", state(self.state), told)

    def _figures(self, now: int) -> Text:
        step = self.step
        if step is None:
            return Text("no step yet", style="dim")
        told = [f"step {step.step:,}" + (f" / {step.total_steps:,}" if step.total_steps else "")]
        told += [f"{clean(name)} {number(value)}" for name, value in list(step.metrics.items())[:6]]
        if (pace := self.pace()) is not None:
            told.append(f"{pace:.3g} steps/s")
            if step.total_steps and self.state == "running":
                told.append(f"about {duration(max(0, step.total_steps - step.step) / pace)} left")
        told.append(age(step.time, now))
        if self.evaluation is not None:
            told.append(f"eval {', '.join(f'{clean(name)} {number(value)}' for name, value in list(self.evaluation.metrics.items())[:3])}")
        if self.checkpoint is not None:
            told.append(f"checkpoint {self.checkpoint.step:,} {self.checkpoint.state}")
        return Text("  ·  ".join(told))

    def _memory(self) -> RenderableType | None:
        return panel(Watched(looks=list(self.systems.values()), alerts=[], deaths=[]))

    def _alerts(self) -> RenderableType | None:
        newest = list(self.alerts.values())[-ALERTS:]
        if not newest:
            return None
        rows = [
            Text.assemble(state(alert.severity), f" {clock(alert.time)} ", clean(alert.message or alert.rule)) for alert in reversed(newest)
        ]
        return Panel(Group(*rows), title=f"{len(self.alerts)} open alerts", title_align="left")

    def _plugins(self) -> RenderableType | None:
        if not self.plugins:
            return None
        rows = (
            (clean(name), state(plugin.state), number(plugin.lag), number(plugin.restarts), clean(plugin.error))
            for name, plugin in sorted(self.plugins.items())
        )
        return table("plugin", "state", "lag", "restarts", "error", rows=rows, right=("lag", "restarts"))


def clean(text: str) -> str:
    """A text of a model or a data file, in which nothing can steer the terminal."""
    return "".join(letter if letter.isprintable() else "·" for letter in text)[:300]


def curve(values: Sequence[float], width: int, height: int) -> list[str]:
    """Lines of a bar chart: each column is the highest value of its part, so no spike is lost; ``!`` marks NaN and infinities.

    The lowest and highest finite value stand at the left.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ["no loss yet" if not values else f"{len(values)} values, none of them finite"]
    low, high = min(finite), max(finite)
    edges = [round(index * len(values) / width) for index in range(width + 1)] if len(values) > width else list(range(len(values) + 1))
    columns = [_column(values[begin:end], low, high, height) for begin, end in pairwise(edges)]
    lines = ["".join(column[row] for column in columns) for row in range(height)]
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"]
    room = max(map(len, labels))
    return [f"{label:>{room}} │{line}" for label, line in zip(labels, lines, strict=True)]


def _column(values: Sequence[float], low: float, high: float, height: int) -> str:
    """One column from its top to its bottom."""
    if not all(map(math.isfinite, values)):
        return "!" * height
    eighths = 1 + round((max(values) - low) / ((high - low) or 1) * (height * 8 - 1))
    return "".join(BLOCKS[min(8, max(0, eighths - 8 * (height - 1 - row)))] for row in range(height))

"""The sink `tensorboard`: series as scalars, configuration, alerts and ends of runs as texts; one folder for each run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from trainbus.bus import events
from trainbus.bus.jsonable import to_json
from trainbus.hookspecs import Context
from trainbus.plugins.sinks import tfevents
from trainbus.plugins.sinks.config import SinkConfig, TensorboardConfig
from trainbus.plugins.sinks.ledger import Ledger, file_name
from trainbus.plugins.sinks.outflow import Writer
from trainbus.plugins.sinks.plugin import SinkPlugin, folder
from trainbus.plugins.sinks.points import NO_RUN, points

FILE = "events.out.tfevents.0000000000.trainbus"
"""One file for each run, however often this process is restarted. The number is a time to TensorBoard, by which it orders files."""


class TensorboardWriter:
    """Records, behind a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def position(self) -> int:
        """The ledger's."""
        return self._ledger.position

    def write(self, batch: Sequence[events.AnyEvent], upto: int) -> None:
        """Append the records of each run to its file."""
        pieces: dict[str, bytearray] = {}
        for event in batch:
            name = f"{file_name(event.run or NO_RUN)}/{FILE}"
            for record in records(event):
                if name not in pieces:
                    pieces[name] = bytearray() if self._ledger.lengths.get(name) else bytearray(tfevents.version(event.time / 1e9))
                pieces[name] += record
        self._ledger.append({name: bytes(piece) for name, piece in pieces.items()}, upto)

    def close(self) -> None:
        """Nothing is held open but the ledger."""
        self._ledger.close()


def records(event: events.AnyEvent) -> Iterator[bytes]:
    """The records of an event. What has no step (a machine's state) stands at its second since the epoch."""
    time = event.time / 1e9
    if isinstance(event, events.RunStarted):
        yield tfevents.text(time, event.resumed_step or 0, "config", f"```json\n{to_json(event.config).decode()}\n```")
    elif isinstance(event, events.RunEnded):
        yield tfevents.text(time, event.step or 0, "end", f"**{event.outcome}** {event.reason}".strip())
    elif isinstance(event, events.Alert):
        said = f"**{event.severity}: {event.rule}** ({event.state}): {event.message}"
        yield tfevents.text(time, event.step or 0, "alerts", said)
    else:
        by_step: dict[int, list[tuple[str, float]]] = {}
        for point in points(event):
            by_step.setdefault(int(time) if point.step is None else point.step, []).append((point.name, point.value))
        for step, values in by_step.items():
            yield tfevents.scalars(time, step, values)


class TensorboardSink(SinkPlugin):
    """``plugins = ["tensorboard"]``."""

    schema: ClassVar[type[SinkConfig]] = TensorboardConfig
    kinds: ClassVar[frozenset[str]] = frozenset({"step", "eval", "metric", "system", "run_started", "run_ended", "alert"})

    def open(self, context: Context) -> Writer:
        """The folder with its ledger."""
        return TensorboardWriter(Ledger(folder(context.config.directory, context), context.journal))

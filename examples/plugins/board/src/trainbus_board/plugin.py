"""A sink: what runs publish, as TensorBoard files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec

from trainbus import Context, hookimpl
from trainbus.bus.events import Eval, Metric, RunEnded, Step

FLUSH_SECONDS = 5.0
"""What TensorBoard shows is at most this old."""


class Settings(msgspec.Struct, kw_only=True):
    """What may stand in [plugin.board]."""

    directory: Annotated[str, msgspec.Meta(description="Where the files go, one folder a run; empty: the plugin's own directory.")] = ""


class Board:
    """Writes steps, evaluations and named series as scalars, each run into a folder of its own.

    After a crash the last events are written again: TensorBoard then has a point twice, with the same step and value.
    """

    hook_api = 1

    def __init__(self) -> None:
        self._writers: dict[str, Any] = {}

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """The settings, checked before anything else happens."""
        return Settings

    @hookimpl
    def on_step(self, event: Step, context: Context) -> None:
        """Every metric of the step. Ranks but the first are left out: their points would lie upon those of the first."""
        if event.rank == 0:
            self._write(event, context, {f"train/{name}": value for name, value in event.metrics.items()})

    @hookimpl
    def on_eval(self, event: Eval, context: Context) -> None:
        """Every metric of the evaluation, under the name of its set."""
        self._write(event, context, {f"{event.dataset or 'eval'}/{name}": value for name, value in event.metrics.items()})

    @hookimpl
    def on_metric(self, event: Metric, context: Context) -> None:
        """A point of a series that some plugin publishes."""
        if event.step is not None:
            self._write(event, context, {event.name: event.value})

    @hookimpl
    def on_run_ended(self, event: RunEnded, context: Context) -> None:
        """The file is whole. A run that comes back gets a new one in the same folder, which TensorBoard reads as its continuation."""
        if (writer := self._writers.pop(event.run, None)) is not None:
            writer.close()

    @hookimpl
    def every(self, context: Context) -> float:
        """Put on disk what has been written."""
        for writer in self._writers.values():
            writer.flush()
        return FLUSH_SECONDS

    @hookimpl
    def stop(self, context: Context) -> None:
        """Close what is open."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _write(self, event: Any, context: Context, scalars: dict[str, float]) -> None:
        # Imported here, because it takes a second: whoever lists plugins should not wait for it.
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if event.run not in self._writers:
            self._writers[event.run] = EventFileWriter(str(folder(context, event.run)))
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._writers[event.run].add_event(Record(wall_time=event.time / 1e9, step=event.step, summary=Summary(value=values)))


def folder(context: Context, run: str) -> Path:
    """Where a run's files are. A run's name may hold anything; a folder's may not lead elsewhere."""
    base = Path(context.config.directory).expanduser() if context.config.directory else context.directory
    return base / (re.sub(r"[^A-Za-z0-9._-]", "_", run).lstrip(".") or "run")

"""The sink `parquet`: every event as a row, in files of one batch and one run each; one column for each dotted path that occurs in it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from trainbus.bus import events
from trainbus.bus.export import write
from trainbus.hookspecs import Context
from trainbus.plugins.sinks.config import ParquetConfig, SinkConfig
from trainbus.plugins.sinks.ledger import Ledger, file_name
from trainbus.plugins.sinks.outflow import Writer
from trainbus.plugins.sinks.plugin import SinkPlugin, folder, library
from trainbus.plugins.sinks.points import NO_RUN


class ParquetWriter:
    """Whole files, behind a ledger. They are named by the offsets of their first and last event."""

    def __init__(self, ledger: Ledger, journal: str) -> None:
        self._ledger = ledger
        self._journal = journal[:8]

    def position(self) -> int:
        """The ledger's."""
        return self._ledger.position

    def write(self, batch: Sequence[events.AnyEvent], upto: int) -> None:
        """One new file for each run of the batch."""
        by_run: dict[str, list[events.AnyEvent]] = {}
        for event in batch:
            by_run.setdefault(file_name(event.run or NO_RUN), []).append(event)
        self._ledger.put({self._name(run, some): partial(_write, some) for run, some in by_run.items()}, upto)

    def close(self) -> None:
        """Nothing is held open but the ledger."""
        self._ledger.close()

    def _name(self, run: str, some: Sequence[events.AnyEvent]) -> str:
        return f"{run}/events-{self._journal}-{some[0].offset:012d}-{some[-1].offset:012d}.parquet"


def _write(some: Sequence[events.AnyEvent], path: Path) -> None:
    write(lambda: some, path, "parquet")


class ParquetSink(SinkPlugin):
    """``plugins = ["parquet"]``."""

    schema: ClassVar[type[SinkConfig]] = ParquetConfig

    def open(self, context: Context) -> Writer:
        """The folder with its ledger."""
        library("pyarrow.parquet", "parquet")
        return ParquetWriter(Ledger(folder(context.config.directory, context), context.journal), context.journal)

"""The sink `jsonl`: every event as a line of JSON, one file for each run. NaN is null with a flag beside it, as at every JSON edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from trainbus.bus import events
from trainbus.bus.jsonable import to_json
from trainbus.hookspecs import Context
from trainbus.plugins.sinks.config import JsonlConfig, SinkConfig
from trainbus.plugins.sinks.ledger import Ledger, file_name
from trainbus.plugins.sinks.outflow import Writer
from trainbus.plugins.sinks.plugin import SinkPlugin, folder
from trainbus.plugins.sinks.points import NO_RUN


class JsonlWriter:
    """Lines, behind a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def position(self) -> int:
        """The ledger's."""
        return self._ledger.position

    def write(self, batch: Sequence[events.AnyEvent], upto: int) -> None:
        """Append the lines of each run to its file."""
        pieces: dict[str, bytearray] = {}
        for event in batch:
            name = f"{file_name(event.run or NO_RUN)}.jsonl"
            pieces.setdefault(name, bytearray()).extend(to_json(event) + b"\n")
        self._ledger.append({name: bytes(piece) for name, piece in pieces.items()}, upto)

    def close(self) -> None:
        """Nothing is held open but the ledger."""
        self._ledger.close()


class JsonlSink(SinkPlugin):
    """``plugins = ["jsonl"]``."""

    schema: ClassVar[type[SinkConfig]] = JsonlConfig

    def open(self, context: Context) -> Writer:
        """The folder with its ledger."""
        return JsonlWriter(Ledger(folder(context.config.directory, context), context.journal))

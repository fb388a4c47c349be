"""The sink `wandb`: an offline run of Weights & Biases for each run, for ``wandb sync FOLDER``.

wandb's own client keeps an offline run in the memory of a process beside it until the run ends, so a kill loses it. Therefore the file is
written here, by wandb's own message types, behind a ledger: ``:W&B``, then records of a LevelDB log, in blocks of 32 KiB.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from trainbus.bus import events
from trainbus.bus.jsonable import to_jsonable
from trainbus.hookspecs import Context
from trainbus.plugins.sinks.config import SinkConfig, WandbConfig
from trainbus.plugins.sinks.ledger import Ledger, file_name
from trainbus.plugins.sinks.outflow import Writer
from trainbus.plugins.sinks.plugin import SinkPlugin, folder, library
from trainbus.plugins.sinks.points import NO_RUN, points

HEAD = b":W&B\xe1\xbe\x00"
BLOCK = 32_768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
_CHUNK = struct.Struct("<IHB")  # checksum, length, which part of the record


def framed(records: Sequence[bytes], place: int) -> bytes:
    """Records as they stand in a file from ``place`` on: no record begins in the last bytes of a block, a long one is parted."""
    made = bytearray()
    for record in records:
        rest, kind = record, FIRST
        while True:
            left = BLOCK - (place + len(made)) % BLOCK
            if left < _CHUNK.size:
                made += bytes(left)
                continue
            part, rest = rest[: left - _CHUNK.size], rest[left - _CHUNK.size :]
            form = (FULL if kind == FIRST else LAST) if not rest else kind
            made += _CHUNK.pack(zlib.crc32(part, zlib.crc32(bytes([form]))), len(part), form) + part
            if not rest:
                break
            kind = MIDDLE
    return bytes(made)


class WandbWriter:
    """Offline runs, behind a ledger.

    Args:
        ledger: Of the folder.
        messages: The module `wandb.proto.wandb_internal_pb2`.
        version: Of wandb.
        project: Of the runs.
        entity: Of the runs; empty for whoever syncs them.
    """

    def __init__(self, ledger: Ledger, messages: Any, version: str, project: str, entity: str) -> None:
        self._ledger = ledger
        self._messages = messages
        self._version = version
        self._project = project
        self._entity = entity
        self._files = {name.rpartition("/run-")[2].removesuffix(".wandb"): name for name in ledger.lengths}

    def position(self) -> int:
        """The ledger's."""
        return self._ledger.position

    def write(self, batch: Sequence[events.AnyEvent], upto: int) -> None:
        """Append the records of each run to its file."""
        found: dict[str, list[bytes]] = {}
        for event in batch:
            run = file_name(event.run or NO_RUN)
            made = [record.SerializeToString() for record in self._records(run, event)]
            if not made:
                continue
            if run not in self._files:
                stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(event.time / 1e9))
                self._files[run] = f"offline-run-{stamp}-{run}/run-{run}.wandb"
            name = self._files[run]
            if name not in found:
                found[name] = [] if self._ledger.lengths.get(name) else self._beginning(run, event)
            found[name] += made
        pieces = {}
        for name, records in found.items():
            length = self._ledger.lengths.get(name, 0)
            pieces[name] = framed(records, length) if length else HEAD + framed(records, len(HEAD))
        self._ledger.append(pieces, upto)

    def close(self) -> None:
        """Nothing is held open but the ledger."""
        self._ledger.close()

    def _beginning(self, run: str, event: events.AnyEvent) -> list[bytes]:
        """What a file begins with: who wrote it, the run, and that charts go by `step`."""
        head = self._messages.Record()
        head.header.version_info.producer = self._version
        head.header.version_info.min_consumer = self._version
        about = self._messages.Record()
        about.run.run_id = run
        about.run.project = self._project
        about.run.entity = self._entity
        about.run.display_name = run
        about.run.start_time.seconds, about.run.start_time.nanos = divmod(event.time, 1_000_000_000)
        step = self._messages.Record()
        step.metric.name = "step"
        axis = self._messages.Record()
        axis.metric.glob_name = "*"
        axis.metric.step_metric = "step"
        axis.metric.options.step_sync = True
        return [record.SerializeToString() for record in (head, about, step, axis)]

    def _records(self, run: str, event: events.AnyEvent) -> Iterator[Any]:
        if isinstance(event, events.RunStarted):
            record = self._messages.Record()
            for key, value in event.config.items():
                item = record.config.update.add()
                item.key, item.value_json = key, _json(value)
            if event.config:
                yield record
        elif isinstance(event, events.RunEnded):
            if event.outcome != "lost":  # a lost run may come back
                record = self._messages.Record()
                record.exit.exit_code = event.exit_code or (1 if event.outcome == "failed" else 0)
                yield record
        else:
            values: dict[str, Any] = {}
            for point in points(event):
                values[point.name] = point.value
                if point.step is not None:
                    values["step"] = point.step
            if values:
                yield self._history(values, event)
                yield self._summary(values)

    def _history(self, values: Mapping[str, Any], event: events.AnyEvent) -> Any:
        record = self._messages.Record()
        # W&B's own step must rise with each row, and an evaluation has the step of the training step before it: the offset rises.
        record.history.step.num = event.offset
        for key, value in {**values, "_step": event.offset, "_timestamp": event.time / 1e9}.items():
            item = record.history.item.add()
            item.nested_key.append(key)
            item.value_json = _json(value)
        return record

    def _summary(self, values: Mapping[str, Any]) -> Any:
        record = self._messages.Record()
        for key, value in values.items():
            item = record.summary.update.add()
            item.nested_key.append(key)
            item.value_json = _json(value)
        return record


def _json(value: Any) -> str:
    """As wandb writes values: a number that JSON lacks stands as NaN or Infinity."""
    return json.dumps(value if isinstance(value, float) else to_jsonable(value))


class WandbSink(SinkPlugin):
    """``plugins = ["wandb"]``."""

    schema: ClassVar[type[SinkConfig]] = WandbConfig
    kinds: ClassVar[frozenset[str]] = frozenset({"step", "eval", "metric", "system", "run_started", "run_ended"})

    def open(self, context: Context) -> Writer:
        """The folder with its ledger."""
        messages, version = library("wandb.proto.wandb_internal_pb2", "wandb"), library("wandb", "wandb").__version__
        ledger = Ledger(folder(context.config.directory, context), context.journal)
        return WandbWriter(ledger, messages, version, context.config.project, context.config.entity)

"""What became of each training on this machine: one line of JSON each, for people, and for the next estimate."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.home import home, private_directory
from trainbus.trainer_node.config import Summary, TrainerConfig


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One training of one file.

    Args:
        timestamp: When it ended, in ISO 8601, UTC.
        dataset: The file, or the name of the hub data set.
        samples: Examples of the file that could be trained on.
        runtime: Seconds.
        max_length: As configured; ``longest`` is the longest example in tokens, ``headroom`` what is between them (negative: it was cut).
        peak_memory: Most bytes that the accelerator's allocator has held; None without one.
    """

    timestamp: str
    run: str
    dataset: str
    model: str
    method: str
    samples: int = 0
    success: bool = False
    outcome: str = "failed"
    reason: str = ""
    runtime: float = 0.0
    steps: int = 0
    batch_size: int = 1
    gradient_accumulation: int = 1
    effective_batch: int = 1
    max_length: int = 0
    longest: int = 0
    headroom: int = 0
    tokens_per_second: float = 0.0
    peak_memory: int | None = None


def records_file(root: Path | None = None) -> Path:
    """Where they are."""
    return (root or home()) / "trainer" / "history.jsonl"


def of_summary(config: TrainerConfig, summary: Summary, dataset: str) -> RunRecord:
    """The record of a training that came to an end of its own."""
    return RunRecord(
        timestamp=_now(),
        run=summary.run,
        dataset=dataset,
        model=config.model,
        method=config.method,
        samples=summary.file_examples,
        success=summary.outcome == "completed",
        outcome=summary.outcome,
        reason=summary.reason,
        runtime=summary.seconds,
        steps=summary.steps,
        batch_size=config.batch_size,
        gradient_accumulation=config.gradient_accumulation,
        effective_batch=config.batch_size * config.gradient_accumulation,
        max_length=config.max_length,
        longest=summary.longest,
        headroom=config.max_length - summary.longest,
        tokens_per_second=summary.tokens_per_second,
        peak_memory=summary.peak_memory,
    )


def of_failure(config: TrainerConfig, run: str, dataset: str, reason: str, runtime: float) -> RunRecord:
    """The record of a training that broke off."""
    return RunRecord(
        timestamp=_now(),
        run=run,
        dataset=dataset,
        model=config.model,
        method=config.method,
        reason=reason,
        runtime=runtime,
        batch_size=config.batch_size,
        gradient_accumulation=config.gradient_accumulation,
        effective_batch=config.batch_size * config.gradient_accumulation,
        max_length=config.max_length,
    )


def append(record: RunRecord, root: Path | None = None) -> None:
    """Add a line; on a disk that is full it is missing, and nothing else happens."""
    with suppress(OSError):
        path = records_file(root)
        private_directory(path.parent)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, msgspec.json.encode(record) + b"\n")  # one write: two trainings at once leave whole lines
        finally:
            os.close(handle)


def read(root: Path | None = None) -> list[RunRecord]:
    """All that can be read, oldest first."""
    try:
        lines = records_file(root).read_bytes().splitlines()
    except OSError:
        return []
    return list(_decoded(lines))


def _decoded(lines: list[bytes]) -> Iterator[RunRecord]:
    for line in lines:
        with suppress(*DECODE_ERRORS):  # cut by a full disk
            yield msgspec.json.decode(line, type=RunRecord)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

"""Checkpoints read from a bare directory that trainbus need never have seen: ``checkpoint-N`` and what its state file tells."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from trainbus.bus.events import DECODE_ERRORS, MARKER
from trainbus.plugins.retention.pins import pin_of
from trainbus.plugins.retention.recognition import PIN, STATE_FILE, WEIGHTS, step_of
from trainbus.plugins.retention.records import Record, position
from trainbus.plugins.retention.thinning import is_disposable

MAX_STATE_BYTES = 256 * 1024 * 1024
"""A state file holds the whole log; beyond this it is not read for metrics."""


class Found(Struct, frozen=True, kw_only=True):
    """What a directory holds.

    Args:
        records: Whole checkpoints as far as their files are there, by step.
        marks: By id: reasons to keep one: pinned, the trainer's best, the one that training resumed from.
        unfinished: Directories that are called like checkpoints and lack files: being written, or left by a kill.
        ours: Whether trainbus made any of them: then its bus knows of leases.
    """

    records: list[Record]
    marks: dict[str, list[str]] = field(default_factory=dict)
    unfinished: list[Path] = field(default_factory=list)
    ours: bool = False


def scan(root: Path) -> Found:
    """Look through a directory. Nothing is followed that is a symbolic link."""
    records, unfinished, ours = [], [], False
    marks: dict[str, list[str]] = {}
    states: dict[str, dict[str, Any]] = {}
    for path in sorted(root.iterdir()):
        step = step_of(path.name)
        if path.is_symlink() or not path.is_dir() or path.name.startswith("."):
            continue
        marker = _json(path / MARKER)
        if not marker and step is None:
            continue
        state = _json(path / STATE_FILE)
        if not marker and (not state or not any((path / name).is_file() for name in WEIGHTS)):
            unfinished.append(path)
            continue
        record = _record(root, path, step, marker, state)
        ours = ours or bool(marker)
        records.append(record)
        states[record.id] = state
        if (pin := pin_of(path)) is not None:
            marks.setdefault(record.id, []).append(str(pin))
    records.sort(key=position)
    if records:
        _best_of_trainer(records, states[records[-1].id], marks)
    return Found(records=records, marks=marks, unfinished=unfinished, ours=ours)


def _record(root: Path, path: Path, step: int | None, marker: dict[str, Any], state: dict[str, Any]) -> Record:
    number = marker.get("step", step)
    number = number if isinstance(number, int) else int(step or 0)
    run = str(marker.get("run") or root.name)
    sizes = dict(_sizes(path))
    completed = marker.get("created")
    if not isinstance(completed, int):
        completed = max(file.stat().st_mtime_ns for file in path.iterdir() if file.name != PIN)  # a pin makes nothing younger
    return Record(
        id=str(marker.get("id") or f"{run}@{number}:{path.name}"),
        run=run,
        step=number,
        time=completed,
        path=str(path),
        bytes=sum(sizes.values()),
        digest=str(marker.get("digest", "")),
        metrics=metrics_at(state, number),
        disposable=sum(size for name, size in sizes.items() if is_disposable(name)),
        thinned=bool(marker.get("thinned")),
    )


def metrics_at(state: dict[str, Any], step: int) -> dict[str, float]:
    """What a trainer's log says of a step: evaluations of exactly this step, and its last training loss."""
    found: dict[str, float] = {}
    for entry in state.get("log_history", []):
        at = entry.get("step")
        if not isinstance(at, int | float) or at > step:
            continue
        for name, value in entry.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                continue
            if name == "loss" or (name.startswith("eval_") and at == step):
                found[name] = float(value)
    return found


def _best_of_trainer(records: list[Record], state: dict[str, Any], marks: dict[str, list[str]]) -> None:
    """``load_best_model_at_end`` loads it when training ends: without it the training fails at its last moment."""
    best = state.get("best_model_checkpoint")
    for record in records:
        if isinstance(best, str) and best and Path(best).name == Path(record.path).name:
            marks.setdefault(record.id, []).append("the trainer calls it its best")


def _sizes(path: Path) -> Iterator[tuple[str, int]]:
    for child in path.rglob("*"):
        if child.is_file() and not child.is_symlink():
            yield child.relative_to(path).as_posix(), child.stat().st_size


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is none that can be read."""
    try:
        if path.is_symlink() or path.stat().st_size > MAX_STATE_BYTES:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, *DECODE_ERRORS):
        return {}
    return content if isinstance(content, dict) else {}

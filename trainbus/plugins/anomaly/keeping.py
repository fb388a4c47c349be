"""Snapshots that are there: listed, verified, cleaned; and when the daily one is due."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.plugins.anomaly.snapshot import METADATA

DAY = 86_400
FOR_EVER = "new_best"
"""Snapshots of this rule are never cleaned away."""
WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
CONFIGS = ("config.json", "adapter_config.json")


class Snapshot(Struct, frozen=True, kw_only=True):
    """One snapshot as it lies on disk."""

    path: str
    run: str
    rule: str
    step: int | None
    checkpoint: str
    made: float
    """Seconds since the epoch."""
    reason: str = ""


def snapshots(root: Path) -> list[Snapshot]:
    """All whole snapshots under a directory, oldest first."""
    found = []
    for file in root.glob(f"*/*/{METADATA}"):
        if file.parent.name.startswith("."):
            continue
        try:
            metadata = json.loads(file.read_bytes())
            found.append(_snapshot(file.parent, metadata))
        except (OSError, AttributeError, *DECODE_ERRORS):
            continue  # being written or removed, or none of ours
    return sorted(found, key=lambda one: (one.made, one.path))


def _snapshot(path: Path, metadata: dict[str, Any]) -> Snapshot:
    alert, checkpoint = metadata.get("alert") or {}, metadata.get("checkpoint") or {}
    return Snapshot(
        path=str(path),
        run=str(metadata.get("run", path.parent.name)),
        rule=str(alert.get("rule", "")),
        step=metadata.get("step"),
        checkpoint=str(checkpoint.get("id", "")),
        made=path.stat().st_mtime,
        reason=str(metadata.get("reason", "")),
    )


def old(found: list[Snapshot], *, days: float, now: float | None = None) -> list[Snapshot]:
    """Those that are older than ``days``; of best models none ever is."""
    limit = (time.time() if now is None else now) - days * DAY
    return [one for one in found if one.made < limit and one.rule != FOR_EVER]


def clean(root: Path, *, days: float, now: float | None = None) -> list[Snapshot]:
    """Remove old snapshots; returns them. One that can't be removed stays for the next time."""
    removed = []
    for one in old(snapshots(root), days=days, now=now):
        path = Path(one.path)
        hidden = path.with_name(f".removing-{path.name}")
        try:
            path.rename(hidden)  # from here on nobody takes it for whole
            shutil.rmtree(hidden)
        except OSError:
            continue
        removed.append(one)
    return removed


def verify(path: Path) -> list[str]:
    """What is wrong with a snapshot; nothing, when it holds a whole model or adapter."""
    wrong = []
    if not (path / METADATA).is_file():
        wrong.append(f"{METADATA} is missing")
    if not any((path / name).is_file() for name in CONFIGS):
        wrong.append(f"none of {', '.join(CONFIGS)} is there")
    weights = [path / name for name in WEIGHTS if (path / name).is_file()]
    for index in (path / name for name in INDEXES):
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            except (KeyError, TypeError, AttributeError, *DECODE_ERRORS):
                wrong.append(f"{index.name} can't be read")
                continue
            wrong += [f"{name} is missing" for name in names if not (path / name).is_file()]
            weights += [path / name for name in names if (path / name).is_file()]
    if not weights:
        wrong.append("no weights are there")
    return wrong + [problem for file in weights for problem in _weights(file)]


def _weights(file: Path) -> Iterator[str]:
    size = file.stat().st_size
    if file.suffix != ".safetensors":
        if size == 0:
            yield f"{file.name} is empty"
        return
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, size)))
        end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
    except (struct.error, KeyError, IndexError, TypeError, AttributeError, *DECODE_ERRORS):
        yield f"{file.name} has no whole header"
        return
    if size != 8 + length + end:
        yield f"{file.name} has {size:,} bytes, its header tells {8 + length + end:,}"


def is_due(at: str, now: datetime, last: str) -> bool:
    """Whether the daily snapshot is due: the time of day has come, and none was made on this day.

    Args:
        at: hh:mm; empty for never.
        now: Local time.
        last: ISO date of the last one, or empty.
    """
    if not at:
        return False
    hour, minute = map(int, at.split(":"))
    return (now.hour, now.minute) >= (hour, minute) and last != now.date().isoformat()

"""Whether a checkpoint has room on its disk, asked before it is written: a full disk makes a training wait, and never ends it."""

from __future__ import annotations

import errno
import logging
import re
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from trainbus.bus.events import Alert, Phase
from trainbus.trainer_node import checkpoints

if TYPE_CHECKING:
    from trainbus.bus.run import Run

log = logging.getLogger(__name__)

MEBIBYTE = 1 << 20
POLL_SECONDS = 0.1
"""Between looks at a full disk."""
FULL = re.compile(
    r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]|PytorchStreamWriter failed|unexpected pos|os error (?:28|122)\b"
)
"""What Python, torch (its writer names no number) and safetensors say when a disk is full."""


class RoomStats(Struct, frozen=True, kw_only=True):
    """Bytes that the next checkpoint needs, and saves that failed for want of room."""

    needed: int
    failed: int


class Room:
    """One output directory.

    Args:
        output: Where checkpoints go.
        reserve: Mebibytes that stay free beside a checkpoint, for the journal, spools and logs; 0 only takes care of the checkpoint.
        first: Bytes of the first checkpoint, before one is there to be measured.
    """

    def __init__(self, output: Path, reserve: int, first: Callable[[], int] = lambda: 0) -> None:
        self._output = output
        self._reserve = reserve * MEBIBYTE
        self._first = first
        self._failed = 0
        self._needed_more = 0

    def lacking(self) -> str:
        """What is lacking for a checkpoint, in words; empty when there is room, or when that can't be told."""
        nearest = next((path for path in (self._output, *self._output.absolute().parents) if path.is_dir()), Path("/"))
        try:
            free = shutil.disk_usage(nearest).free
        except OSError:
            return ""
        needed = self._needed()
        if free >= needed + self._reserve:
            return ""
        wanted = [f"a checkpoint needs {_size(needed)}"] if needed else []
        wanted += [f"{_size(self._reserve)} are to stay free"] if self._reserve else []
        return f"the disk of {self._output} is full: {_size(free)} are free, and {', and '.join(wanted)}"

    def failed(self, path: Path) -> None:
        """A save broke off for want of room: what it left goes, and the next one has to find more."""
        self._failed += 1
        shutil.rmtree(path, ignore_errors=True)
        nearest = shutil.disk_usage(self._output if self._output.is_dir() else self._output.absolute().parent)
        self._needed_more = max(self._needed(), nearest.free + MEBIBYTE)

    def saved(self) -> None:
        """A save has come through."""
        self._needed_more = 0

    def stats(self) -> RoomStats:
        """Figures of now."""
        return RoomStats(needed=self._needed(), failed=self._failed)

    def _needed(self) -> int:
        """As much as the newest whole checkpoint has."""
        for path in reversed(checkpoints.listed(self._output)):
            if (marker := checkpoints.read_marker(path)) is not None:
                return max(marker.bytes, self._needed_more)
        return max(self._first(), self._needed_more)


def wait_for_room(
    room: Room,
    run: Run,
    step: int,
    *,
    phase: Callable[[str], AbstractContextManager[object]],
    turn: Callable[[], None],
    ended: Callable[[], bool],
) -> bool:
    """Wait until a checkpoint has room; an alert and a phase tell of it. False when the training is to end first.

    Args:
        phase: Begins a phase of the training by name.
        turn: Called again and again: commands are taken there.
        ended: Whether the training is to end.
    """
    if not (problem := room.lacking()):
        return True
    alert = Alert(id=f"no_room:{run.id}:{step}", rule="no_room", category="disk", severity="critical", step=step, plugin="trainer")
    advice = "Free some space; `trainbus checkpoints plan` shows what could go. It goes on by itself."
    run.publish(structs.replace(alert, message=f"Training waits: {problem}.", advice=advice))
    log.warning("trainbus: training waits: %s", problem)
    with phase("no_room"):
        run.publish(Phase(name="no_room", state="progress", detail=problem))
        while problem and not ended():
            time.sleep(POLL_SECONDS)
            turn()
            problem = room.lacking()
    told = "There is room again." if not problem else "The training was stopped; this checkpoint was not saved."
    run.publish(structs.replace(alert, state="cleared", message=told))
    return not problem


def is_disk_full(error: BaseException | str) -> bool:
    """Whether an error, or one that it came from, is a full disk."""
    if isinstance(error, str):
        return bool(FULL.search(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    before = error.__cause__ or error.__context__
    return bool(FULL.search(str(error))) or (before is not None and is_disk_full(before))


def first_checkpoint(model: Any, *, full: bool) -> int:
    """Bytes of a checkpoint of ``model`` before there is one: the weights that are saved, and Adam's two moments of those that are trained.

    Args:
        full: All weights are saved, as opposed to adapters.
    """
    sizes = [(parameter.numel() * parameter.element_size(), parameter.requires_grad) for parameter in model.parameters()]
    trained = sum(size for size, trains in sizes if trains)
    saved = sum(size for size, _ in sizes) if full else trained
    return int(saved + 2 * trained)


def _size(number: int) -> str:
    return f"{number / MEBIBYTE:,.0f} MiB" if number < 10 * 1024 * MEBIBYTE else f"{number / 1024 / MEBIBYTE:,.1f} GiB"

"""The run of the training that this process is at: one at a time, the last one left when the next begins or the process ends."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainbus.bus.run import Run

_current: list[Run] = []
_stopped: dict[str, str] = {}


def begin(config: dict[str, Any]) -> Run:
    """A training begins: leave the run of the one before, and take the supervisor's run, or one of our own after it.

    The run is not closed when the training ends, but by the next one, or by the end of the process: what a script does after
    training (a last evaluation, saving the model) belongs to it.
    """
    from trainbus.bus.joining import NAME_VARIABLE
    from trainbus.bus.run import init

    while _current:
        run = _current.pop()
        run.close("stopped" if run.id in _stopped else "completed", reason=_stopped.get(run.id, ""))
    run = init(os.environ.get(NAME_VARIABLE) or "training", config=config)
    _current.append(run)
    return run


def stopped(reason: str) -> None:
    """The training of the current run was stopped by command: that is how the run ends, though the script may go on and succeed."""
    if _current:
        run = _current[-1]
        _stopped[run.id] = reason
        # Registered after the run's own, so it comes first: how any other run ends, that finds out by itself.
        atexit.register(run.close, "stopped", reason=reason)

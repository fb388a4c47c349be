"""The run of the training that this process is at: one at a time, the last one left when the next begins or the process ends."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainbus.bus.run import Run

_current: list[Run] = []


def begin(config: dict[str, Any]) -> Run:
    """A training begins: leave the run of the one before, and take the supervisor's run, or one of our own after it.

    The run is not closed when the training ends, but by the next one, or by the end of the process: what a script does after
    training (a last evaluation, saving the model) belongs to it.
    """
    from trainbus.bus.joining import NAME_VARIABLE
    from trainbus.bus.run import init

    while _current:
        _current.pop().close()
    run = init(os.environ.get(NAME_VARIABLE) or "training", config=config)
    _current.append(run)
    return run

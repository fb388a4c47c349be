"""Commands that come while data and model are loaded: each is answered at once, although no step is made for minutes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from trainbus.bus.events import Command
    from trainbus.bus.run import Run

POLL_SECONDS = 0.1
"""Quick for a person, nothing for a machine."""


class BeforehandStats(Struct, frozen=True, kw_only=True):
    """Commands that were answered, and those that wait for the training."""

    answered: int
    waiting: int


class Beforehand:
    """Looks for commands in a thread of its own until it is left; what only a training can do is kept for it.

    Attributes:
        paused: No step is to be made before somebody says resume.
        stopping: Why no step is to be made at all; empty when one may. The commands that asked for it are answered by `stopped`.
        waiting: Commands for the training, in order.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="trainbus-beforehand", daemon=True)
        self._answered = 0
        self._asked: list[Command] = []
        self.paused = False
        self.stopping = ""
        self.waiting: list[Command] = []

    def __enter__(self) -> Beforehand:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._take()
        if kind is not None:
            self.stopped()

    def stopped(self) -> None:
        """The training ends before it began: answer who asked for that, and who asks for anything else in vain."""
        for command in self._asked:
            self._run.result(command, "done")
        for command in self.waiting:
            self._run.result(command, "refused", "the training has ended")
        self._asked, self.waiting = [], []

    def stats(self) -> BeforehandStats:
        """Counts so far."""
        return BeforehandStats(answered=self._answered, waiting=len(self.waiting))

    def _look(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self._take()

    def _take(self) -> None:
        for command in self._run.commands():
            self._handle(command)

    def _handle(self, command: Command) -> None:
        if command.verb == "stop":
            self._run.result(command, "accepted")
            self.stopping = self.stopping or command.reason or f"stop was asked for by {command.requested_by or 'a command'}"
            self._asked.append(command)
        elif command.verb not in ("pause", "resume"):
            self.waiting.append(command)
            return
        elif (command.verb == "pause") == self.paused:
            self._run.result(command, "refused", "the run is paused already" if self.paused else "the run is not paused")
        else:
            self.paused = not self.paused
            self._run.result(command, "accepted")
            self._run.result(command, "done", "it is still being loaded: no step is made before `resume`" if self.paused else "")
        self._answered += 1

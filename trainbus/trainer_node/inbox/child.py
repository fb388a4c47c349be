"""A worker process as the daemon holds it: started with one job, listened to, passed commands, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from trainbus.bus.events import DECODE_ERRORS, Command, CommandResult
from trainbus.trainer_node.inbox import messages
from trainbus.trainer_node.inbox.queue import Job
from trainbus.trainer_node.inbox.watchdog import Watchdog
from trainbus.trainer_node.pace import Left, Pace

KILL_AFTER_SECONDS = 60.0
"""A hanging worker has so long to save after SIGTERM."""
TAIL_LINES = 40
"""Of a dead worker's output: enough for a traceback."""
TAIL_BYTES = 64 * 1024
STACKS = signal.SIGUSR1
"""On this signal a worker writes the stacks of its threads to its log."""
FINAL = ("done", "refused")


class Ended(msgspec.Struct, frozen=True):
    """A worker is gone. ``code`` as `subprocess` gives it: negative for a signal."""

    code: int


class Child:
    """One job and its worker.

    Args:
        job: What it trains on.
        order: What it is told first.
        root: Its TRAINBUS_HOME.
        log: Where its standard error goes, behind what is there.
        hang_seconds: As in the configuration.
        happened: Called, in a thread of its own, with what the worker says and at last with `Ended`.

    Attributes:
        outcome: Its own last word; None while there is none.
        hang: Why it was ended as hanging; empty when it wasn't.
        began: It has come as far as training: from then on it saves when it is asked to end.
        interrupted: The command that ended it before it had anything to save.
        phase: What it does; empty at first.
        step: Its last step.
        left: The time until the file is done; None while unknown.
        done: The share of the file's steps that is done, of those that were left when it began; None before the first.
    """

    def __init__(
        self,
        job: Job,
        order: messages.Order,
        *,
        root: Path,
        log: Path,
        hang_seconds: float,
        happened: Callable[[messages.Message | Ended], None],
    ) -> None:
        self.job = job
        self.log = log
        self.watchdog = Watchdog(hang_seconds)
        self.outcome: messages.Done | messages.Refused | None = None
        self.hang = ""
        self.began = False
        self.interrupted: Command | None = None
        self.phase = ""
        self.step: int | None = None
        self.left: Left | None = None
        self.done: float | None = None
        self._first_step: int | None = None
        self._pace = Pace()
        self._kill_at: float | None = None
        self._happened = happened
        self._unanswered: dict[str, Command] = {}
        self._since = time.monotonic()
        self._paused = 0.0
        self._paused_since: float | None = None
        self._log_from = log.stat().st_size if log.exists() else 0
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainbus.trainer_node.inbox.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for us; the worker hears of it from us
                env={**os.environ, "TRAINBUS_HOME": str(root)},
            )
        self._write(order)
        assert self.process.stdout is not None
        threading.Thread(target=self._listen, args=(self.process.stdout,), name="trainbus-worker", daemon=True).start()

    def pass_on(self, command: Command) -> None:
        """The worker obeys it after its next step, or at once while it is paused, and answers."""
        self._unanswered[command.id] = command
        self._write(command)

    def take(self, message: messages.Message, now: float) -> None:
        """Remember what the worker says."""
        if isinstance(message, messages.Phase):
            self.began = self.began or message.name == "train"
            self._pause(message.name == "paused", now)
            self.phase = message.name
            self.watchdog.phase(message.name, now)
        elif isinstance(message, messages.Step):
            self.step = message.step
            self.watchdog.step(now)
            self._pace.add(message.step, self.worked(now))
            self.left = self._pace.left(message.total)
            self._first_step = message.step - 1 if self._first_step is None else self._first_step
            self.done = (message.step - self._first_step) / max(1, message.total - self._first_step)
        elif isinstance(message, messages.Answer) and message.result.state in FINAL:
            self._unanswered.pop(message.result.command, None)
        elif isinstance(message, messages.Done | messages.Refused):
            self.outcome = message

    def asked(self, result: CommandResult) -> Command | None:
        """The command that a result answers, while it has no final one."""
        return self._unanswered.get(result.command)

    def unanswered(self) -> list[Command]:
        """Commands that it was passed and has not answered to an end, in order."""
        return list(self._unanswered.values())

    def worked(self, now: float) -> float:
        """Seconds since it was started, without pauses."""
        paused = self._paused + (now - self._paused_since if self._paused_since is not None else 0.0)
        return max(0.0, now - self._since - paused)

    def interrupt(self, command: Command) -> None:
        """End it before it has anything to save."""
        self.interrupted = command
        self.process.terminate()

    def end_hanging(self, problem: str, now: float) -> None:
        """It writes where it stands to its log; then SIGTERM, and SIGKILL when it has not ended after `KILL_AFTER_SECONDS`."""
        self.hang = problem
        self._kill_at = now + KILL_AFTER_SECONDS
        self.process.send_signal(STACKS)
        self.process.terminate()

    def look(self, now: float) -> None:
        """Kill it if its time is up."""
        if self._kill_at is not None and now > self._kill_at:
            self.process.kill()

    def release(self) -> None:
        """Let it save and end by itself, as when the daemon dies; waits for it."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.wait()

    def last_lines(self) -> list[str]:
        """What this worker wrote last to its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._log_from, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        except OSError:
            return []

    def _write(self, message: messages.Order | Command) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead: its end will tell
            self.process.stdin.write(msgspec.json.encode(message) + b"\n")
            self.process.stdin.flush()

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            with suppress(*DECODE_ERRORS):  # a line that was cut by the worker's death
                self._happened(msgspec.json.decode(line, type=messages.Message))
        self._happened(Ended(self.process.wait()))

    def _pause(self, paused: bool, now: float) -> None:
        if paused and self._paused_since is None:
            self._paused_since = now
        elif not paused and self._paused_since is not None:
            self._paused += now - self._paused_since
            self._paused_since = None

"""The process that trains on one file of the queue: ``python -m trainbus.trainer_node.inbox.worker``.

A crash, an accelerator out of memory or a hang ends this process and not the daemon. It reads its order and then commands from standard
input and tells its progress on standard output; what libraries print goes to standard error. When the daemon dies, standard input ends,
and so does the training: with a checkpoint.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import sys
import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO

import msgspec

from trainbus.bus.events import DECODE_ERRORS, Command, CommandResult
from trainbus.errors import TrainbusError
from trainbus.trainer_node.inbox import messages
from trainbus.trainer_node.job import run_job


class Reporter:
    """An observer that writes messages. A daemon that is gone is no reason to fail: the end of standard input tells it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # answers to commands may come from the thread that seals checkpoints
        self._fraction = -1.0
        self.trained = False

    def say(self, message: messages.Message) -> None:
        """Write one line."""
        try:
            with self._lock:
                self._stream.write(msgspec.json.encode(message) + b"\n")
                self._stream.flush()
        except OSError:
            pass

    def phase(self, name: str) -> None:
        """A phase begins."""
        self.say(messages.Phase(name))

    def progress(self, fraction: float) -> None:
        """How far the phase is; told a hundred times at most."""
        if abs(fraction - self._fraction) >= 0.01:
            self._fraction = fraction
            self.say(messages.Progress(fraction))

    def step(self, step: int, total: int, loss: float) -> None:
        """An optimizer step is done."""
        self.trained = True
        self.say(messages.Step(step, total, loss))

    def note(self, text: str) -> None:
        """A remark."""
        self.say(messages.Note(text))


class Daemon:
    """`trainbus.bus.run.Leader`: the daemon, as the run sees it from here.

    Args:
        pid: Its process.
        announce: As in `messages.Order`.
        reporter: Passes answers on to it.
    """

    def __init__(self, pid: int, announce: bool, reporter: Reporter) -> None:
        self.pid = pid
        self.announce = announce
        self._reporter = reporter
        self._commands: deque[Command] = deque()

    def commands(self) -> list[Command]:
        """What came since the last call."""
        found = []
        while self._commands:
            found.append(self._commands.popleft())
        return found

    def answered(self, result: CommandResult) -> None:
        """Tell the daemon."""
        self._reporter.say(messages.Answer(result=result))

    def listen(self, stream: BinaryIO) -> None:
        """Take commands until the daemon is gone, then end this process as any other signal would: it saves, and ends."""
        for line in stream:
            try:
                self._commands.append(msgspec.json.decode(line, type=Command))
            except DECODE_ERRORS:  # cut by the daemon's death
                break
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Train, and say what came of it."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of libraries are no messages
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the daemon asks a hanging worker where it stands
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=messages.Order)
    reporter = Reporter(output)
    daemon = Daemon(order.daemon, order.announce, reporter)
    threading.Thread(target=daemon.listen, args=(sys.stdin.buffer,), name="lifeline", daemon=True).start()
    with Path(order.lock).open("wb") as lock:
        _wait_for_our_turn(lock, reporter)
        try:
            reporter.say(messages.Done(run_job(order.config, part=order.part, observer=reporter, leader=daemon)))
        except TrainbusError as error:
            reporter.say(messages.Refused(type(error).__name__, error.problem, error.hint, reporter.trained))
            return error.exit_code
    return 0


def _wait_for_our_turn(lock: BinaryIO, reporter: Reporter) -> None:
    """A worker of a daemon that died may still be saving; two must not write into the same output."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        reporter.note("an earlier worker is still saving; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


if __name__ == "__main__":
    sys.exit(main())

"""Runs one command from its start to its end: passes output and keys through, keeps the output, and looks after the rest."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from trainbus.bus.config import BusConfig
from trainbus.bus.hosting.rotation import RotatingFile
from trainbus.bus.joining import Ledger
from trainbus.launch import leftovers
from trainbus.launch.account import Account
from trainbus.launch.child import Child, Stream, start
from trainbus.launch.environment import supervised
from trainbus.launch.keeping import Lines
from trainbus.launch.reading import OutputReader
from trainbus.launch.resources import Resources
from trainbus.launch.signals import Ended, Sent, Signals, block
from trainbus.launch.verdict import Verdict, judge
from trainbus.sources.patterns import BUILT_IN, Pattern

log = logging.getLogger(__name__)

CHUNK = 65_536
SECOND_LOOK = 1.0
LOOK_SECONDS = 5.0
"""Between looks at the process tree."""
LEDGER_SECONDS = 0.2
"""Between looks for training processes that have joined."""
IDLE = 60.0


class Ending(Struct, frozen=True):
    """What `supervise` gives: how it ended, in words, and figures for the last line."""

    ended: Ended
    verdict: Verdict
    seconds: float
    rss: int
    processes: int
    told: list[str]
    stuck: list[str]
    delivered: bool
    opened: int
    log: Path
    log_errors: int


class Supervisor:
    """One command.

    Args:
        command: Its words.
        run: The run's id.
        name: The run's name.
        root: TRAINBUS_HOME.
        cwd: Where it works; None for here.
        environment: Ours.
        inject: Whether frameworks in it are given a callback.
        leave: Whether processes that it leaves behind may stay.
        settings: Of the bus.
        patterns: Of lines of output that tell of steps, before those that are known anyway.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        run: str,
        name: str,
        root: Path,
        cwd: Path | None,
        environment: Mapping[str, str],
        inject: bool,
        leave: bool,
        settings: BusConfig,
        patterns: Sequence[Pattern] = (),
    ) -> None:
        self._command, self._run, self._name, self._root, self._cwd = command, run, name, root, cwd
        self._inject, self._leave, self._settings = inject, leave, settings
        self._environment = environment
        self._kept = RotatingFile(root / "logs" / "exec" / f"{run}.log", settings.log_bytes, settings.log_files)
        self._lines = Lines()
        self._reader = OutputReader([*patterns, *BUILT_IN])
        self._ended: Ended | None = None
        self._over = threading.Event()
        self._keys = bytearray()
        self._joined = self._blind = False
        self._typing = True
        self._wake, self._waker = os.pipe()
        for fd in (self._wake, self._waker):
            os.set_blocking(fd, False)

    def run(self) -> Ending:
        """Until everything is over.

        Raises:
            TrainbusError: The command can't be started.
        """
        began = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="trainbus-exec-"))
        try:
            environment = supervised(self._environment, run=self._run, name=self._name, root=self._root, folder=folder, inject=self._inject)
            taken = block()
            if not self._leave:
                leftovers.adopt()
            self._child = start(self._command, cwd=self._cwd, environment=environment)
            return self._attend(self._child, taken, folder, began)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _attend(self, child: Child, taken: set[int], folder: Path, began: float) -> Ending:
        if child.terminal is not None:
            child.terminal.attend()
        try:
            self._resources = Resources(self._run, child.pid)
            self._account = Account(self._run, self._name, self._command, child.pid, self._root, Ledger(folder), self._settings)
            self._look()  # at once: without a look at the counters before, nothing can be told of a death
            signals = Signals(taken, child.pid, self._told, self._reaped)
            watching = threading.Thread(target=self._watch, name="trainbus-watch", daemon=True)
            watching.start()
            self._pump(child, until=lambda: self._ended is not None)
            told, stuck = ([], []) if self._leave else leftovers.end_leftovers(child.pid, lambda seconds: self._idle(child, seconds))
            while self._pass(child, 0.0):
                pass
        finally:
            if child.terminal is not None:
                child.terminal.restore()
        assert self._ended is not None
        self._lines.close()
        self._over.set()
        watching.join()
        verdict = judge(self._ended, self._lines.last, self._resources.inquest() if self._ended.status else None, signals.received)
        delivered = self._account.end(self._ended, verdict, [*self._lines.last], self._kept.path)
        self._kept.close()
        self._resources.close()
        stats = self._resources.stats()
        return Ending(
            ended=self._ended,
            verdict=verdict,
            seconds=time.monotonic() - began,
            rss=stats.rss,
            processes=stats.processes,
            told=told,
            stuck=stuck,
            delivered=delivered,
            opened=self._account.stats().opened,
            log=self._kept.path,
            log_errors=self._kept.errors,
        )

    # -- in the thread that takes signals

    def _told(self, sent: Sent) -> None:
        terminal = self._child.terminal
        if terminal is not None:
            if sent.number == signal.SIGTSTP:
                terminal.restore()
            elif sent.number == signal.SIGCONT:
                terminal.attend()
            terminal.resize()
        self._wake_up()

    def _reaped(self, ended: Ended) -> None:
        self._ended = ended
        self._wake_up()

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._waker, b"!")

    # -- in the thread that watches

    def _watch(self) -> None:
        """Everything that may take its time: nothing here can hold output or signals up."""
        next_look = time.monotonic() + SECOND_LOOK
        while not self._over.wait(LEDGER_SECONDS):
            try:
                self._joined = self._account.opened()
            except Exception:
                log.exception("trainbus: it can't be seen whether a training has begun in this command")
                return
            if time.monotonic() >= next_look:
                self._look()
                next_look = time.monotonic() + LOOK_SECONDS

    def _look(self) -> None:
        """A system whose files are of an unknown form costs the figures, not the command."""
        try:
            for metric in self._resources.look():
                self._account.publish(metric)
        except Exception as error:  # noqa: BLE001 - said once, below
            if not self._blind:
                log.warning("trainbus: what this command uses can't be seen: %r", error)
            self._blind = True

    # -- in the main thread

    def _pump(self, child: Child, until: Callable[[], bool]) -> None:
        while not until():
            self._pass(child, IDLE)

    def _idle(self, child: Child, seconds: float) -> None:
        self._pass(child, seconds)

    def _pass(self, child: Child, seconds: float) -> bool:
        """Pass on what is there, waiting at most so long for something; False when there was nothing."""
        terminal = child.terminal
        reading = [self._wake, *(stream.source for stream in child.streams)]
        writing = []
        if terminal is not None and terminal.attended:
            if self._keys:
                writing.append(terminal.master)
            elif self._typing:
                reading.append(0)
        ready, writable, _ = select.select(reading, writing, [], seconds)
        if self._wake in ready:
            os.read(self._wake, CHUNK)
        if terminal is not None and 0 in ready:
            typed = _read(0)
            self._typing = typed is not None  # else the terminal has been closed
            self._keys += typed or b""
        if terminal is not None and (self._keys and (0 in ready or writable)):
            with contextlib.suppress(BlockingIOError, OSError):
                del self._keys[: os.write(terminal.master, self._keys)]
        moved = False
        for stream in [stream for stream in child.streams if stream.source in ready]:
            data = _read(stream.source)
            if data is None:
                child.streams.remove(stream)
                continue
            moved = True
            self._kept.write(data)
            self._lines.feed(stream.sink, data)
            _write(stream.sink, data)
            self._read_lines(stream, data)
        return moved

    def _read_lines(self, stream: Stream, data: bytes) -> None:
        """Only as long as no training process publishes by itself: it knows more than it prints."""
        found = [] if self._joined else self._reader.feed(stream.sink, data)
        if found and not self._account.joined():  # what it printed may be seen here before it is seen to have joined
            for event in found:
                self._account.publish(event)


def _read(source: int) -> bytes | None:
    """What is there; None at the end (of a terminal, EIO)."""
    try:
        return os.read(source, CHUNK) or None
    except BlockingIOError:
        return b""
    except OSError:
        return None


def _write(sink: int, data: bytes) -> None:
    """All of it. A reader that has gone away (`| head`) or a terminal that was closed costs its output, not the training."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(sink, view) :]
        except BlockingIOError:  # somebody else has made our terminal non-blocking
            select.select([], [sink], [])
        except OSError:
            return

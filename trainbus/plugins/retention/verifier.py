"""Reads newest checkpoints in a thread of its own: comparing gigabytes with their digests takes minutes that no hook has."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

from msgspec import Struct

from trainbus.plugins.retention.verify import Stopped, verify


class Verified(Struct, frozen=True, kw_only=True):
    """What came out: why the checkpoint is not whole, or nothing; ``error`` when it could not be told."""

    id: str
    faults: tuple[str, ...] = ()
    error: str = ""


class Verifier:
    """Verifies one directory after the other. The thread is a daemon: the end of the process never waits for a disk."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._waiting: queue.SimpleQueue[tuple[str, Path] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Verified] = queue.SimpleQueue()
        self._pending: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="trainbus-retention-verifier", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def ask(self, identity: str, path: Path) -> None:
        """Verify a checkpoint soon. Asking again while it waits changes nothing."""
        if identity not in self._pending:
            self._pending.add(identity)
            self._waiting.put((identity, path))

    def answers(self) -> list[Verified]:
        """What is known since the last call."""
        found = []
        while not self._done.empty():
            answer = self._done.get()
            self._pending.discard(answer.id)
            found.append(answer)
        return found

    def pending(self) -> int:
        """How many are being verified or wait."""
        return len(self._pending)

    def close(self, timeout: float = 1.0) -> None:
        """Stop, also in the middle of a file."""
        self._stop.set()
        self._waiting.put(None)
        self._thread.join(timeout)

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None and not self._stop.is_set():
            identity, path = task
            try:
                found = verify(path, progress=lambda _: not self._stop.is_set())
                if found.kind or found.sealed:
                    self._done.put(Verified(id=identity, faults=found.faults))
                else:
                    self._done.put(Verified(id=identity, error="it is of no kind that can be recognised"))
            except Stopped:
                return
            except ModuleNotFoundError as error:
                self._done.put(Verified(id=identity, error=f"{error.name} is missing: pip install 'trainbus[retention]'"))
            except OSError as error:
                self._done.put(Verified(id=identity, error=str(error)))

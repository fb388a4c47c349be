"""A thread that does one thing after the other and wakes the loop when each is done."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeAlias

Job: TypeAlias = Callable[[], Callable[[], None]]
"""Runs in the worker's thread; what it returns runs in the loop's."""


class Worker:
    """Runs jobs in a thread of its own.

    Args:
        name: The thread's name.
        wake: Called from the worker's thread after each job; must be safe there.
        ending: Called in the worker's thread after the last job.
    """

    def __init__(self, name: str, wake: Callable[[], None], ending: Callable[[], None] = lambda: None) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._done: deque[Callable[[], None]] = deque()
        self._wake = wake
        self._ending = ending
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Run ``job`` after those submitted before."""
        self._jobs.put(job)

    @property
    def finished(self) -> bool:
        """Whether `finish` has something to do."""
        return bool(self._done)

    def finish(self) -> None:
        """Run, in the calling thread, what the finished jobs returned; an exception that a job did not expect is raised here."""
        while self._done:
            self._done.popleft()()

    def close(self, timeout: float) -> bool:
        """End after the jobs submitted so far; whether that happened within ``timeout`` seconds."""
        self._jobs.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                then = job()
            except BaseException as error:  # noqa: BLE001 - not swallowed: it is raised again where it can end the process
                then = partial(_raise, error)
            self._done.append(then)
            self._wake()
        self._ending()


def _raise(error: BaseException) -> None:
    raise error

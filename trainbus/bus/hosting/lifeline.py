"""A child ends when its supervisor does, also when its own event loop hangs.

The supervisor holds the writing end of a pipe and nobody writes. When it dies, however it dies, the kernel closes the pipe and
a thread of the child sees it. (PR_SET_PDEATHSIG was the other way: it follows the parent's *thread* and leaves no time to stop.)
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable


class Lifeline:
    """Watches ``fd``; calls ``stop`` when it ends, and ends the process by force ``grace`` seconds later.

    Args:
        fd: Reading end of the pipe.
        grace: Seconds for an orderly end.
        stop: Asks for the orderly end; called in the watching thread.
        last: Called right before the end by force.
    """

    def __init__(self, fd: int, grace: float, stop: Callable[[], None], last: Callable[[], None] = lambda: None) -> None:
        self.stop = stop
        self.last = last
        self._fd = fd
        self._grace = grace
        threading.Thread(target=self._watch, name="trainbus-lifeline", daemon=True).start()

    def _watch(self) -> None:
        while os.read(self._fd, 64):
            pass
        try:
            self.stop()
            time.sleep(self._grace)
            self.last()
        finally:  # whatever these raise (the pipe that a message would go to died with the supervisor), the end must come
            end_group()


def leave_nothing() -> None:
    """Ask what this process started, and left running, to end too. Called as the last thing of an orderly end: nobody else may be there
    to do it.
    """
    if os.getpgrp() == os.getpid():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process itself ends by itself
        os.killpg(os.getpid(), signal.SIGTERM)


def end_group() -> None:
    """End this process now, with what it started when it leads a process group of its own."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)

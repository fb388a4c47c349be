"""A call that may take a limited time, whatever it does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class StuckError(Exception):
    """A call did not come back in time."""


class Timebox:
    """Runs calls in a thread, so that who waits can give up.

    A thread can't be ended from outside: after a call that did not come back, this box takes no more, and the thread is left behind.
    """

    def __init__(self) -> None:
        self.stuck = False

    def run(self, call: Callable[[], T], seconds: float) -> T:
        """The result of ``call``, or what it raises.

        Raises:
            StuckError: It took longer than ``seconds``, or an earlier call still runs.
        """
        if self.stuck:
            raise StuckError("an earlier call has not come back")
        outcome: dict[str, Any] = {}

        def work() -> None:
            try:
                outcome["result"] = call()
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                outcome["error"] = error

        thread = threading.Thread(target=work, name="trainbus-timebox", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            self.stuck = True
            raise StuckError(f"no result after {seconds:g} s")
        if "error" in outcome:
            raise outcome["error"]
        result: T = outcome["result"]
        return result

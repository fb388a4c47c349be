"""How a worker's death is told. What explains it is lent by who starts the daemon; without, its exit code has to do."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

DISK_FULL = "disk_full"
"""Kind of a death that is no fault of the file: it goes on when there is room again."""
HANG = "hang"


class Crash(Struct, frozen=True, kw_only=True):
    """What became of a worker: a word for it, a sentence, what to do next, and what it is concluded from."""

    kind: str
    reason: str
    advice: str = ""
    proof: tuple[str, ...] = ()


class Inquest(Protocol):
    """Knows one worker while it lives, and says why it died."""

    def look(self) -> None:
        """It lives; called now and then."""

    def verdict(self, code: int, lines: Sequence[str]) -> Crash:
        """It is dead: its exit code as `subprocess` gives it, and the last lines of its output."""

    def close(self) -> None:
        """Nothing more is asked."""


Inquests: TypeAlias = Callable[[str, int], Inquest]
"""``inquests(run, pid)``."""


class PlainInquest:
    """The exit code in words, with the worker's last words."""

    def __init__(self, run: str, pid: int) -> None:
        pass

    def look(self) -> None:
        """Nothing."""

    def verdict(self, code: int, lines: Sequence[str]) -> Crash:
        """The exit code or signal, and the last line."""
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        words = f"; its last words: {last}" if last else ""
        return Crash(kind="unknown", reason=f"the worker ended with {how}{words}", proof=(how,))

    def close(self) -> None:
        """Nothing."""


def hanging(problem: str) -> Crash:
    """A worker that was ended because it hung."""
    advice = "Its log shows where each thread stood. Raise trainer.hang_seconds if such a step is no hang; 0 turns this off."
    return Crash(kind=HANG, reason=problem, advice=advice, proof=(problem,))

"""Why a worker of the trainer died: what `trainbus exec` concludes of a command, lent to the trainer's daemon."""

from __future__ import annotations

from collections.abc import Sequence

from trainbus.launch.keeping import ESCAPES, MAX_LINE
from trainbus.launch.resources import Resources
from trainbus.launch.signals import Ended
from trainbus.launch.verdict import judge
from trainbus.trainer_node.inbox.crash import Crash


class LaunchInquest:
    """`trainbus.trainer_node.inbox.crash.Inquest` by the kernel's counters and the patterns of `trainbus.launch.causes`.

    Args:
        run: Whose worker it is.
        pid: Its process.
    """

    def __init__(self, run: str, pid: int) -> None:
        self._resources = Resources(run, pid)
        self.look()

    def look(self) -> None:
        """Remember how it stands: only what was seen alive can be compared with what the kernel counts afterwards."""
        self._resources.look()

    def verdict(self, code: int, lines: Sequence[str]) -> Crash:
        """As `trainbus exec` would say of a command that nobody has asked to end."""
        plain = [text for line in lines if (text := ESCAPES.sub("", line).rstrip()[:MAX_LINE])]
        ended = Ended(code if code >= 0 else None, -code if code < 0 else None)
        found = judge(ended, plain, self._resources.inquest(), ())
        return Crash(kind=found.kind, reason=found.reason, advice=found.advice, proof=tuple(found.proof))

    def close(self) -> None:
        """Let files and libraries go."""
        self._resources.close()

"""The last lines of the command's output."""

from __future__ import annotations

import re
from collections import deque

from trainbus.bus.hosting.output import LineSplitter

LAST_LINES = 40
"""Enough for a traceback; an event carries them."""
MAX_LINE = 500
"""Characters of a line that are remembered."""
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")


class Lines:
    """The last lines of the output, without colours and without what a progress bar has wiped out."""

    def __init__(self) -> None:
        self._splitters: dict[int, LineSplitter] = {}
        self.last: deque[str] = deque(maxlen=LAST_LINES)

    def feed(self, stream: int, data: bytes) -> None:
        """Bytes of one stream; standard output and standard error are not mixed within a line."""
        splitter = self._splitters.setdefault(stream, LineSplitter())
        for line in splitter.feed(data):
            self._add(line)

    def close(self) -> None:
        """No more comes: what is not ended by a newline is a line, too."""
        for splitter in self._splitters.values():
            for line in splitter.close():
                self._add(line)

    def _add(self, line: str) -> None:
        text = ESCAPES.sub("", line).rstrip()
        if text:
            self.last.append(text[:MAX_LINE])

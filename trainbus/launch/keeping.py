"""The command's output in a file, byte for byte, rotated; and its last lines."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path
from typing import IO

from trainbus.bus.home import private_directory
from trainbus.bus.hosting.output import LineSplitter

LAST_LINES = 40
"""Enough for a traceback; an event carries them."""
MAX_LINE = 500
"""Characters of a line that are remembered."""
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")


class KeptOutput:
    """``path`` and, when it is full, ``path.1`` and so on: at most ``files`` files of about ``size`` bytes.

    A disk that is full costs what was to be kept and nothing else: it is counted, and the command goes on.
    """

    def __init__(self, path: Path, size: int, files: int) -> None:
        self.path = path
        self.errors = 0
        self._size, self._files = size, files
        self._file: IO[bytes] | None = None
        self._written = 0

    def write(self, data: bytes) -> None:
        """Append bytes as they came."""
        try:
            if self._file is None:
                private_directory(self.path.parent)
                self._file = self.path.open("ab", buffering=0)
                self._written = self._file.tell()
            if self._written and self._written + len(data) > self._size:
                self._rotate()
            self._written += self._file.write(data)
        except OSError:
            self.errors += 1

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rotate(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
        for number in range(self._files - 1, 0, -1):
            older = self.path if number == 1 else self.path.with_name(f"{self.path.name}.{number - 1}")
            if older.exists():
                older.replace(self.path.with_name(f"{self.path.name}.{number}"))
        self._file = self.path.open("wb", buffering=0)
        self._written = 0


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

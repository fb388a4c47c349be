"""What children print: cut into lines, kept in rotating files, shown with a coloured prefix."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from itertools import accumulate
from pathlib import Path

from rich.console import Console
from rich.text import Text

from trainbus.bus.home import private_directory
from trainbus.bus.hosting.kept import last_lines
from trainbus.bus.hosting.rotation import RotatingFile

MAX_LINE_BYTES = 16 * 1024
"""A longer line (a progress bar without end, binary by mistake) is cut into several: memory stays bounded."""

TAIL_BYTES = 256 * 1024
"""So much of a kept log's last lines fits through the bus in one answer."""

LAST_LINES = 20
"""Lines that are remembered, to tell why a child died."""

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")


class LineSplitter:
    """Bytes in, lines out. Broken UTF-8 becomes U+FFFD, a carriage return begins the line anew (progress bars)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > MAX_LINE_BYTES:
            whole.append(self._rest[:MAX_LINE_BYTES])
            self._rest = self._rest[MAX_LINE_BYTES:]
        return [_text(line) for line in whole]

    def close(self) -> list[str]:
        """The last line, when it does not end in a newline."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


class KeptLog:
    """``logs/NAME.log``: lines with their times in a `RotatingFile`."""

    def __init__(self, path: Path, size: int, files: int) -> None:
        private_directory(path.parent)
        self._file = RotatingFile(path, size, files)

    @property
    def errors(self) -> int:
        """Lines that could not be written."""
        return self._file.errors

    def write(self, line: str) -> None:
        """Append one line with its time."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
        self._file.write(f"{stamp} {line}\n".encode("utf-8", "replace"))

    def tail(self, lines: int) -> list[str]:
        """The last ``lines`` lines, as far as `TAIL_BYTES` reach; none when they can't be read."""
        try:
            found, newest = last_lines(self._file.path, max(0, lines))
        except OSError:
            return []
        if newest is not None:
            newest.close()
        fit = sum(reach <= TAIL_BYTES for reach in accumulate(map(len, reversed(found))))
        return [line.decode("utf-8", "replace").rstrip("\n") for line in found[len(found) - fit :]]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Output:
    """The output of one child.

    Args:
        name: Shown as the prefix.
        log: Where it is kept.
        console: Where it is shown; None for nowhere (detached).
        colour: Of the prefix.
    """

    def __init__(self, name: str, log: KeptLog, console: Console | None = None, colour: str = "cyan") -> None:
        self._splitter = LineSplitter()
        self._log = log
        self._console = console
        self._prefix = Text(f"{name:>10} | ", style=colour)
        self.last: deque[str] = deque(maxlen=LAST_LINES)

    def feed(self, data: bytes) -> None:
        """Bytes that the child printed."""
        for line in self._splitter.feed(data):
            self._line(line)

    def tail(self, lines: object) -> list[str]:
        """The last lines that are kept, each with its time. ``lines`` comes from a request: what is no whole number counts as none."""
        return self._log.tail(lines) if isinstance(lines, int) else []

    def end(self) -> None:
        """This incarnation of the child prints no more."""
        for line in self._splitter.close():
            self._line(line)

    def say(self, line: str) -> None:
        """A line of the supervisor's own about this child."""
        self._line(line)

    def close(self) -> None:
        """Close the kept log."""
        self._log.close()

    def _line(self, line: str) -> None:
        self.last.append(line)
        self._log.write(line)
        if self._console is not None:
            # It may be a file on a full disk: a line is lost then. If an error got out of here, nobody
            # would read this child's output any more, and the child would hang in its next print.
            with contextlib.suppress(OSError):
                # Text and not markup: a plugin may print brackets; from_ansi keeps the child's own colours.
                self._console.print(Text.assemble(self._prefix, Text.from_ansi(line)), soft_wrap=True, highlight=False)


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")

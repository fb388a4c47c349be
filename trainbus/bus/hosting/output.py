"""What children print: cut into lines, kept in rotating files, shown with a coloured prefix."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import time
from collections import deque
from pathlib import Path

from rich.console import Console
from rich.text import Text

from trainbus.bus.home import private_directory

MAX_LINE_BYTES = 16 * 1024
"""A longer line (a progress bar without end, binary by mistake) is cut into several: memory stays bounded."""

TAIL_BYTES = 256 * 1024
"""Of a kept log so much is looked at for its last lines, and so much of an answer fits through the bus."""

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
    """``logs/NAME.log``: at most ``files`` files of ``size`` bytes. A full disk is counted, and stops nobody."""

    def __init__(self, path: Path, size: int, files: int) -> None:
        private_directory(path.parent)
        self.errors = 0
        self._handler = _Handler(self, path, size, files)

    def write(self, line: str) -> None:
        """Append one line with its time."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
        self._handler.emit(logging.makeLogRecord({"msg": f"{stamp} {line}"}))

    def tail(self, lines: int) -> list[str]:
        """The last ``lines`` lines of the newest file, as far as `TAIL_BYTES` reach; none when it can't be read."""
        try:
            with Path(self._handler.baseFilename).open("rb") as file:
                begin = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
                file.seek(begin)
                found = file.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        return found[1 if begin else 0 :][-lines:] if lines > 0 else []

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


class _Handler(logging.handlers.RotatingFileHandler):
    def __init__(self, owner: KeptLog, path: Path, size: int, files: int) -> None:
        # A backup count of 0 would never rotate at all.
        super().__init__(path, maxBytes=size, backupCount=max(1, files - 1), encoding="utf-8", errors="replace", delay=True)
        self._owner = owner

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        self._owner.errors += 1


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
            # Of a detached supervisor this is a file, and its disk may be full: a line is lost then. If an error got out of here, nobody
            # would read this child's output any more, and the child would hang in its next print.
            with contextlib.suppress(OSError):
                # Text and not markup: a plugin may print brackets; from_ansi keeps the child's own colours.
                self._console.print(Text.assemble(self._prefix, Text.from_ansi(line)), soft_wrap=True, highlight=False)


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")

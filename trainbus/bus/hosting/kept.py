"""Reading kept logs while they are written and rotated: the last lines, and every line that comes."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from trainbus.bus.hosting.rotation import parts, rotated

POLL = 0.2
"""Seconds between looks at a log that grows."""
LATER = 5
"""Rotations that may happen between a look at the folder and one at its files."""
CHUNK = 64 * 1024
"""Bytes of one look. A line that is longer comes in pieces: progress bars may have no end of line for hours."""


def last_lines(path: Path, count: int) -> tuple[list[bytes], BinaryIO | None]:
    """The last ``count`` whole lines of a log, and its newest file, open behind them; None when there is no file at all."""
    newest = _newest(path)
    lines: deque[bytes] = deque(maxlen=count)
    if newest is not None:
        for line in newest:
            if not line.endswith(b"\n"):  # being written: it comes later
                newest.seek(-len(line), os.SEEK_CUR)
                break
            lines.append(line)
    for part in reversed(parts(path)):
        if len(lines) >= count:
            break
        older = _open(part)
        if older is None or (newest is not None and os.path.sameopenfile(older.fileno(), newest.fileno())):
            continue
        with older:
            lines.extendleft(reversed(deque(older, maxlen=count - len(lines))))
    return list(lines), newest


def following(
    path: Path, file: BinaryIO | None, *, lost: Callable[[], None], pause: Callable[[float], None] = time.sleep
) -> Iterator[bytes]:
    """Every line that comes, once: a file that was rotated away is read to its end, then those that followed it.

    Args:
        path: The log.
        file: One of its files, open where reading begins; closed here. None: there is none yet.
        lost: Called when lines were rotated away faster than they were read.
        pause: Waits between looks.
    """
    rest = b""
    while True:
        if file is None:
            file = _open(path)
        while file is not None and (data := file.read(CHUNK)):
            *whole, rest = (rest + data).split(b"\n")
            yield from whole
            if len(rest) > CHUNK:
                yield rest
                rest = b""
        newer = None if file is None else _successor(path, file, lost)
        if file is None or newer is None:
            pause(POLL)
            continue
        *whole, last = (rest + file.read()).split(b"\n")  # what came before it was rotated away; nothing is added to it any more
        yield from [*whole, last] if last else whole
        rest = b""
        file.close()
        file = newer


def _successor(path: Path, file: BinaryIO, lost: Callable[[], None]) -> BinaryIO | None:
    """The file that follows ``file``; None while that is the newest, or when names are just being changed.

    Numbers only grow, so a search upwards can't miss a file that is renamed meanwhile (listing the folder can), and the oldest is renamed
    first: while ours has its name still, so has the one after it.
    """
    inode = os.fstat(file.fileno()).st_ino
    chain = parts(path)
    ours = next((number for number in range(_number(path, chain) + LATER) if _inode(rotated(path, number)) == inode), None)
    if ours == 0:
        return None
    if ours is None:
        if os.fstat(file.fileno()).st_nlink or not chain:  # it has a name: only not the one that it had a moment ago
            return None
        lost()
        return _open(chain[0])
    for number in range(ours - 1, -1, -1):  # one that is missing was left out by a kill between two renames
        if (newer := _open(rotated(path, number))) is not None:
            between = any(rotated(path, other).exists() for other in range(number + 1, ours))
            if _inode(rotated(path, ours)) == inode and not between:
                return newer
            newer.close()
            return None
    return None


def _number(path: Path, chain: list[Path]) -> int:
    return int(chain[0].name.removeprefix(path.name).removeprefix(".") or 0) if chain else 0


def _newest(path: Path) -> BinaryIO | None:
    while chain := parts(path):
        if (found := _open(chain[-1])) is not None:  # else it was renamed between these two lines
            return found
    return None


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None

"""Reading the kernel's small text files, and the error that says why something is not known."""

from __future__ import annotations

from pathlib import Path

KIB = 1024


class UnknownError(Exception):
    """A value can't be known here; the message is the reason, in words. Never stands for zero."""


def read_text(path: Path) -> str:
    """The whole file.

    Raises:
        UnknownError: It can't be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - ten times a second: no buffer, no decoder
            return file.read(1 << 20).decode("utf-8", "replace")
    except OSError as error:
        # EOPNOTSUPP is what a kernel with psi=0 answers to a read of an existing file.
        raise UnknownError(f"{path} can't be read: {error.strerror or error}") from error


def sizes(text: str) -> dict[str, int]:
    """Bytes by name of lines like ``MemTotal:  123 kB``; lines that are no sizes (HugePages_Total) or are torn are left out."""
    fields = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        match rest.split():
            case [value, "kB"] if value.isdigit():
                fields[name] = int(value) * KIB
    return fields


def counters(text: str) -> dict[str, int]:
    """Numbers by name of lines like ``oom_kill 3``; others are left out."""
    found = {}
    for line in text.splitlines():
        match line.split():
            case [name, value] if value.isdigit():
                found[name] = int(value)
    return found

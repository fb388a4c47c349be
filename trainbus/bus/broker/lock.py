"""One broker for each journal."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from trainbus.errors import JournalError


class ExclusiveLock:
    """An advisory lock on a file that is held until `release`, or until the process ends in whatever way.

    Raises:
        JournalError: Somebody holds it; ``facts["pid"]`` says who.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Append mode creates the file without harming the pid that another holder wrote into it.
            self._file = path.open("a+b")
        except OSError as error:
            raise JournalError(f"{path} can't be created: {error.strerror}.", hint="Check the folder's rights.", file=str(path)) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read(32).decode("ascii", "replace").strip()
            self._file.close()
            pid = int(holder) if holder.isdecimal() else None
            who = f"process {pid}" if pid else "another process"
            raise JournalError(
                f"{path.with_suffix('')} is in use by {who}: one broker runs for each journal.",
                hint="Use the broker that runs (`trainbus status`), stop it (`trainbus down`), or set TRAINBUS_HOME to another folder.",
                file=str(path),
                pid=pid,
            ) from error
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n".encode())
        self._file.flush()

    def release(self) -> None:
        """Let others have it. The file stays: unlinking it would let two holders lock two files of the same name."""
        self._file.close()

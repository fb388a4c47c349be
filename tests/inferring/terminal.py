"""A terminal with a command in it, as a person has it."""

from __future__ import annotations

import os
import pty
import select
import time

DEADLINE = 90.0


class Terminal:
    """``line`` runs in it; `read_until` waits for what appears after the last thing that was waited for."""

    def __init__(self, line, **environment):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm", "COLUMNS": "500", **environment})
            os.execv(line[0], line)
        self.seen, self.read = b"", 0

    def read_until(self, word):
        """What came until then."""
        deadline = time.monotonic() + DEADLINE
        while (place := self.seen.find(word, self.read)) < 0:
            assert time.monotonic() < deadline, self.seen
            assert self._more(0.1), self.seen
        found, self.read = self.seen[self.read : place + len(word)], place + len(word)
        return found

    def read_more(self):
        """Wait until anything more appears."""
        deadline = time.monotonic() + DEADLINE
        while len(self.seen) <= self.read:
            assert time.monotonic() < deadline, self.seen
            assert self._more(0.1), self.seen

    def type(self, data):
        """As the keyboard does."""
        os.write(self.master, data)

    def end(self):
        """Exit code of what ran in it."""
        deadline = time.monotonic() + DEADLINE
        while self._more(0.02):
            assert time.monotonic() < deadline, self.seen
        os.close(self.master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _more(self, wait):
        """False when nobody can write any more."""
        if select.select([self.master], [], [], wait)[0]:
            try:
                data = os.read(self.master, 65_536)
            except OSError:
                return False
            self.seen += data
            return bool(data)
        return True

"""A pseudo-terminal for the command in the place of the person's terminal, so that progress bars, colours and Ctrl-C stay as they are.

The command gets the slave as its controlling terminal. The person's terminal is raw meanwhile: every key goes through, and the slave's
line discipline makes of Ctrl-C what it always makes of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import termios
import tty

WINDOW = b"\0" * 8
OPOST = 1


class Terminal:
    """The person's terminal and the pseudo-terminal that stands for it.

    Args:
        shown: Descriptor of the terminal on which output is shown.
        keys: Descriptor of the terminal that keys come from; None when standard input is no terminal.

    Attributes:
        master: Our end.
        slave: The command's end; closed by `started`.
    """

    def __init__(self, shown: int, keys: int | None) -> None:
        self.master, self.slave = pty.openpty()
        self._shown, self._keys = shown, keys
        self._before = termios.tcgetattr(keys if keys is not None else shown)
        self._raw = False
        settings = [*self._before]
        if keys is None:
            # The real terminal stays as it is and ends lines itself: the slave must not do it a second time.
            settings[OPOST] &= ~termios.OPOST
        termios.tcsetattr(self.slave, termios.TCSANOW, settings)
        os.set_blocking(self.master, False)
        self.resize()

    def take_control(self) -> None:
        """In the child, before the command: make the slave its controlling terminal."""
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

    def started(self) -> None:
        """The child has its own copy of the slave: only when nobody has it any more does the master end."""
        os.close(self.slave)

    @property
    def attended(self) -> bool:
        """Whether keys are for us now: not when the shell has put us into the background."""
        return self._raw

    def attend(self) -> None:
        """Take the keys, if we are in the foreground; called at the beginning and after each SIGCONT."""
        if self._keys is None or self._raw:
            return
        with contextlib.suppress(OSError, termios.error):
            if os.tcgetpgrp(self._keys) == os.getpgrp():
                tty.setraw(self._keys, termios.TCSANOW)
                self._raw = True

    def resize(self) -> None:
        """Give the slave the size of the real window; the command is told by SIGWINCH as ever."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, fcntl.ioctl(self._shown, termios.TIOCGWINSZ, WINDOW))

    def restore(self) -> None:
        """Give the person's terminal back as it was."""
        if self._raw and self._keys is not None:
            self._raw = False
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)


def terminal_of(stdin: int = 0, stdout: int = 1, stderr: int = 2) -> Terminal | None:
    """A pseudo-terminal when any standard stream is a terminal; else None."""
    shown = next((fd for fd in (stdout, stderr, stdin) if os.isatty(fd)), None)
    return None if shown is None else Terminal(shown, stdin if os.isatty(stdin) else None)

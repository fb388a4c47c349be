"""Where the broker is: told once, or read from the connection file and read again when it changes."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from trainbus.bus.credentials import at_address, chosen, find_broker, secure
from trainbus.bus.home import Connection, connection_file, read_connection
from trainbus.errors import ConfigError, UnreachableError


class Finder:
    """Follows a broker to the addresses on which it listens now. A token in the environment stands in for the connection file.

    Args:
        root: State directory whose connection file is followed; None is TRAINBUS_HOME or the platform's state folder.
        router: Address of the broker's request socket. Given, no file is read.
        xpub: Address of its fan-out socket, where a reader needs that.
    """

    def __init__(self, root: Path | None = None, router: str | None = None, xpub: str | None = None) -> None:
        if xpub and not router:
            hint = "Give both addresses, or none to follow the connection file."
            raise ConfigError(f"xpub={xpub!r} was given without router.", hint=hint, key="router", found=None)
        credentials = chosen(root) if router is None else None
        self.fixed = router is not None or credentials is not None
        self._path = connection_file(root)
        self._root = root
        self._stamp: tuple[int, int, int] | None = None
        self.known: Connection | None = None
        if router is not None:
            self.known = at_address(root, router, xpub or "")
        elif credentials is not None:
            self.known = credentials.connection()

    def secure(self, socket: Any) -> None:
        """Give a socket the keys for the broker that `look` names, before it connects.

        Raises:
            RefusedError: The broker asks for a key, and there is none here.
        """
        if self.known is not None:
            secure(socket, self.known, self._root)

    def look(self) -> Connection | None:
        """Where the broker was last said to be; None when nothing says so. Costs one stat() while nothing changes."""
        if self.fixed:
            return self.known
        try:
            status = self._path.stat()
        except OSError:
            # A broker that was stopped in order takes its file away; its last addresses are of no use to anybody.
            self._stamp, self.known = None, None
            return None
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            try:
                self.known, self._stamp = read_connection(self._root), stamp
            except UnreachableError:
                self.known = None
        return self.known

    def hopeless(self) -> bool:
        """Whether it is certain that nothing listens and nobody is about to start it: no file, or one whose processes are all dead."""
        if self.fixed:
            return False
        connection = self.look()
        if connection is None:
            return True
        return not (may_live(connection, connection.pid) or may_live(connection, connection.supervisor))

    def unreachable(self, waited: float, doing: str, reason: str = "") -> UnreachableError:
        """The error for a broker that did not answer in time, with what is known of why; ``reason``: of its last handshake."""
        connection = self.look()
        if connection is None:
            try:
                connection = find_broker(self._root)
            except UnreachableError as error:
                return error
        facts = {"router": connection.router, "waited": round(waited, 3), "pid": connection.pid or None, "file": str(self._path)}
        if reason:
            hint = "`trainbus keys list` on the broker's machine shows its keys; `trainbus keys invite NAME` there makes a new token."
            return UnreachableError(f"The broker at {connection.router} lets nobody in here ({doing}): {reason}.", hint=hint, **facts)
        if self.fixed:
            hint = "Is the address right, and does the broker run? `trainbus status` on its machine shows both."
            return UnreachableError(f"No broker answered at {connection.router} within {waited:.1f} s ({doing}).", hint=hint, **facts)
        if not may_live(connection, connection.pid):
            problem = f"The broker that {self._path} names (process {connection.pid}) is dead ({doing})."
            return UnreachableError(
                problem, hint="Start it with `trainbus up`; nothing that it had acknowledged is lost.", alive=False, **facts
            )
        problem = f"The broker (process {connection.pid}, {connection.router}) did not answer within {waited:.1f} s ({doing})."
        look = f"`ps -o stat,etime,cmd -p {connection.pid}`"
        hint = f"Is it stopped or overloaded? Look at it with {look}, and at its log in {self._path.parent / 'logs'}."
        return UnreachableError(problem, hint=hint, alive=True, **facts)


def may_live(connection: Connection, pid: int | None) -> bool:
    """Whether a process of the broker's machine may be alive; on another machine nobody here can tell, and it may."""
    if pid is None:
        return False
    if connection.host and connection.host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

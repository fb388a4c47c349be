"""Who is let in, and what they may do: the book of keys as the running broker sees it. Whatever can't be decided is refused.

The `Door` answers the key checker's thread at each handshake, by the book as it is written at that moment. The `Gate` is the loop's: it
knows the rights of those who are in, and notices when somebody has to leave.
"""

from __future__ import annotations

import time
from pathlib import Path

from trainbus.bus import wire
from trainbus.bus.broker.keystore import Book, Client, book_file, read_book
from trainbus.bus.broker.roles import refusal
from trainbus.bus.credentials import LOCAL
from trainbus.errors import ConfigError

Stamp = tuple[int, int, int]


class Door:
    """Decides about handshakes. Belongs to one thread.

    Args:
        root: TRAINBUS_HOME.
    """

    def __init__(self, root: Path) -> None:
        self.refused = 0
        self._root = root
        self._stamp: Stamp | None = None
        self._valid: dict[str, Client] = {}

    def admit(self, public_key: str) -> tuple[bytes, bytes, bytes]:
        """Status, text and user id for ZAP: 200 let in, 400 not let in, 300 can't tell."""
        stamp = _stamp(self._root)
        if stamp is None or stamp != self._stamp:
            try:
                book = read_book(self._root)
            except ConfigError:
                book = None
            if book is None:
                self._stamp = None
                self.refused += 1
                return b"300", b"keys can't be read", b""
            self._stamp, self._valid = stamp, {client.public_key: client for client in book.clients}
        client, now = self._valid.get(public_key), time.time_ns()
        if client is None or not client.valid(now):
            self.refused += 1
            return b"400", b"unknown key", b""
        return b"200", b"OK", client.name.encode()


class Gate:
    """The rights of those who are in.

    Args:
        root: TRAINBUS_HOME.

    Raises:
        ConfigError: There is a book that can't be read.
    """

    def __init__(self, root: Path) -> None:
        self.problem = ""
        """Why the book can't be read at the moment: then those who are in stay, and nobody else is let in."""
        self.book: Book | None = None
        self._root = root
        self._stamp: Stamp | None = None
        self._clients: dict[str, Client] = {}
        self._leave = False
        self._read()
        self._leave = False  # nobody is in yet

    @property
    def keyed(self) -> bool:
        """Whether there are keys: then nobody comes in without one. Once there were, there are until the broker ends."""
        return self.book is not None

    def look(self) -> bool:
        """Read the book again when it has changed, and see whose time is over.

        Returns:
            Whether connections must be made anew: a key was revoked, has expired or got another role, the broker's own pair was
            renewed, or these are the first keys.
        """
        try:
            self._read()
            self.problem = ""
        except ConfigError as error:
            self.problem = error.problem
        leave, self._leave = self._leave, False
        return leave

    def authorize(self, user: str, message: wire.AnyMessage) -> str:
        """Why the client ``user`` may not send this; "" when it may."""
        if self.book is None:
            return ""
        if user not in self._clients:  # invited a moment ago: the door knows it already
            leave = self._leave
            self._leave = self.look() or leave
        client = self._clients.get(user)
        if client is None:
            return f"The key {user!r} is not in use any more."
        if client.name != LOCAL and isinstance(message, wire.Call) and isinstance(message.request, wire.SendCommand):
            # What a caller says of itself is kept, but who it is stands beside it.
            said = message.request.requested_by
            message.request.requested_by = f"{said} (key {client.name})" if said else f"key {client.name}"
        return refusal(client.name, client.role, message)

    def status(self, refused: int) -> wire.KeysStatus:
        """Figures at this moment."""
        revision = self.book.revision if self.book is not None else 0
        return wire.KeysStatus(clients=len(self._clients), revision=revision, refused=refused, problem=self.problem)

    def _read(self) -> None:
        stamp = _stamp(self._root)
        before = self.book
        if stamp is None or stamp != self._stamp:
            book = read_book(self._root)
            if book is None and before is not None:
                raise ConfigError(f"{book_file(self._root)} is gone: nobody is let in until it is back.", key="keys")
            self.book, self._stamp = book, stamp
        if self.book is None:
            return
        clients = {client.name: client for client in self.book.valid(time.time_ns()).values()}
        left = any(clients.get(name) != client for name, client in self._clients.items())
        renewed = before is None or before.public_key != self.book.public_key
        self._leave = self._leave or left or renewed
        self._clients = clients


def _stamp(root: Path) -> Stamp | None:
    try:
        status = book_file(root).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size

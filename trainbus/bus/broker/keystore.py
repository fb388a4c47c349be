"""The broker's book of keys: HOME/keys/broker.json, its own pair and one entry for each client.

The command line writes it, the broker reads it again when it changes. Of a client's key only the public half is kept here; the secret
half is in the token that `invite` gives out once.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import zmq

from trainbus.bus.credentials import LOCAL, NAME, ROLES, Credentials, Role, keys_directory
from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.home import private_directory, write_atomically
from trainbus.errors import ConfigError, RefusedError

RESERVED = (LOCAL, "plugin", "trainbus", "broker", "supervisor")
"""No client may be called so: these begin the names of consumers and sources that are not a client's."""


class Client(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody who was invited. Times are nanoseconds since the epoch."""

    name: str
    public_key: str
    role: Role
    created: int
    expires: int | None = None
    revoked: int | None = None

    def valid(self, now: int) -> bool:
        """Whether this key opens the door at ``now``."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """All that is in the file. ``ports`` are those on which the broker listens unless the configuration names others: they are in
    every token, so they stay. ``revision`` grows with every change.
    """

    public_key: str
    secret_key: str
    created: int
    revision: int
    ports: tuple[int, int]
    clients: list[Client] = msgspec.field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Book of {len(self.clients)} clients, revision {self.revision}>"

    def valid(self, now: int) -> dict[str, Client]:
        """The clients that are let in at ``now``, by public key."""
        return {client.public_key: client for client in self.clients if client.valid(now)}


def book_file(root: Path) -> Path:
    """Where the book is."""
    return keys_directory(root) / "broker.json"


def read_book(root: Path) -> Book | None:
    """The book; None when this home has no keys.

    Raises:
        ConfigError: It is there and can't be read, or it was taken away from between its clients' keys. Never means "no keys".
    """
    path = book_file(root)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Book)
    except FileNotFoundError:
        if (keys_directory(root) / "local.json").exists():
            problem = f"{path} is gone, but {path.parent} still holds a key for it."
            raise ConfigError(
                problem, hint="Put it back, or delete the whole folder to go on without keys.", file=str(path), key="keys"
            ) from None
        return None
    except (OSError, *DECODE_ERRORS) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise ConfigError(
            f"The keys in {path} can't be read: {reason}.",
            hint="Put it back from a copy, or delete the whole folder and invite everybody anew.",
            file=str(path),
            key="keys",
        ) from None


def invite(
    root: Path, name: str, role: Role, address: str, *, ports: tuple[int, int] | None = None, valid_for: float | None = None
) -> tuple[Credentials, Book]:
    """Make a key for a new client. The first one also makes the broker's own pair.

    Args:
        name: What the client is called: in `keys list`, in refusals, in its consumers' names.
        role: What it may do.
        address: Host under which it reaches the broker.
        ports: Those of router and xpub; None: the ones that the book names.
        valid_for: Seconds until the key expires; None: never.

    Returns:
        What the token holds, and the book as it is now.

    Raises:
        ConfigError: The name can't be one.
        RefusedError: Somebody with a valid key is called so.
    """
    if not NAME.fullmatch(name) or name in RESERVED:
        allowed = f"letters, digits, dot, dash and underscore, at most 64, and not {', '.join(RESERVED)}"
        raise ConfigError(f"{name!r} is no name for a client.", hint=f"Allowed: {allowed}.", found=name, allowed=allowed, key="name")
    with _changing(root) as draft:
        now = time.time_ns()
        if any(client.name == name and client.valid(now) for client in draft.clients):
            hint = f"Choose another name, or `trainbus keys revoke {name}` first."
            raise RefusedError(f"There is a key named {name!r} already.", hint=hint, code="conflict", name=name)
        public, secret = _pair()
        expires = now + int(valid_for * 1e9) if valid_for is not None else None
        draft.clients.append(Client(name=name, public_key=public, role=role, created=now, expires=expires))
        router, xpub = ports or draft.ports
    credentials = Credentials(
        name=name,
        role=role,
        router=f"tcp://{address}:{router}",
        xpub=f"tcp://{address}:{xpub}",
        server_key=draft.public_key,
        public_key=public,
        secret_key=secret,
    )
    return credentials, draft.written


def revoke(root: Path, name: str) -> Book:
    """Take a client's key out of use; returns the book as it is now.

    Raises:
        RefusedError: Nobody with a valid key is called so.
    """
    if name == LOCAL:
        hint = "`trainbus keys rotate` renews it, together with the broker's own."
        raise RefusedError("The local key is the one with which this machine's own commands work.", hint=hint, code="local")
    with _changing(root, create=False) as draft:
        now = time.time_ns()
        found = next((client for client in draft.clients if client.name == name and client.revoked is None), None)
        if found is None:
            names = ", ".join(sorted(client.name for client in draft.clients if client.valid(now) and client.name != LOCAL))
            hint = f"In use: {names}." if names else "No keys are in use."
            raise RefusedError(f"No key named {name!r} is in use.", hint=hint, code="unknown", name=name)
        draft.clients[draft.clients.index(found)] = msgspec.structs.replace(found, revoked=now)
    return draft.written


def rotate(root: Path) -> Book:
    """Renew the broker's own pair and the local key. Every token names the old pair, so all are void: they count as revoked.

    Raises:
        RefusedError: There are no keys here.
    """
    with _changing(root, create=False) as draft:
        now = time.time_ns()
        draft.public_key, draft.secret_key = _pair()
        draft.created = now
        draft.clients = [
            client if client.revoked is not None else msgspec.structs.replace(client, revoked=now)
            for client in draft.clients
            if client.name != LOCAL
        ]
        draft.local = True
    return draft.written


class _Draft:
    """A book that is being changed."""

    def __init__(self, book: Book | None) -> None:
        self.local = book is None
        """Whether the local key has to be made anew."""
        self.created = book.created if book else time.time_ns()
        self.public_key, self.secret_key = (book.public_key, book.secret_key) if book else _pair()
        self.ports = book.ports if book else _free_ports()
        self.clients = list(book.clients) if book else []
        self.revision = book.revision if book else 0
        self.written: Book


@contextmanager
def _changing(root: Path, *, create: bool = True) -> Iterator[_Draft]:
    """Read, let the caller change, write; one process at a time. Nothing is written when the block raises."""
    if not create and read_book(root) is None:
        hint = "`trainbus keys invite NAME --role observer` makes the first one."
        raise RefusedError(f"There are no keys in {root}.", hint=hint, code="no_keys")
    directory = private_directory(keys_directory(root))
    directory.chmod(0o700)  # it may have been made by hand
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        draft = _Draft(read_book(root))
        yield draft
        local = _local(root, draft) if draft.local else None
        draft.written = Book(
            public_key=draft.public_key,
            secret_key=draft.secret_key,
            created=draft.created,
            revision=draft.revision + 1,
            ports=draft.ports,
            clients=draft.clients,
        )
        # The local key first: a command that finds the broker's new key must find its own, too.
        if local is not None:
            write_atomically(directory / "local.json", msgspec.json.encode(local))
        write_atomically(book_file(root), msgspec.json.encode(draft.written))
    finally:
        os.close(lock)


def _local(root: Path, draft: _Draft) -> Credentials:
    """A new key for this machine's own commands, entered into the book."""
    public, secret = _pair()
    role = ROLES[-1]
    draft.clients.insert(0, Client(name=LOCAL, public_key=public, role=role, created=time.time_ns()))
    return Credentials(name=LOCAL, role=role, router="", xpub="", server_key=draft.public_key, public_key=public, secret_key=secret)


def _pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def _free_ports() -> tuple[int, int]:
    """Two ports that nobody uses now."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("", 0))
        other.bind(("", 0))
        return one.getsockname()[1], other.getsockname()[1]

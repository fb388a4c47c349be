"""The keys of a client: where they come from, and how a socket gets them.

On the broker's machine every command finds them in HOME/keys. Elsewhere they come as a token, one printable line, in ``TRAINBUS_TOKEN``
or stored by `trainbus attach`. Whoever holds a token is its client, so none is ever printed, logged or put into an error message.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.home import Connection, home, read_connection, write_atomically
from trainbus.errors import ConfigError, RefusedError, UnreachableError

Role: TypeAlias = Literal["observer", "publisher", "operator", "admin"]
ROLES: tuple[Role, ...] = ("observer", "publisher", "operator", "admin")
"""Each may do what those before it may."""

VARIABLE = "TRAINBUS_TOKEN"
"""The environment variable that holds a token, or the name of a stored one."""

LOCAL = "local"
"""Name of the key that every command on the broker's machine uses."""

PREFIX = "trainbus1."
KEY = re.compile(r"[!-~]{40}")
"""A CURVE key in Z85."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a client may be called; it becomes a file name and the beginning of its consumers' names."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """All that a client needs to be let in. ``role`` is what it was invited as: the broker goes by its own book."""

    name: str
    role: Role
    router: str
    xpub: str
    server_key: str
    public_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"<Credentials {self.name} ({self.role}) for {self.router}>"

    def token(self) -> str:
        """One printable line that holds everything."""
        return PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")

    def connection(self) -> Connection:
        """Where the broker is."""
        return Connection(router=self.router, xpub=self.xpub, journal="", pid=0, server_key=self.server_key)


def parse_token(text: str, source: str = "The token") -> Credentials:
    """The credentials in a token.

    Args:
        text: The token.
        source: Begins the message; the token itself never appears in one.

    Raises:
        ConfigError: It is none, or was cut when it was copied.
    """
    hint = "Copy the whole line that `trainbus keys invite NAME` printed; it begins with trainbus1. and has no spaces."
    words = text.strip()
    if not words.startswith(PREFIX):
        raise ConfigError(f"{source} is no trainbus token.", hint=hint, key="token")
    body = words.removeprefix(PREFIX)
    try:
        made = msgspec.msgpack.decode(base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True), type=Credentials)
    except DECODE_ERRORS:
        # `from None`: the cause would quote parts of it
        raise ConfigError(f"{source} is damaged, or was cut when it was copied.", hint=hint, key="token") from None
    keys = (made.server_key, made.public_key, made.secret_key)
    if not all(KEY.fullmatch(key) for key in keys) or not NAME.fullmatch(made.name):
        raise ConfigError(f"{source} is damaged: it holds no usable keys.", hint=hint, key="token")
    return made


def keys_directory(root: Path | None = None) -> Path:
    """Where keys are kept: 0700, its files 0600."""
    return (root or home()) / "keys"


def remote_file(root: Path | None, name: str) -> Path:
    """Where the token of another machine's bus is stored."""
    return keys_directory(root) / "remote" / name


def store_remote(root: Path | None, credentials: Credentials) -> Path:
    """Keep a token under its name; returns its file."""
    path = remote_file(root, credentials.name)
    write_atomically(path, credentials.token().encode() + b"\n")
    return path


def load_remote(root: Path | None, name: str) -> Credentials:
    """A token that was stored.

    Raises:
        ConfigError: There is none of this name, or it can't be read.
    """
    path = remote_file(root, name) if NAME.fullmatch(name) else None
    if path is None or not path.is_file():
        known = sorted(file.name for file in (keys_directory(root) / "remote").glob("[!.]*"))
        hint = f"Stored here: {', '.join(known)}." if known else "None is stored here: give the token that `trainbus keys invite` printed."
        # What is no name may be a secret that was pasted wrongly.
        raise ConfigError(
            f"No token named {name!r} is stored here." if path is not None else "That is neither a token nor the name of a stored one.",
            hint=hint,
            key="token",
        )
    try:
        return parse_token(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}", hint="It must belong to you, with mode 0600.", file=str(path)) from None


def resolve(root: Path | None, text: str, source: str = "The token") -> Credentials:
    """A token, or the name of a stored one.

    Raises:
        ConfigError: It is neither.
    """
    return parse_token(text, source) if text.strip().startswith(PREFIX) else load_remote(root, text.strip())


def chosen(root: Path | None = None) -> Credentials | None:
    """The credentials that the environment names; None: the broker of this home is meant.

    Raises:
        ConfigError: ``TRAINBUS_TOKEN`` is neither a token nor the name of a stored one.
    """
    text = os.environ.get(VARIABLE, "")
    return resolve(root, text, VARIABLE) if text.strip() else None


def find_broker(root: Path | None = None) -> Connection:
    """Where the broker is that clients of this process talk to: the environment's, or else that of ``root``.

    Raises:
        UnreachableError: No connection file, or one that can't be read.
        ConfigError: The environment's token is damaged.
    """
    credentials = chosen(root)
    return credentials.connection() if credentials is not None else read_connection(root)


def at_address(root: Path | None, router: str, xpub: str = "") -> Connection:
    """A broker at a given address; with its key, when it is the one that `find_broker` knows."""
    try:
        known = find_broker(root)
    except UnreachableError:
        known = None
    same = known is not None and known.router == router
    return Connection(router=router, xpub=xpub, journal="", pid=0, server_key=known.server_key if same and known is not None else "")


def credentials_for(connection: Connection, root: Path | None = None) -> Credentials | None:
    """The keys with which to talk to a broker; None when it asks for none.

    Raises:
        RefusedError: It asks for some, and there are none here.
    """
    if not connection.server_key:
        return None
    credentials = chosen(root)
    if credentials is not None and credentials.server_key == connection.server_key:
        return credentials
    path = keys_directory(root) / "local.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except (OSError, *DECODE_ERRORS) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise RefusedError(
            f"The broker at {connection.router} asks for a key, and {path} can't be read: {reason}.",
            hint=f"On its machine run as the user who started it; elsewhere put a token of `trainbus keys invite` into {VARIABLE}.",
            code="key",
            file=str(path),
        ) from None


def secure(socket: Any, connection: Connection, root: Path | None = None) -> None:
    """Give a socket the keys for a broker, before it is connected.

    Raises:
        RefusedError: The broker asks for a key, and there is none here.
    """
    credentials = credentials_for(connection, root)
    if credentials is not None:
        socket.curve_serverkey = connection.server_key.encode()
        socket.curve_publickey = credentials.public_key.encode()
        socket.curve_secretkey = credentials.secret_key.encode()


def consumer_of(plugin: str, root: Path | None = None) -> str:
    """The name of a plugin's durable cursor. One that is attached from elsewhere has its own, beside that of the bus's own host."""
    credentials = chosen(root)
    return f"plugin:{plugin}" if credentials is None else f"{credentials.name}:plugin:{plugin}"

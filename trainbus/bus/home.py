"""Where state lives: ``TRAINBUS_HOME``, by default the platform's state folder.

HOME/bus.json            connection file of the running broker (0600, replaced atomically)
HOME/journal.db          the journal (SQLite), with journal.db.lock
HOME/spool/SOURCE/       one publisher's spool
HOME/plugins/NAME/       a plugin's own directory
HOME/logs/NAME.log       kept output of broker, supervisor and plugins
HOME/logs/exec/RUN.log   kept output of commands under `trainbus exec`
HOME/trainer/inbox       path of the folder that the trainer takes files from
HOME/backups/            copies of the journal (`trainbus journal backup`)
HOME/keys/               keys of the broker and its clients (0700, files 0600), and tokens of other machines' buses
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import UnreachableError


class Connection(msgspec.Struct, kw_only=True):
    """What a local command needs to find the broker. ``server_key`` is its public key; empty: it asks for no keys."""

    router: str
    xpub: str
    journal: str
    pid: int
    host: str = ""
    supervisor: int | None = None
    started: int = 0
    version: str = ""
    server_key: str = ""


def home() -> Path:
    """The state directory (not created here)."""
    if chosen := os.environ.get("TRAINBUS_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "trainbus"
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "trainbus"


def private_directory(path: Path) -> Path:
    """Create ``path`` readable by its owner alone, and every parent that is missing likewise; returns it."""
    for part in [*reversed(path.parents), path]:  # mkdir(parents=True) would give the parents the umask's mode
        part.mkdir(mode=0o700, exist_ok=True)
    return path


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` as a whole: a reader sees the old or the new content, never a part."""
    private_directory(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def connection_file(root: Path | None = None) -> Path:
    """Path of the connection file."""
    return (root or home()) / "bus.json"


def write_connection(connection: Connection, root: Path | None = None) -> None:
    """Announce a broker that now listens."""
    write_atomically(connection_file(root), msgspec.json.encode(connection))


def read_connection(root: Path | None = None) -> Connection:
    """The running broker's addresses.

    Raises:
        UnreachableError: No connection file, or one that can't be read.
    """
    path = connection_file(root)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Connection)
    except FileNotFoundError:
        problem = f"No broker is known in {path.parent}."
        raise UnreachableError(
            problem, hint="Start one with `trainbus up`, or set TRAINBUS_HOME to the one that runs.", file=str(path)
        ) from None
    except (OSError, *DECODE_ERRORS) as error:
        raise UnreachableError(f"{path} can't be read: {error}", hint="Delete it and start `trainbus up` again.", file=str(path)) from error


def write_inbox(folder: Path, root: Path | None = None) -> None:
    """Note the folder that the trainer takes its files from, for whoever puts some there."""
    write_atomically((root or home()) / "trainer" / "inbox", os.fsencode(folder))


def read_inbox(root: Path | None = None) -> Path | None:
    """The folder that the trainer of this state directory takes its files from; None when none ever ran."""
    try:
        return Path(os.fsdecode(((root or home()) / "trainer" / "inbox").read_bytes()))
    except OSError:
        return None

"""What ``trainbus doctor`` looks at in the folder of keys: who may read them, and which open the door no longer. No key is ever shown."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from trainbus.bus.broker.keystore import Book, Client, book_file, read_book
from trainbus.bus.credentials import LOCAL, VARIABLE, Credentials, chosen, keys_directory
from trainbus.bus.events import DECODE_ERRORS
from trainbus.cli.checks import Finding
from trainbus.errors import TrainbusError

SOON_SECONDS = 7 * 86_400.0
"""A key that expires this soon is told of while there is time to invite its holder anew."""


def keys(root: Path, now: int | None = None) -> list[Finding]:
    """File modes, the local key, the keys of those who were invited, and the token that this shell would use."""
    found = [*_modes(root)]
    if not keys_directory(root).exists():
        found.append(Finding(check="keys", state="ok", found="none: the broker listens on this machine only"))
    try:
        book = read_book(root)
    except TrainbusError as error:
        found.append(Finding(check="keys", state="fail", found=error.problem, mend=error.hint))
    else:
        if book is not None:
            found += [_local(root, book), _invited(book, time.time_ns() if now is None else now)]
    return found + _token(root)


def _modes(root: Path) -> list[Finding]:
    """Everything in the folder is for its owner alone: whoever reads a private key is its holder."""
    folder = keys_directory(root)
    if not folder.is_dir():
        return []
    open_to_others = []
    for path in (folder, *sorted(folder.rglob("*"))):
        try:
            status = path.lstat()
        except FileNotFoundError:  # `trainbus keys` has just put a new file in its place
            continue
        if status.st_uid != os.geteuid():
            mend = f"chown {os.geteuid()} {path}"
            return [Finding(check="key files", state="fail", found=f"{path} belongs to user {status.st_uid}", mend=mend)]
        if status.st_mode & 0o077:
            open_to_others.append((path, status.st_mode & 0o777))
    if not open_to_others:
        return [Finding(check="key files", state="ok", found=f"only their owner reads {folder}")]
    found = ", ".join(f"{path} ({mode:o})" for path, mode in open_to_others)
    mend = "; ".join(f"chmod {700 if path.is_dir() else 600} {path}" for path, _ in open_to_others)
    renew = ". If somebody may have read them: `trainbus keys rotate`, then invite everybody anew."
    return [Finding(check="key files", state="fail", found=f"others may read {found}", mend=mend + renew)]


def _local(root: Path, book: Book) -> Finding:
    """The key of this machine's own commands is the one that the book names."""
    path = keys_directory(root) / "local.json"
    mend = "`trainbus keys rotate` makes a new one; every token is void then."
    try:
        local = msgspec.json.decode(path.read_bytes(), type=Credentials)
    except (OSError, *DECODE_ERRORS):
        return Finding(check="local key", state="fail", found=f"{path} is missing or damaged", mend=mend)
    known = next((client for client in book.clients if client.public_key == local.public_key and client.name == LOCAL), None)
    if known is None or known.revoked is not None or local.server_key != book.public_key:
        return Finding(check="local key", state="fail", found=f"{path} is no key that {book_file(root).name} lets in", mend=mend)
    return Finding(check="local key", state="ok", found="commands on this machine are let in")


def _invited(book: Book, now: int) -> Finding:
    """Keys that were given out: valid, about to expire, expired, revoked."""
    clients = [client for client in book.clients if client.name != LOCAL]
    valid = [client for client in clients if client.valid(now)]
    names = {client.name for client in valid}
    # A name that was invited anew is mended already.
    expired = [client for client in clients if client.revoked is None and not client.valid(now) and client.name not in names]
    soon = [client for client in valid if client.expires is not None and client.expires - now < SOON_SECONDS * 1e9]
    revoked = sum(client.revoked is not None for client in clients)
    said = f"{len(valid)} valid, {len(expired)} expired, {revoked} revoked"
    if not expired and not soon:
        return Finding(check="keys", state="ok", found=said)
    said += "".join(f"; {client.name} has expired" for client in expired) + "".join(f"; {client.name} expires soon" for client in soon)
    anew = [_invitation(client) for client in expired]
    anew += [f"`trainbus keys revoke {client.name}`, then {_invitation(client)}" for client in soon]
    return Finding(check="keys", state="warn", found=said, mend=f"Who still needs one: {'; '.join(anew)}; hand out the new token.")


def _invitation(client: Client) -> str:
    return f"`trainbus keys invite {client.name} --role {client.role}`"


def _token(root: Path) -> list[Finding]:
    """The token that commands of this shell would use instead of the local key."""
    if not os.environ.get(VARIABLE):
        return []
    try:
        credentials = chosen(root)
    except TrainbusError as error:
        return [Finding(check="token", state="fail", found=error.problem, mend=error.hint)]
    if credentials is None:
        return []
    return [Finding(check="token", state="ok", found=f"{VARIABLE}: {credentials.name} ({credentials.role}) at {credentials.router}")]

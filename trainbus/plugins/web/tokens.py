"""The dashboard's own token, for an address that others can reach and no token in the configuration; and links that work once."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from trainbus.bus.home import write_atomically

TOKEN_BYTES = 32

LINK_SECONDS = 3600.0
"""A link is printed, so it stands in logs: it works once, and for so long."""


def own_token(directory: Path) -> str:
    """The token that is kept in ``directory``, made when there is none. It lasts, so that browsers stay signed in over restarts."""
    file = token_file(directory)
    try:
        if kept := file.read_text().strip():
            return kept
    except FileNotFoundError:
        pass
    made = secrets.token_urlsafe(TOKEN_BYTES)
    write_atomically(file, f"{made}{os.linesep}".encode())
    return made


def token_file(directory: Path) -> Path:
    """Where `own_token` keeps it."""
    return directory / "token"


class Links:
    """One-time codes for a token."""

    def __init__(self) -> None:
        self._codes: dict[str, tuple[str, float]] = {}

    def make(self, token: str) -> str:
        """A code that `redeem` takes for the token, once."""
        code = secrets.token_urlsafe(TOKEN_BYTES)
        self._codes[code] = (token, time.monotonic() + LINK_SECONDS)
        return code

    def redeem(self, code: str) -> str | None:
        """The token that a code stands for; None for one that is unknown, used or too old."""
        token, until = self._codes.pop(code, (None, 0.0))
        return token if time.monotonic() < until else None

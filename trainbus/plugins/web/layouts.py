"""How each visitor has arranged the page, kept by the server, so that it is the same in every browser of his."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.home import write_atomically
from trainbus.plugins.web.steering import RefusedRequest

MOST_PANELS, MOST_PINS = 200, 12

Panel = Annotated[str, Meta(min_length=1, max_length=200)]
"""Id of a panel; those of plugins are made of two names."""

Columns = Annotated[int, Meta(ge=1, le=3)]


class Layout(Struct, kw_only=True, forbid_unknown_fields=True):
    """An arrangement: the order of the panels, which are folded, how many of three columns each takes, and the pinned metrics.

    A panel that isn't named stands where it stands by itself; ids of panels that don't exist (any more) mean nothing.
    """

    order: Annotated[list[Panel], Meta(max_length=MOST_PANELS)] = msgspec.field(default_factory=list)
    folded: Annotated[list[Panel], Meta(max_length=MOST_PANELS)] = msgspec.field(default_factory=list)
    widths: Annotated[dict[Panel, Columns], Meta(max_length=MOST_PANELS)] = msgspec.field(default_factory=dict)
    pinned: Annotated[list[Annotated[str, Meta(max_length=1_000)]], Meta(max_length=MOST_PINS)] = msgspec.field(default_factory=list)


class Layouts:
    """One small file for each visitor: for whoever holds a token, or for everybody where none is needed.

    There are as many visitors as tokens, and a file is as large as a request at most, so that this can't fill a disk.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "layouts"

    def of(self, token: str) -> Layout | None:
        """What was kept for the holder of a token; None when there is nothing that can be read."""
        try:
            return msgspec.json.decode(self._file(token).read_bytes(), type=Layout)
        except (OSError, *DECODE_ERRORS):
            return None

    def keep(self, token: str, body: bytes) -> Layout:
        """Keep the arrangement in a request's body; on disk when this returns.

        Raises:
            RefusedRequest: It is none, or the disk doesn't take it.
        """
        try:
            layout = msgspec.json.decode(body, type=Layout)
        except DECODE_ERRORS as error:
            raise RefusedRequest(400, f"This is no layout: {error}.") from error
        try:
            write_atomically(self._file(token), msgspec.json.encode(layout))
        except OSError as error:
            raise RefusedRequest(507, f"The layout can't be kept: {error.strerror or error}.") from error
        return layout

    def _file(self, token: str) -> Path:
        """The name tells nothing of the token."""
        name = hashlib.sha256(b"layout of " + token.encode()).hexdigest()[:32] if token else "everybody"
        return self._directory / f"{name}.json"

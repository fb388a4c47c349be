"""What a host tells its supervisor, one JSON object a line, over a pipe of its own (never stdout: that belongs to the plugin)."""

from __future__ import annotations

import os
from typing import Any, Literal, TypeAlias

import msgspec

from trainbus.bus.hosting.loading import Loaded
from trainbus.errors import TrainbusError

HostState: TypeAlias = Literal["starting", "running", "stopping"]


class Report(msgspec.Struct, kw_only=True, tag_field="type", tag=str.lower, omit_defaults=True):
    """Root of all lines."""


class Hello(Report, kw_only=True):
    """First line of a host whose plugin loaded. ``kinds`` empty means all events, None that it handles none."""

    name: str
    version: str
    hook_api: int
    kinds: list[str] | None
    hooks: list[str]
    config_schema: dict[str, Any] | None = None


class Refusal(Report, kw_only=True):
    """First and last line of a host whose plugin can't be loaded: restarting would not help."""

    code: str
    error: str
    hint: str = ""


class Progress(Report, kw_only=True):
    """Written each second by the host's event loop, and at once when ``state`` changes: its absence means that the loop hangs.

    ``hook`` and ``since`` (seconds) tell of a hook at work; a coroutine hook that never returns shows here while the loop goes on.
    """

    state: HostState
    offset: int = -1
    lag: int | None = None
    hook: str = ""
    since: float = 0.0
    handled: int = 0
    dead_letters: int = 0
    errors: int = 0
    url: str = ""
    error: str = ""


AnyReport: TypeAlias = Hello | Refusal | Progress

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyReport)

decode = _decoder.decode


def hello(loaded: Loaded) -> Hello:
    """The handshake of a plugin that keeps the contract."""
    return Hello(
        name=loaded.name,
        version=loaded.version,
        hook_api=loaded.hook_api,
        kinds=None if loaded.kinds is None else list(loaded.kinds),
        hooks=list(loaded.hooks),
        config_schema=None if loaded.schema is None else msgspec.json.schema(loaded.schema),
    )


def refusal(error: TrainbusError) -> Refusal:
    """The handshake of a plugin that can't be loaded."""
    return Refusal(code=error.code, error=error.problem, hint=error.hint)


class ReportPipe:
    """The host's end of the pipe. ``fd`` None: nobody listens (a host that was started by hand)."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def handshake(self, report: Hello | Refusal) -> None:
        """Write the first line, whole: the pipe is still in blocking mode, so a long schema is not cut."""
        if self._fd is None:
            return
        rest = _encoder.encode(report) + b"\n"
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        os.set_blocking(self._fd, False)

    def write(self, progress: Progress) -> None:
        """Write a progress line; dropped when the supervisor doesn't read (it may be frozen: that must not stop the plugin)."""
        if self._fd is None:
            return
        try:
            os.write(self._fd, _encoder.encode(progress)[:4000] + b"\n")  # below PIPE_BUF: the whole line or nothing
        except BlockingIOError:
            return
        except OSError:  # the supervisor is gone; the lifeline ends this host
            self._fd = None

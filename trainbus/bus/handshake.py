"""What a socket's monitor says about handshakes that fail.

libzmq connects again by itself after a broken connection, but not after a handshake that was refused or that did not fit: then the
socket does nothing more, for ever. Keys change while clients run, so whoever owns such a socket makes a new one after a pause.
"""

from __future__ import annotations

from typing import NamedTuple

import zmq

FAILURES = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
"""The monitor's events to ask for."""

AGAIN_SECONDS = 1.0
"""Pause before the next try."""

_NOT_LET_IN = 400
"""Status of a key checker that doesn't know the key (any more); 300 and 500 mean that it could not look."""


class Failed(NamedTuple):
    """A handshake that failed. ``over``: the socket does nothing more. ``refused``: the broker knows the key not, or no more."""

    reason: str
    over: bool
    refused: bool = False


def failed(event: int, value: int) -> Failed | None:
    """What a monitor's event means; None when it is about something else."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        if value == _NOT_LET_IN:
            return Failed("it refuses this key: it was revoked, has expired, or was never that broker's", over=True, refused=True)
        return Failed("it can't check keys at the moment; its log says why", over=True)
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return Failed("one side asks for keys that the other doesn't have", over=True)
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return Failed("it breaks off the handshake: its key pair has been renewed since, or it can't check keys at the moment", over=False)
    return None

"""What the core asks its loop to do: the core itself touches no socket, disk or clock."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from trainbus.bus import wire


class Send(Struct, frozen=True):
    """Send a message to a peer over ROUTER."""

    peer: bytes
    message: wire.Message


class Fan(Struct, frozen=True):
    """Send a frame to the subscribers over XPUB."""

    frame: bytes


class ReadHistory(Struct, frozen=True):
    """Read a page up to the committed ``head`` and answer call ``id`` of ``peer`` with it."""

    peer: bytes
    id: int
    request: wire.History
    head: int


class PlanRetention(Struct, frozen=True):
    """Find out what has outlived its time (`retention.plan`) and tell the core by `BrokerCore.trim`."""

    wall: int


Effect: TypeAlias = Send | Fan | ReadHistory | PlanRetention

"""Where the parts of the core put what they want done."""

from __future__ import annotations

from collections import deque

from trainbus.bus import events, wire
from trainbus.bus.broker.effects import Effect, Send


class Outbox:
    """Effects for the loop, and events that the broker itself has to say, which wait for the next batch."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.own: deque[events.Event] = deque()
        self.protocol_errors = 0

    def send(self, peer: bytes, message: wire.Message) -> None:
        """Send a message to a peer."""
        self.effects.append(Send(peer, message))

    def refuse(self, peer: bytes, call: int, problem: str) -> None:
        """A message breaks the protocol."""
        self.protocol_errors += 1
        hint = f"docs/protocol.md describes protocol {wire.PROTOCOL}, which this broker speaks."
        self.send(peer, wire.Failure(id=call, code="protocol", problem=problem, hint=hint))

    def other_version(self, peer: bytes, call: int, protocol: int) -> None:
        """A peer speaks another version of the protocol."""
        self.protocol_errors += 1
        problem = f"The caller speaks protocol {protocol}, this broker protocol {wire.PROTOCOL}."
        hint = "Install the same version of trainbus on both sides."
        self.send(peer, wire.Failure(id=call, code="protocol", problem=problem, hint=hint))

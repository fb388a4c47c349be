"""Passing questions on to the supervisor: it is a peer like any other and owns no port."""

from __future__ import annotations

from msgspec import Struct

from trainbus.bus import wire
from trainbus.bus.broker.effects import Effect, Send

FORWARD_TIMEOUT = 30.0
"""Seconds that the supervisor has to answer; restarting a plugin may take its `stop_timeout`."""


class _Asked(Struct):
    peer: bytes
    id: int
    deadline: float


class Supervision:
    """Routes `wire.Supervise` calls to the supervisor and its answers back."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self._peer: bytes | None = None
        self._asked: dict[int, _Asked] = {}
        self._last = 0

    def register(self, peer: bytes, pid: int) -> None:
        """``peer`` is the supervisor from now on."""
        self._peer, self.pid = peer, pid

    def ask(self, peer: bytes, call: int, request: wire.Supervise, now: float) -> list[Effect]:
        """Forward a call; refused when there is no supervisor."""
        if self._peer is None:
            return [Send(peer, _nobody(call, "This broker has no supervisor."))]
        self._last += 1
        self._asked[self._last] = _Asked(peer, call, now + FORWARD_TIMEOUT)
        return [Send(self._peer, wire.Forward(id=self._last, request=request))]

    def answered(self, peer: bytes, message: wire.Forwarded) -> list[Effect]:
        """The supervisor's answer; one that is late, or that comes from anybody else, is dropped."""
        if peer != self._peer or (asked := self._asked.pop(message.id, None)) is None:
            return []
        if message.ok:
            return [Send(asked.peer, wire.Reply(id=asked.id, result=message.result))]
        return [Send(asked.peer, wire.Failure(id=asked.id, code="refused", problem=message.problem, hint=message.hint))]

    def tick(self, now: float) -> list[Effect]:
        """Give up on calls that the supervisor did not answer in time."""
        late = [number for number, asked in self._asked.items() if now >= asked.deadline]
        gone = [self._asked.pop(number) for number in late]
        problem = f"The supervisor did not answer within {FORWARD_TIMEOUT:.0f} s."
        return [Send(asked.peer, _nobody(asked.id, problem)) for asked in gone]


def _nobody(call: int, problem: str) -> wire.Failure:
    return wire.Failure(
        id=call,
        code="no_supervisor",
        problem=problem,
        hint="Plugins are managed by `trainbus up`: start the bus with it, or look at its log.",
    )

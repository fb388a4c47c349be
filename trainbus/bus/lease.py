"""Holding a lease: renewed in time, and honest about being lost."""

from __future__ import annotations

from trainbus.bus import wire
from trainbus.bus.clock import Clock
from trainbus.bus.dealer import Dealer
from trainbus.bus.waiting import Waiting
from trainbus.errors import RefusedError, TrainbusError, UnreachableError

RENEWALS = 3
"""A lease is renewed this many times in each ttl, so that two failed attempts don't lose it."""


MIN_PAUSE_SECONDS = 0.05
"""Shortest pause between two attempts, when the broker can't be reached and the end is near."""


class Lease:
    """A granted lease. Any thread may ask `lost` and `check` while another one renews it.

    Args:
        granted: The broker's answer.
        ttl: Seconds for which each renewal is asked.
        asked: Monotonic time at which it was asked for, not answered: so the holder never believes in it longer than the broker.
        clock: For its end.
    """

    def __init__(self, granted: wire.Lease, ttl: float, asked: float, clock: Clock) -> None:
        self.id = granted.id
        self.resource = granted.resource
        self.holder = granted.holder
        self.mode = granted.mode
        self.ttl = ttl
        self.renewals = 0
        self._ends = asked + granted.expires_in
        self._refused = False
        self._clock = clock

    def __repr__(self) -> str:
        return f"Lease({self.resource!r}, {self.mode}, holder={self.holder!r}, id={self.id}{', lost' if self.lost else ''})"

    @property
    def lost(self) -> bool:
        """Whether the promise no longer holds: the broker said so, or the last renewal is older than the ttl."""
        return self._refused or self._clock.now() >= self._ends

    def check(self) -> None:
        """Between two steps of long work.

        Raises:
            RefusedError: It was lost (code ``lost``).
        """
        if self.lost:
            problem = f"The lease of {self.holder} on {self.resource} was lost: it could not be renewed within {self.ttl:g} s."
            hint = "What it protected may be changing or gone: stop using it, and ask for a new lease."
            raise RefusedError(problem, hint=hint, code="lost", resource=self.resource, lease=self.id)

    def pause(self) -> float:
        """Seconds until the next renewal."""
        return max(MIN_PAUSE_SECONDS, min(self.ttl / RENEWALS, (self._ends - self._clock.now()) / 2))

    def renew(self, dealer: Dealer) -> Waiting[None]:
        """One attempt to renew it. A broker that can't be reached is asked again after `pause`, until the lease is lost."""
        asked = self._clock.now()
        try:
            answer = yield from dealer.call(wire.RenewLease(id=self.id, ttl=self.ttl), wire.Lease, self.ttl / RENEWALS)
        except UnreachableError:
            return
        except TrainbusError:
            self._refused = True
            return
        self.renewals += 1
        self._ends = asked + answer.expires_in

"""When to start, wait, kill or give up on a child: decisions only, with time as an argument.

One `Supervision` for each child. The supervisor tells it what happened (`loaded`, `progressed`, `exited`, ...) and does what it says:
`next_start` is when the child should be started, `tick` says whether it must be killed, `state` and `error` are what people see.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated

import msgspec

from trainbus.bus.events import PluginState

FIRST_PAUSE = 0.5
"""Seconds before the first restart; doubled by each death, because a crash loop must not eat the machine that trains."""

LONGEST_PAUSE = 60.0
STABLE_AFTER = 60.0
"""Seconds of running after which a child is well again: pauses start small."""

DEATHS = 8
DEATHS_WITHIN = 600.0
"""So many deaths within so many seconds, without one new event finished between them: parked as failed."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one child. ``deaths`` None: never give up (the broker)."""

    stuck_after: float
    first_pause: float = FIRST_PAUSE
    longest_pause: float = LONGEST_PAUSE
    stable_after: float = STABLE_AFTER
    deaths: Annotated[int, msgspec.Meta(ge=1)] | None = DEATHS
    deaths_within: float = DEATHS_WITHIN


class Supervision:
    """The life of one child through its incarnations."""

    def __init__(self, policy: Policy, now: float) -> None:
        self._policy = policy
        self.state: PluginState = "starting"
        self.error = ""
        self.restarts = 0
        """Starts after the first one."""
        self.next_start: float | None = now
        """When to start the child; None while it lives, is parked or is stopped."""
        self._alive = False
        self._wanted = True
        self._started = 0.0
        self._progress = now
        self._pauses = 0
        self._deaths: deque[float] = deque()
        self._furthest = -1
        self._starts = 0

    @property
    def alive(self) -> bool:
        """Whether the child runs (or hangs)."""
        return self._alive

    @property
    def wanted(self) -> bool:
        """Whether the child should run: False once it was asked to stop."""
        return self._wanted

    def uptime(self, now: float) -> float | None:
        """Seconds since this incarnation started."""
        return now - self._started if self._alive else None

    def started(self, now: float) -> None:
        """A new incarnation was started."""
        self._alive = True
        self._started = self._progress = now
        self.next_start = None
        self.state = "starting"
        self._starts += 1
        self.restarts = self._starts - 1

    def running(self, now: float, offset: int = -1) -> None:
        """The child says that it works; ``offset`` is how far its events are finished."""
        self._progress = now
        if offset > self._furthest:
            self._furthest = offset
            self._deaths.clear()  # it gets on, if slowly: that is no crash loop
        if self._wanted:
            self.state = "running"
            self.error = ""

    def loading(self, now: float) -> None:
        """The child shows life but is not ready yet."""
        self._progress = now

    def refused(self, error: str) -> None:
        """The child can't be loaded. Starting it again would not help: it is parked at once."""
        self._wanted = False
        self.state = "failed"
        self.error = error
        self.next_start = None

    def exited(self, now: float, error: str) -> None:
        """The child is gone. Decides whether and when to start it again."""
        stable = self._alive and self.state == "running" and now - self._started >= self._policy.stable_after
        self._alive = False
        if not self._wanted:
            if self.state != "failed":
                self.state = "stopped"
            return
        self.error = error
        if stable:
            self._pauses = 0
        self._deaths.append(now)
        while self._deaths and now - self._deaths[0] > self._policy.deaths_within:
            self._deaths.popleft()
        if self._policy.deaths is not None and len(self._deaths) >= self._policy.deaths:
            self.refused(f"died {len(self._deaths)} times in {now - self._deaths[0]:.0f} s without getting on; last: {error}")
            return
        self.state = "starting"
        # The exponent is bounded: after days of restarts 2.0 ** pauses would overflow.
        self.next_start = now + min(self._policy.first_pause * 2.0 ** min(self._pauses, 30), self._policy.longest_pause)
        self._pauses += 1

    def tick(self, now: float) -> bool:
        """Whether the child's loop hangs and it must be killed (it is then marked as stuck; told once an incarnation)."""
        hangs = self._alive and self._wanted and self.state != "stuck" and now - self._progress > self._policy.stuck_after
        if hangs:
            self.state = "stuck"
            self.error = f"no progress for {now - self._progress:.0f} s; killed"
        return hangs

    def stop(self) -> None:
        """The child should end and stay away."""
        self._wanted = False
        self.next_start = None
        if not self._alive and self.state != "failed":
            self.state = "stopped"

    def retry(self, now: float) -> None:
        """Start it (again), forgetting its bad record: somebody asked for it."""
        self._wanted = True
        self._pauses = 0
        self._deaths.clear()
        self.error = ""
        self.state = "starting"
        if not self._alive:
            self.next_start = now

    def due(self, now: float) -> bool:
        """Whether it is time to start the child."""
        return self.next_start is not None and now >= self.next_start

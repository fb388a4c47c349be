"""The way out of the bus into a peer, once each, whatever is killed: gather, write, and only then move the position.

The host's cursor moves when a hook has returned, before the peer has the event. So a sink has a position of its own, up to which the
peer has everything durably, and that is where it goes on after a crash: what lay between is read from the journal again. A peer that
keeps the position together with the data gets each event once; one that ignores repeats, too. Memory holds one batch: while
a peer does not take them, events wait in the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from trainbus.bus import events
from trainbus.errors import TrainbusError
from trainbus.hookspecs import Context

STATE_KEY = "position"
ALERT_KEY = "failing"
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two tries to write the same batch."""
ALERT_AFTER = 3
"""Tries that fail before it is an alert: a server that restarts is none."""
STOP_SECONDS = 3.0
"""How long the end waits for a write that is under way."""


class SinkError(TrainbusError):
    """A peer did not take what it was given; it is tried again."""

    code = "sink"


class Writer(Protocol):
    """The peer's side. Blocking; called in a thread, one call at a time."""

    def position(self) -> int | None:
        """The last offset that the peer itself says it has (-1: nothing); None when it can't say, and the bus keeps it."""

    def write(self, batch: Sequence[events.AnyEvent], upto: int) -> None:
        """Hand on the events up to offset ``upto``. On return they, and this position, are durable. Raising means: again, the same."""

    def close(self) -> None:
        """The end."""


class SinkStats(Struct, frozen=True, kw_only=True):
    """``position``: the peer has everything up to this offset. Counts since this process began; ``waiting`` events are in memory."""

    position: int
    taken: int
    written: int
    batches: int
    failures: int
    waiting: int


class Outflow:
    """Events in, batches out.

    Args:
        writer: The peer.
        context: Of the plugin.
        wanted: Whether an event is handed on.
        batch: Events of one write.
    """

    def __init__(self, writer: Writer, context: Context, wanted: Callable[[events.AnyEvent], bool], batch: int) -> None:
        own = writer.position()
        self.position = int(context.state.get(STATE_KEY, -1)) if own is None else own
        self.pause = FIRST_PAUSE
        self._writer = writer
        self._context = context
        self._wanted = wanted
        self._batch = batch
        self._taken = self.position
        self._waiting: list[events.AnyEvent] = []
        self._caught_up = False
        self._catching_up = asyncio.Lock()
        self._writing: asyncio.Task[bool] | None = None
        self._tries = 0
        self._written = self._batches = self._failures = 0

    async def take(self, event: events.AnyEvent) -> None:
        """Take an event from the bus. Repeats are passed over. Waits while the peer has a whole batch to do."""
        await self.catch_up()
        if event.offset > self._taken:
            await self._take(event)

    async def catch_up(self) -> None:
        """Read what lies between the peer's position and the head of the journal: after a crash the host goes on behind it. Once."""
        while not self._caught_up:
            async with self._catching_up:
                if self._caught_up:  # while this one waited for its turn
                    return
                try:
                    async for event in self._context.aquery(after=self._taken):
                        await self._take(event)
                    self._caught_up = True
                except TrainbusError as error:
                    self._context.logger.warning("the journal can't be read yet: %s", error.problem)
                    await asyncio.sleep(FIRST_PAUSE)

    async def tick(self, interval: float) -> float:
        """Write what has come; the seconds until the next time."""
        await self.catch_up()
        if self._taken > self.position and not await self._write():
            return self.pause
        return interval

    async def end(self) -> None:
        """Write what is left, if the peer takes it at once. The rest comes again at the next start."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                if self._writing is not None:
                    await asyncio.shield(self._writing)
                while self._taken > self.position and not self._tries and await self._write():
                    pass
        except TimeoutError:
            self._context.logger.warning("the end was cut short: %d events come again at the next start", len(self._waiting))
        if self._writing is None or self._writing.done():
            await asyncio.to_thread(self._writer.close)

    def stats(self) -> SinkStats:
        """How far it is."""
        return SinkStats(
            position=self.position,
            taken=self._taken,
            written=self._written,
            batches=self._batches,
            failures=self._failures,
            waiting=len(self._waiting),
        )

    async def _take(self, event: events.AnyEvent) -> None:
        # Before it is counted as taken: a hook that is cancelled while it waits has not taken it.
        while len(self._waiting) >= self._batch:
            if not await self._write():
                await asyncio.sleep(self.pause)
        self._taken = event.offset
        if self._wanted(event):
            self._waiting.append(event)

    async def _write(self) -> bool:
        """One batch; True when the peer has taken it. A hook that is cancelled meanwhile cancels no write: that runs in a thread."""
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_batch())
        return await asyncio.shield(self._writing)

    async def _write_batch(self) -> bool:
        batch = self._waiting[: self._batch]
        upto = self._taken if len(batch) == len(self._waiting) else batch[-1].offset
        try:
            await asyncio.to_thread(self._writer.write, batch, upto)
        except Exception as error:  # noqa: BLE001 - whatever a peer's library raises: logged, counted, told; the bus goes on
            self._failed(error)
            return False
        del self._waiting[: len(batch)]
        self.position = upto
        self._written += len(batch)
        self._batches += 1
        self._context.state[STATE_KEY] = upto
        self._recovered()
        return True

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._tries += 1
        self.pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._tries - 1, 10))
        said = error.problem if isinstance(error, TrainbusError) else f"{type(error).__name__}: {error}".splitlines()[0][:300]
        self._context.logger.warning("%s (try %d, again in %g s)", said, self._tries, self.pause)
        if self._tries == ALERT_AFTER:
            # Where it is stuck is what names the incident: a restarted process repeats the alert instead of adding one.
            self._context.state[ALERT_KEY] = f"sink_failing:{self._context.name}:{self.position}"
            advice = "Events wait in the journal and nothing is lost. Mend the peer, or remove the plugin."
            if isinstance(error, TrainbusError) and error.hint:
                advice = f"{error.hint} {advice}"
            self._context.publish(self._alert("raised", f"{self._context.name} takes nothing: {said}", advice))

    def _recovered(self) -> None:
        self._tries, self.pause = 0, FIRST_PAUSE
        if ALERT_KEY in self._context.state:
            self._context.publish(self._alert("cleared", f"{self._context.name} takes events again."))
            del self._context.state[ALERT_KEY]

    def _alert(self, state: events.AlertState, message: str, advice: str = "") -> events.Alert:
        name = self._context.name
        evidence = {"position": self.position, "waiting": len(self._waiting), "tries": self._tries}
        return events.Alert(
            id=self._context.state[ALERT_KEY],
            rule="sink_failing",
            category="plugin",
            severity="warning",
            state=state,
            message=message,
            evidence=evidence,
            advice=advice,
            plugin=name,
        )

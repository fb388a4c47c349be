"""Requests to the broker: `Client` for threads, `AsyncClient` for event loops. What they share is in `trainbus.bus.dealer`."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar, cast

from trainbus.bus import wire
from trainbus.bus.clock import SystemClock
from trainbus.bus.dealer import Dealer, DealerStats
from trainbus.bus.events import AnyEvent, decode
from trainbus.bus.filter import Filter
from trainbus.bus.finder import Finder
from trainbus.bus.lease import Lease
from trainbus.bus.pages import PAGE_EVENTS, Pages
from trainbus.bus.waiting import Waiter, run
from trainbus.errors import UnreachableError

T = TypeVar("T")
Mode: TypeAlias = Literal["shared", "exclusive"]
Names: TypeAlias = Iterable[str]

TIMEOUT_SECONDS = 10.0
"""How long a request waits for its answer unless told otherwise."""

_NOTHING = type(None)
_ANYTHING = cast("type[Any]", Any)
_NAMED = dict[str, Any]


class _Connected:
    """What both clients are: a dealer, a default timeout, figures."""

    def __init__(self, router: str | None = None, *, root: Path | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        self._clock = SystemClock()
        self._finder = Finder(root, router)
        self._dealer = Dealer(self._finder, self._clock)
        self._router, self._root = router, root
        self.timeout = timeout

    def __repr__(self) -> str:
        state = "closed" if self._dealer.closed else "connected" if self._dealer.connected else "not connected"
        where = self._dealer.where
        return f"{type(self).__name__}({where.router if where else self._finder.look()}, {state})"

    def stats(self) -> DealerStats:
        """Figures at this moment."""
        return self._dealer.stats()


class Client(_Connected):
    """Asks the broker. Any thread may call it; calls of several threads take turns, so whoever must not wait opens a client of its own.

    Requests wait for a broker that is being restarted, and are sent again where asking twice does no harm. Every method raises:

    - `UnreachableError`: no answer in time; at once when it is certain that no broker runs;
    - `RefusedError`: the broker said no; ``facts["code"]`` says why (``conflict``, ``unknown``, ``ended``, ...);
    - `ProtocolError`: the broker speaks another version.

    Args:
        router: Address of the broker's request socket. None follows the connection file.
        root: State directory; None is TRAINBUS_HOME or the platform's state folder.
        timeout: Seconds that a request waits for its answer.
    """

    def __init__(self, router: str | None = None, *, root: Path | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        super().__init__(router, root=root, timeout=timeout)
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect."""
        with self._turn:
            self._dealer.close()

    def call(self, request: wire.AnyRequest, result: type[T], *, timeout: float | None = None) -> T:
        """Make any request; ``result`` is the type that the request's docstring names."""
        timeout = self.timeout if timeout is None else timeout
        if not self._turn.acquire(timeout=timeout):
            hint = "Give threads that must not wait for each other a client each."
            raise UnreachableError(f"Other requests of this client took longer than {timeout:.1f} s.", hint=hint, waited=timeout)
        try:
            return run(self._dealer.call(request, result, timeout), self._dealer.sockets)
        finally:
            self._turn.release()

    # --- status, history, runs -------------------------------------------------------------------

    def status(self) -> wire.BrokerStatus:
        """The broker's own figures."""
        return self.call(wire.Status(), wire.BrokerStatus)

    def history(self, after: int = -1, upto: int | None = None, kinds: Names = (), runs: Names = (), limit: int = PAGE_EVENTS) -> wire.Page:
        """One page of the history: events with ``after < offset <= upto``, undecoded. `events` turns the pages."""
        return self.call(Filter(kinds, runs).history(after, upto, limit), wire.Page)

    def events(self, *, kinds: Names = (), runs: Names = (), after: int = -1, upto: int | None = None) -> Iterator[AnyEvent]:
        """Events of the journal in offset order, up to ``upto`` or to the head at the time of the first page."""
        pages = Pages(Filter(kinds, runs), after, upto)
        while pages.question is not None:
            page = self.call(pages.question, wire.Page)
            pages.turn(page)
            yield from (decode(body, offset) for offset, body in page.events)

    def runs(self) -> list[wire.RunInfo]:
        """What the journal knows of each run, newest first."""
        return self.call(wire.Runs(), list[wire.RunInfo])

    def delete_run(self, run: str, *, force: bool = False, timeout: float | None = None) -> int:
        """Delete a run's events, also while it runs with ``force``. Returns how many there were. A million take some ten seconds."""
        return int(self.call(wire.DeleteRun(run=run, force=force), _NAMED, timeout=timeout)["events"])

    def trim_journal(self, upto: int, *, first: int = 0, run: str = "", timeout: float | None = None) -> int:
        """Delete the events at offsets ``first`` to ``upto``, of one run or of all. Returns how many there were.

        Summaries of runs stay; consumers that had not read the events get a gap event. A million events take some ten seconds.
        """
        return int(self.call(wire.TrimJournal(upto=upto, first=first, run=run), _NAMED, timeout=timeout)["events"])

    # --- consumers -------------------------------------------------------------------------------

    def open_cursor(self, consumer: str, start: Literal["beginning", "now"] | int = "beginning") -> wire.Cursor:
        """Open a durable consumer, with its state; ``start`` counts only when it is new."""
        return self.call(wire.OpenCursor(consumer=consumer, start=start), wire.Cursor)

    def commit_cursor(self, consumer: str, offset: int, state: dict[str, bytes | None] | None = None) -> None:
        """Move a cursor forward and write state in one transaction; a value of None deletes its key."""
        self.call(wire.CommitCursor(consumer=consumer, offset=offset, state=state or {}), _NOTHING)

    def reset_cursor(self, consumer: str, offset: int) -> wire.Cursor:
        """Set a cursor anywhere, for replays by hand."""
        return self.call(wire.ResetCursor(consumer=consumer, offset=offset), wire.Cursor)

    def drop_cursor(self, consumer: str) -> None:
        """Forget a consumer: its cursor, state and dead letters."""
        self.call(wire.DropCursor(consumer=consumer), _NOTHING)

    def consumers(self) -> list[wire.Cursor]:
        """All consumers, without their state."""
        return self.call(wire.Consumers(), list[wire.Cursor])

    def dead_letters(self, consumer: str = "") -> list[wire.DeadLetter]:
        """Events put aside, of one consumer or of all."""
        return self.call(wire.DeadLetters(consumer=consumer), list[wire.DeadLetter])

    def add_dead_letter(self, consumer: str, offset: int, attempts: int, reason: str) -> None:
        """Put an event aside that a consumer died on ``attempts`` times."""
        self.call(wire.AddDeadLetter(consumer=consumer, offset=offset, attempts=attempts, reason=reason), _NOTHING)

    # --- leases ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lease(self, resource: str, holder: str, mode: Mode = "shared", ttl: float = 60.0, reason: str = "") -> Iterator[Lease]:
        """Hold a lease while the block runs; a thread with a connection of its own renews it.

        When it can't be renewed in time, `Lease.lost` turns true and `Lease.check` raises; the block is not interrupted.

        Raises:
            RefusedError: Somebody holds the opposite side (code ``conflict``).
        """
        asked = self._clock.now()
        request = wire.TakeLease(resource=resource, holder=holder, mode=mode, ttl=ttl, reason=reason)
        lease = Lease(self.call(request, wire.Lease), ttl, asked, self._clock)
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(lease, ended), name=f"trainbus-lease-{resource}", daemon=True)
        keeper.start()
        try:
            yield lease
        finally:
            ended.set()
            keeper.join()
            # A lease that can't be given back expires by itself.
            with contextlib.suppress(UnreachableError):
                self.call(wire.ReleaseLease(id=lease.id), _NOTHING, timeout=min(self.timeout, ttl))

    def _keep(self, lease: Lease, ended: threading.Event) -> None:
        # Not over the client's own connection: a long request of another thread would hold up the renewal.
        dealer = Dealer(Finder(self._root, self._router), self._clock)
        try:
            while not lease.lost and not ended.wait(lease.pause()):
                run(lease.renew(dealer), dealer.sockets)
        finally:
            dealer.close()

    def leases(self) -> list[wire.Lease]:
        """All leases that are held now."""
        return self.call(wire.Leases(), list[wire.Lease])

    # --- commands --------------------------------------------------------------------------------

    def command(self, run: str, verb: str, *, requested_by: str = "", reason: str = "", plugin: str = "", **arguments: Any) -> str:
        """Ask a run, or a plugin about a run, for something. Returns the command's id, which its `CommandResult` events name."""
        request = wire.SendCommand(run=run, verb=verb, arguments=arguments, requested_by=requested_by, reason=reason, plugin=plugin)
        return str(self.call(request, _NAMED)["id"])

    def supervise(self, verb: str, name: str = "", **arguments: Any) -> Any:
        """Ask the supervisor: ``plugins``, ``installed``, ``log``, ``add``, ``remove``, ``restart``, ``reload``, ``down``."""
        return self.call(wire.Supervise(verb=verb, name=name, arguments=arguments), _ANYTHING)


class AsyncClient(_Connected):
    """As `Client`, awaitable. Any number of tasks of one event loop may call it at once; nobody waits for another's answer."""

    def __init__(self, router: str | None = None, *, root: Path | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        super().__init__(router, root=root, timeout=timeout)
        self._waiter = Waiter(self._dealer.sockets, lambda: self._dealer.exchange.progress)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect."""
        self._dealer.close()

    async def call(self, request: wire.AnyRequest, result: type[T], *, timeout: float | None = None) -> T:
        """As `Client.call`."""
        return await self._waiter.run(self._dealer.call(request, result, self.timeout if timeout is None else timeout))

    async def status(self) -> wire.BrokerStatus:
        """As `Client.status`."""
        return await self.call(wire.Status(), wire.BrokerStatus)

    async def history(
        self, after: int = -1, upto: int | None = None, kinds: Names = (), runs: Names = (), limit: int = PAGE_EVENTS
    ) -> wire.Page:
        """As `Client.history`."""
        return await self.call(Filter(kinds, runs).history(after, upto, limit), wire.Page)

    async def events(self, *, kinds: Names = (), runs: Names = (), after: int = -1, upto: int | None = None) -> AsyncIterator[AnyEvent]:
        """As `Client.events`."""
        pages = Pages(Filter(kinds, runs), after, upto)
        while pages.question is not None:
            page = await self.call(pages.question, wire.Page)
            pages.turn(page)
            for offset, body in page.events:
                yield decode(body, offset)

    async def runs(self) -> list[wire.RunInfo]:
        """As `Client.runs`."""
        return await self.call(wire.Runs(), list[wire.RunInfo])

    async def delete_run(self, run: str, *, force: bool = False, timeout: float | None = None) -> int:
        """As `Client.delete_run`."""
        return int((await self.call(wire.DeleteRun(run=run, force=force), _NAMED, timeout=timeout))["events"])

    async def trim_journal(self, upto: int, *, first: int = 0, run: str = "", timeout: float | None = None) -> int:
        """As `Client.trim_journal`."""
        return int((await self.call(wire.TrimJournal(upto=upto, first=first, run=run), _NAMED, timeout=timeout))["events"])

    async def open_cursor(self, consumer: str, start: Literal["beginning", "now"] | int = "beginning") -> wire.Cursor:
        """As `Client.open_cursor`."""
        return await self.call(wire.OpenCursor(consumer=consumer, start=start), wire.Cursor)

    async def commit_cursor(self, consumer: str, offset: int, state: dict[str, bytes | None] | None = None) -> None:
        """As `Client.commit_cursor`."""
        await self.call(wire.CommitCursor(consumer=consumer, offset=offset, state=state or {}), _NOTHING)

    async def reset_cursor(self, consumer: str, offset: int) -> wire.Cursor:
        """As `Client.reset_cursor`."""
        return await self.call(wire.ResetCursor(consumer=consumer, offset=offset), wire.Cursor)

    async def drop_cursor(self, consumer: str) -> None:
        """As `Client.drop_cursor`."""
        await self.call(wire.DropCursor(consumer=consumer), _NOTHING)

    async def consumers(self) -> list[wire.Cursor]:
        """As `Client.consumers`."""
        return await self.call(wire.Consumers(), list[wire.Cursor])

    async def dead_letters(self, consumer: str = "") -> list[wire.DeadLetter]:
        """As `Client.dead_letters`."""
        return await self.call(wire.DeadLetters(consumer=consumer), list[wire.DeadLetter])

    async def add_dead_letter(self, consumer: str, offset: int, attempts: int, reason: str) -> None:
        """As `Client.add_dead_letter`."""
        await self.call(wire.AddDeadLetter(consumer=consumer, offset=offset, attempts=attempts, reason=reason), _NOTHING)

    @contextlib.asynccontextmanager
    async def lease(self, resource: str, holder: str, mode: Mode = "shared", ttl: float = 60.0, reason: str = "") -> AsyncIterator[Lease]:
        """As `Client.lease`; a task renews it."""
        asked = self._clock.now()
        request = wire.TakeLease(resource=resource, holder=holder, mode=mode, ttl=ttl, reason=reason)
        lease = Lease(await self.call(request, wire.Lease), ttl, asked, self._clock)
        keeper = asyncio.create_task(self._keep(lease), name=f"trainbus-lease-{resource}")
        try:
            yield lease
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])
            with contextlib.suppress(UnreachableError):
                await self.call(wire.ReleaseLease(id=lease.id), _NOTHING, timeout=min(self.timeout, ttl))

    async def _keep(self, lease: Lease) -> None:
        while not lease.lost:
            await asyncio.sleep(lease.pause())
            await self._waiter.run(lease.renew(self._dealer))

    async def leases(self) -> list[wire.Lease]:
        """As `Client.leases`."""
        return await self.call(wire.Leases(), list[wire.Lease])

    async def command(self, run: str, verb: str, *, requested_by: str = "", reason: str = "", plugin: str = "", **arguments: Any) -> str:
        """As `Client.command`."""
        request = wire.SendCommand(run=run, verb=verb, arguments=arguments, requested_by=requested_by, reason=reason, plugin=plugin)
        return str((await self.call(request, _NAMED))["id"])

    async def supervise(self, verb: str, name: str = "", **arguments: Any) -> Any:
        """As `Client.supervise`."""
        return await self.call(wire.Supervise(verb=verb, name=name, arguments=arguments), _ANYTHING)

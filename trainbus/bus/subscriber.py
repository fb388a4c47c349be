"""Reading the bus: `Subscriber` for plain iteration, `AsyncSubscriber` for event loops. What they share is in `trainbus.bus.reading`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, Unpack, cast, overload

from trainbus.bus import wire
from trainbus.bus.events import AnyEvent, decode
from trainbus.bus.reading import Options, Reading, SubscriberStats
from trainbus.bus.stream import Record
from trainbus.bus.waiting import Waiter, run
from trainbus.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    E = TypeVar("E", default=AnyEvent)
else:
    from typing import TypeVar

    E = TypeVar("E")

OPEN_SECONDS = 2.0
"""How long opening waits for a broker that runs, so that ``now`` is the time of opening."""

CLOSE_SECONDS = 5.0
"""How long closing waits for commits to be acknowledged."""


class _Delivery(Generic[E]):
    """Events that were fetched and wait to be handed out."""

    def __init__(self, reading: Reading, *, decoded: bool) -> None:
        self._reading = reading
        self._decoded = decoded
        self._batch: deque[Record] = deque()
        self._last: int | None = None
        self._delivered = 0

    def __repr__(self) -> str:
        stats = self.stats()
        state = "closed" if self._reading.dealer.closed else "connected" if stats.connected else "not connected"
        return f"{type(self).__name__}({self._reading.choice}, position={stats.position}, {state})"

    @property
    def cursor(self) -> wire.Cursor | None:
        """The durable cursor as it was opened, with the consumer's state; None without a consumer, or before the broker was met."""
        return self._reading.cursor

    def stats(self) -> SubscriberStats:
        """Figures at this moment."""
        return self._reading.stats(len(self._batch), self._delivered)

    def _pop(self) -> E:
        record = self._batch.popleft()
        offset = record[0]
        if offset >= 0:  # heartbeats have no place in the journal
            self._last = offset
        self._delivered += 1
        return cast("E", decode(record[1], offset) if self._decoded else record)

    def _commit(self, offset: int | None, state: dict[str, bytes | None] | None) -> None:
        commits = self._reading.commits
        if commits is None:
            raise ConfigError(
                "This subscriber has no durable cursor to commit.", hint="Open it with consumer=NAME.", key="consumer", found=None
            )
        if offset is None:
            opened = self._reading.cursor.offset if self._reading.cursor is not None else -1
            offset = self._last if self._last is not None else opened
        commits.add(offset, state or {})
        self._reading.work()


class Subscriber(_Delivery[E]):
    """Every event of the chosen kinds and runs once, in offset order: history, then live, without a seam.

        with Subscriber(kinds=["step"], start="now") as events:
            for event in events:
                print(event.step, event.metrics)

    What the fan-out drops for a slow reader, and what is missed while a connection is down, comes from the journal. While no broker
    runs, iterating waits for one, also on other ports; `stats` tells ``connected``. Opening waits at most `OPEN_SECONDS`.
    One thread at a time may use it.

    Raises from any call, and again from each later one: `JournalError` when the broker serves another journal than the one that this
    reader's place is in, `RefusedError` when it refuses to be read. `msgspec.DecodeError` is raised for an event whose body this
    version can't read; the next call goes on behind it.

    Args:
        kinds: Kinds of events, known to this version or not; empty means all but heartbeats, which must be asked for by name.
        runs: Run ids; empty means all.
        decode: False gives (offset, body) pairs instead of events.
        options: See `Options`.
    """

    @overload
    def __init__(
        self: Subscriber[AnyEvent],
        kinds: Iterable[str] = (),
        runs: Iterable[str] = (),
        *,
        decode: Literal[True] = True,
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: Subscriber[Record], kinds: Iterable[str] = (), runs: Iterable[str] = (), *, decode: Literal[False], **options: Unpack[Options]
    ) -> None: ...
    def __init__(
        self: Any, kinds: Iterable[str] = (), runs: Iterable[str] = (), *, decode: bool = True, **options: Unpack[Options]
    ) -> None:
        _Delivery.__init__(self, Reading(kinds, runs, **options), decoded=decode)
        try:
            self.ready()
        except BaseException:
            self._reading.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> E:
        if not self._batch and not self._fill(None):
            raise StopIteration
        return self._pop()

    def next(self, timeout: float | None = None) -> E | None:
        """The next event; None when none came within ``timeout`` seconds (None: wait for as long as it takes) or after `close`."""
        if not self._batch and not self._fill(timeout):
            return None
        return self._pop()

    def ready(self, timeout: float = OPEN_SECONDS) -> bool:
        """Wait until the place to start from is fixed. False: no broker yet; ``now`` will be the time at which one is met."""
        return run(self._reading.ready(timeout), self._reading.sockets)

    def commit(
        self, offset: int | None = None, state: dict[str, bytes | None] | None = None, *, wait: bool = False, timeout: float = CLOSE_SECONDS
    ) -> bool:
        """Move the durable cursor to ``offset``, by default that of the last event handed out, and write the consumer's state with it.

        Returns at once, and later commits go together while one is on its way; with ``wait`` it returns when all are acknowledged.
        Commits travel while some method of the subscriber is called.

        Returns:
            Whether everything committed so far is acknowledged.

        Raises:
            ConfigError: The subscriber has no consumer.
        """
        self._commit(offset, state)
        return run(self._reading.settle(timeout if wait else 0.0), self._reading.sockets)

    def close(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Wait for commits to be acknowledged, and disconnect. False when some were not: their events come again."""
        if self._reading.dealer.closed:
            return True
        try:
            return run(self._reading.settle(timeout), self._reading.sockets)
        finally:
            self._reading.close()

    def _fill(self, timeout: float | None) -> bool:
        self._batch = deque(run(self._reading.fetch(timeout), self._reading.sockets))
        return bool(self._batch)


class AsyncSubscriber(_Delivery[E]):
    """As `Subscriber`, for ``async for``. One task at a time may use it; other tasks of the loop run while it waits.

    async with AsyncSubscriber(kinds=["alert"], consumer="pager") as events:
        async for event in events:
            await page(event)
            await events.commit()
    """

    @overload
    def __init__(
        self: AsyncSubscriber[AnyEvent],
        kinds: Iterable[str] = (),
        runs: Iterable[str] = (),
        *,
        decode: Literal[True] = True,
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: AsyncSubscriber[Record],
        kinds: Iterable[str] = (),
        runs: Iterable[str] = (),
        *,
        decode: Literal[False],
        **options: Unpack[Options],
    ) -> None: ...
    def __init__(
        self: Any, kinds: Iterable[str] = (), runs: Iterable[str] = (), *, decode: bool = True, **options: Unpack[Options]
    ) -> None:
        _Delivery.__init__(self, Reading(kinds, runs, **options), decoded=decode)
        self._waiter = Waiter(self._reading.sockets)

    async def __aenter__(self) -> Self:
        await self.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        if not self._batch and not await self._fill(None):
            raise StopAsyncIteration
        return self._pop()

    async def next(self, timeout: float | None = None) -> E | None:
        """As `Subscriber.next`."""
        if not self._batch and not await self._fill(timeout):
            return None
        return self._pop()

    async def ready(self, timeout: float = OPEN_SECONDS) -> bool:
        """As `Subscriber.ready`; ``async with`` does it."""
        return await self._waiter.run(self._reading.ready(timeout))

    async def commit(
        self, offset: int | None = None, state: dict[str, bytes | None] | None = None, *, wait: bool = False, timeout: float = CLOSE_SECONDS
    ) -> bool:
        """As `Subscriber.commit`."""
        self._commit(offset, state)
        return await self._waiter.run(self._reading.settle(timeout if wait else 0.0))

    async def close(self, timeout: float = CLOSE_SECONDS) -> bool:
        """As `Subscriber.close`."""
        if self._reading.dealer.closed:
            return True
        try:
            return await self._waiter.run(self._reading.settle(timeout))
        finally:
            self._reading.close()

    async def _fill(self, timeout: float | None) -> bool:
        self._batch = deque(await self._waiter.run(self._reading.fetch(timeout)))
        return bool(self._batch)

"""The context that a host gives to hooks: `trainbus.hookspecs.Context` over the real bus."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from trainbus.bus.client import AsyncClient, Client
from trainbus.bus.drain import drain_orphans, spools
from trainbus.bus.events import AnyEvent, Event
from trainbus.bus.hosting.dispatch import handled_run
from trainbus.bus.hosting.silent import SilentPublisher
from trainbus.bus.publisher import Publisher
from trainbus.errors import RefusedError, UnreachableError
from trainbus.hookspecs import HeldLease, LeaseRefusedError

FLUSH_POLL = 0.05
"""Seconds between looks at what a dead process of the plugin has left."""
DRAIN_PATIENCE = 2.0
"""Seconds without an acknowledgement after which sending it is tried anew."""


class HostContext:
    """What hooks can see and do. Made by the host; see `trainbus.hookspecs.Context` for what each name promises."""

    def __init__(
        self,
        name: str,
        config: Any,
        *,
        root: Path,
        directory: Path,
        logger: logging.Logger,
        state: MutableMapping[str, Any],
        publisher: Publisher | SilentPublisher,
        client: AsyncClient,
        announced: Callable[[str], None],
        journal: str = "",
    ) -> None:
        self.name = name
        self.journal = journal
        self.config = config
        self.directory = directory
        self.logger = logger
        self.state = state
        self._root = root
        self._publisher = publisher
        self._client = client
        self._announced = announced
        self._loop = asyncio.get_running_loop()
        self._asking: set[asyncio.Future[str]] = set()
        self.acts = 0
        """Events published and commands asked for so far."""

    def publish(self, event: Event) -> None:
        """Publish an event of this plugin's own source."""
        self.acts += 1
        if not event.run:
            event.run = handled_run.get()
        self._publisher.publish(event)

    async def flush(self, timeout: float = 10.0) -> bool:
        """Wait until the journal has everything that this plugin has published, also what a process of it that died has left."""
        end = time.monotonic() + timeout
        while await asyncio.to_thread(self._left_behind):
            if time.monotonic() > end:
                return False
            await asyncio.sleep(FLUSH_POLL)
        return await asyncio.to_thread(self._publisher.flush, max(0.0, end - time.monotonic()))

    def _left_behind(self) -> bool:
        """Whether a dead process of this plugin has left events. They are sent here, in case that nobody else does."""
        name, own = f"plugin:{self.name}", getattr(self._publisher, "source", "")
        try:
            if not any(one.name == name and one.source != own and one.waiting and not one.problem for one in spools(self._root)):
                return False
            drain_orphans(self._root, patience=DRAIN_PATIENCE)
        except (FileNotFoundError, UnreachableError):  # one is just being removed, or no broker is there
            pass
        return True

    def command(self, run: str, verb: str, *, reason: str = "", plugin: str = "", **arguments: Any) -> Awaitable[str]:
        """Ask a run, or a plugin. It is on its way also when nobody awaits it; a refusal is then logged. Callable from any thread."""
        self.acts += 1
        asked: asyncio.Future[str] = self._loop.create_future()
        self._asking.add(asked)  # the loop itself holds tasks only weakly
        request = self._client.command(run, verb, requested_by=f"plugin:{self.name}", reason=reason, plugin=plugin, **arguments)
        asked.add_done_callback(lambda done: self._asked(done, verb, run))
        self._loop.call_soon_threadsafe(self._ask, asked, request)
        return asked

    def supervise(self, verb: str, name: str = "", **arguments: Any) -> Awaitable[Any]:
        """Ask the supervisor."""
        return self._client.supervise(verb, name, **arguments)

    def query(self, *, kinds: Sequence[str] = (), runs: Sequence[str] = (), after: int = -1, upto: int | None = None) -> Iterator[AnyEvent]:
        """Events of the journal. A connection of its own: a hook may ask from a thread of its own, too."""
        with Client(root=self._root) as client:
            yield from client.events(kinds=kinds, runs=runs, after=after, upto=upto)

    def aquery(
        self, *, kinds: Sequence[str] = (), runs: Sequence[str] = (), after: int = -1, upto: int | None = None
    ) -> AsyncIterator[AnyEvent]:
        """Events of the journal, without blocking the loop."""
        return self._client.events(kinds=kinds, runs=runs, after=after, upto=upto)

    @contextmanager
    def lease(
        self, resource: str, *, mode: Literal["shared", "exclusive"] = "shared", reason: str = "", ttl: float = 60.0
    ) -> Iterator[None]:
        """Hold a lease while the block runs.

        Raises:
            LeaseRefusedError: Somebody holds the opposite side.
        """
        with Client(root=self._root) as client:
            try:
                lease = client.lease(resource, f"plugin:{self.name}", mode, ttl, reason)
                lease.__enter__()
            except RefusedError as error:
                if error.facts.get("code") != "conflict":
                    raise
                raise LeaseRefusedError(error.problem) from error
            try:
                yield
            finally:
                lease.__exit__(None, None, None)

    def held(self) -> list[HeldLease]:
        """All leases that are held now."""
        with Client(root=self._root) as client:
            return [
                HeldLease(resource=each.resource, holder=each.holder, mode=each.mode, reason=each.reason, expires_in=each.expires_in)
                for each in client.leases()
            ]

    def announce(self, *, url: str) -> None:
        """Tell the supervisor an address at which people reach this plugin."""
        self._announced(url)

    async def settle(self, limit: float) -> None:
        """Wait until commands that nobody awaited are sent; at most ``limit`` seconds."""
        if self._asking:
            await asyncio.wait(set(self._asking), timeout=limit)

    def _ask(self, asked: asyncio.Future[str], request: Coroutine[Any, Any, str]) -> None:
        async def pass_on() -> None:
            try:
                answer = await request
            except Exception as error:  # noqa: BLE001 - handed to whoever awaits it, and logged
                if not asked.done():
                    asked.set_exception(error)
            else:
                if not asked.done():
                    asked.set_result(answer)

        task = self._loop.create_task(pass_on())
        asked.add_done_callback(lambda done: task.cancel() if done.cancelled() else None)

    def _asked(self, done: asyncio.Future[str], verb: str, run: str) -> None:
        self._asking.discard(done)
        if not done.cancelled() and (error := done.exception()) is not None:
            self.logger.warning("command %s for run %s was not taken: %s", verb, run, error)

"""The broker's process: sockets, threads and clocks around the core.

Three threads. This one receives, decides and sends, and commits small batches itself. The committer writes the larger ones, one at a
time, so that receiving goes on during its fsync and all that came meanwhile is the next batch (group commit). The reader serves pages
of history from a connection of its own.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import zmq
from msgspec import structs

from trainbus.bus import home, wire
from trainbus.bus.broker import retention
from trainbus.bus.broker.answers import failure, reply
from trainbus.bus.broker.batch import Batch
from trainbus.bus.broker.core import BrokerCore, Identity
from trainbus.bus.broker.effects import Effect, Fan, PlanRetention, ReadHistory, Send
from trainbus.bus.broker.gate import Door, Gate
from trainbus.bus.broker.journal import Journal
from trainbus.bus.broker.replay import HistoryReader
from trainbus.bus.broker.sockets import Sockets
from trainbus.bus.broker.worker import Worker
from trainbus.bus.config import BusConfig
from trainbus.errors import JournalError, TrainbusError, UnreachableError
from trainbus.version import __version__

logger = logging.getLogger(__name__)

MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""Events received ahead of the journal. Beyond, the socket is left unread, and publishers wait (their spools don't)."""

MAX_PAGES_WAITING = 256
"""History pages waiting to be read; further requests are refused, so that a flood of them can't fill the memory."""

TICK_SECONDS = 0.25
"""At most so long between two ticks; less when `lost_after` or `heartbeat_interval` are short."""

SMALL_BATCH = 64
"""Events that are committed by the receiving thread itself; what comes meanwhile waits in the socket and is the next batch."""

SLOW_COMMIT_SECONDS, HAND_OVER_SECONDS = 0.02, 1.0
"""After a commit that took longer than the first, all go to the committer for the second: a slow disk holds up no answers."""

LAST_DRAIN_SECONDS = 2.0
"""How long a stopping broker goes on at most taking what was sent to it."""

DRAIN_QUIET_SECONDS = 0.05
"""It stops before that once nothing has come for so long."""


def run_broker(
    config: BusConfig,
    root: Path,
    *,
    ready: Callable[[home.Connection], None] | None = None,
    stop: threading.Event | None = None,
    lifeline: int | None = None,
) -> None:
    """Serve the journal of ``root`` until ``stop`` is set, SIGTERM or SIGINT arrives, or ``lifeline`` ends.

    Args:
        config: The ``[bus]`` section.
        root: TRAINBUS_HOME.
        ready: Called once when the broker listens and the connection file is written.
        stop: Ends the broker when set (looked at several times a second).
        lifeline: Read end of a pipe whose write end the parent holds: its end of file means that the parent is dead.

    Raises:
        JournalError: The journal can't be opened, or another broker has it.
        ConfigError: An address or port can't be used, or the keys can't be read.
    """
    gate = Gate(root)
    journal = Journal(root / "journal.db", synchronous=config.synchronous)
    try:
        loop = _Loop(config, root, journal, gate, stop or threading.Event(), lifeline)
        try:
            loop.run(ready)
        finally:
            loop.close()
    finally:
        journal.close()


class _Loop:
    """Everything that lives as long as one call of `run_broker`."""

    def __init__(
        self,
        config: BusConfig,
        root: Path,
        journal: Journal,
        gate: Gate,
        stop: threading.Event,
        lifeline: int | None,
    ) -> None:
        self._config = config
        self._root = root
        self._journal = journal
        self._gate = gate
        self._door = Door(root)
        self._sockets = Sockets(config, gate.book, self._door.admit)
        self._stop = stop
        self._lifeline = lifeline
        self._tick_seconds = min(TICK_SECONDS, config.heartbeat_interval / 2, config.lost_after / 10)
        self._ticked = 0.0
        self._hand_over_until = 0.0
        self._pages = 0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._reader_connection: HistoryReader | None = None
        self._committer = Worker("trainbus-committer", self._wake)
        self._reader = Worker("trainbus-reader", self._wake, ending=self._close_reader)
        self.connection = home.Connection(
            router=self._sockets.router_address,
            xpub=self._sockets.xpub_address,
            server_key=gate.book.public_key if gate.book is not None else "",
            journal=journal.contents.journal,
            pid=os.getpid(),
            host=socket.gethostname(),
            supervisor=os.getppid() if lifeline is not None else None,
            started=time.time_ns(),
            version=__version__,
        )
        identity = Identity(
            pid=self.connection.pid,
            host=self.connection.host,
            version=__version__,
            journal_path=str(journal.path),
            router=self.connection.router,
            xpub=self.connection.xpub,
        )
        self._core = BrokerCore(
            journal.contents,
            config,
            now=time.monotonic(),
            wall=time.time_ns,
            new_id=lambda: secrets.token_hex(8),
            identity=identity,
            authorize=gate.authorize,
        )

    def run(self, ready: Callable[[home.Connection], None] | None) -> None:
        """Announce the broker, serve, and take the announcement back."""
        with self._signals():
            self._announce()
            logger.info("broker listens on %s, journal %s", self.connection.router, self._journal.path)
            if ready is not None:
                ready(self.connection)
            try:
                self._serve()
                self._drain()
            finally:
                self._withdraw()

    def close(self) -> None:
        """End the threads; a commit that hangs in the disk is not waited for longer than `stop_timeout`."""
        self._committer.close(self._config.stop_timeout)
        self._reader.close(self._config.stop_timeout)
        self._sockets.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        poller.register(self._sockets.router, zmq.POLLIN)
        poller.register(self._sockets.xpub, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        if self._lifeline is not None:
            poller.register(self._lifeline, zmq.POLLIN)
        return poller

    def _serve(self) -> None:
        poller, sockets = self._poller(), self._sockets
        while not self._stop.is_set():
            if self._sockets is not sockets:
                poller, sockets = self._poller(), self._sockets
            full = self._core.queued_bytes > MAX_QUEUED_BYTES
            poller.register(self._sockets.router, 0 if full else zmq.POLLIN)
            found = dict(poller.poll(int(self._tick_seconds * 1000)))
            if self._wake_read in found:
                self._quiet_wake()
            if self._lifeline is not None and self._lifeline in found and not os.read(self._lifeline, 512):
                logger.info("the process that started this broker has let go of it: stopping")
                return
            self._turn(receive=self._sockets.router in found, subscriptions=self._sockets.xpub in found)

    def _drain(self) -> None:
        """Take in what publishers have sent already, and commit it: they would only have to send it again."""
        now = time.monotonic()
        until, quiet = now + LAST_DRAIN_SECONDS, now + DRAIN_QUIET_SECONDS
        while now < until and now < quiet:
            if self._turn(receive=True) or self._core.busy:
                quiet = time.monotonic() + DRAIN_QUIET_SECONDS
            self._sockets.router.poll(int(DRAIN_QUIET_SECONDS * 100))
            now = time.monotonic()

    def _turn(self, *, receive: bool, subscriptions: bool = True) -> bool:
        """One round: take what is there, commit, send. Whether anything was received."""
        received = False
        now = time.monotonic()
        for topic in self._sockets.subscriptions() if subscriptions else ():
            if wire.COMMIT_TOPIC.startswith(topic):
                self._core.subscribed()
        if receive:
            for peer, frames, user in self._sockets.receive():
                received = True
                self._core.receive_frame(peer, frames[0] if len(frames) == 1 else b"", now, user)
                if self._committer.finished:
                    break  # the disk is idle: the next batch first
        self._committer.finish()
        self._reader.finish()
        if now - self._ticked >= self._tick_seconds:
            self._ticked = now
            self._check_keys()
            self._core.journal_bytes = self._journal.bytes()
            self._core.tick(now)
        self._act()
        while (batch := self._core.take_batch()) is not None:
            if len(batch.rows) > SMALL_BATCH or batch.delete is not None or now < self._hand_over_until:
                self._committer.submit(partial(self._commit, batch))
                break
            # Without the two changes of threads that the committer costs: 0.2 ms on an idle machine, 1 ms on a busy one.
            self._commit(batch)()
            self._act()
        self._act()
        return received

    def _act(self) -> None:
        for effect in self._core.take_effects():
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                self._sockets.send(peer, wire.encode(message))
            case Fan(frame):
                self._sockets.fan(frame)
            case ReadHistory() if self._pages >= MAX_PAGES_WAITING:
                busy = wire.Failure(
                    id=effect.id, code="busy", problem="Too many pages of history are asked for at once.", hint="Try again."
                )
                self._sockets.send(effect.peer, wire.encode(busy))
            case ReadHistory():
                self._pages += 1
                self._reader.submit(lambda: self._read(effect))
            case PlanRetention():
                self._reader.submit(lambda: self._plan(effect))

    # --- keys ---------------------------------------------------------------------------------------

    def _check_keys(self) -> None:
        """Follow the book of keys. Whoever lost a right must not keep the connections that it had."""
        if self._gate.look():
            self._reopen()
        if self._gate.keyed:
            keys = self._gate.status(self._door.refused)
            keys.problem = keys.problem or self._sockets.problem
            self._core.guarded(keys)

    def _reopen(self) -> None:
        """Make both sockets anew on the same ports, so that everybody has to shake hands again.

        libzmq has no (stable) way to end one peer's connection. Clients connect again within a second: publishers send again what is
        not acknowledged, subscribers fetch what they missed, so nobody but the one who is shut out loses anything.
        """
        logger.info("keys have changed: all connections are made anew")
        self._sockets.close()
        self._sockets = Sockets(self._config, self._gate.book, self._door.admit)
        before = structs.replace(self.connection)
        self.connection.router, self.connection.xpub = self._sockets.router_address, self._sockets.xpub_address
        self.connection.server_key = self._gate.book.public_key if self._gate.book is not None else ""
        if self.connection != before:
            self._core.identity = structs.replace(self._core.identity, router=self.connection.router, xpub=self.connection.xpub)
            home.write_connection(self.connection, self._root)

    # --- in the committer's thread, or this one ---------------------------------------------------

    def _commit(self, batch: Batch) -> Callable[[], None]:
        began = time.monotonic()
        try:
            return self._committed(batch)
        finally:
            ended = time.monotonic()
            if ended - began > SLOW_COMMIT_SECONDS:
                self._hand_over_until = ended + HAND_OVER_SECONDS

    def _committed(self, batch: Batch) -> Callable[[], None]:
        try:
            deleted = self._journal.append(batch)
        except TrainbusError as error:
            logger.error("%s", error)  # noqa: TRY400 - an error for people, with its hint; the traceback would say less
            refused = error
            return lambda: self._core.commit_failed(batch, refused)
        return lambda: self._core.committed(batch, deleted)

    # --- in the reader's thread ---------------------------------------------------------------------

    def _read(self, effect: ReadHistory) -> Callable[[], None]:
        answer: wire.Message
        try:
            answer = reply(effect.id, self._history().page(effect.request, effect.head))
        except TrainbusError as error:
            answer = failure(effect.id, error)
        frame = wire.encode(answer)

        def send() -> None:
            self._pages -= 1
            self._sockets.send(effect.peer, frame)

        return send

    def _plan(self, effect: PlanRetention) -> Callable[[], None]:
        try:
            plan = retention.plan(self._history(), self._config, effect.wall)
        except (TrainbusError, sqlite3.Error) as error:
            logger.error("retention: %s", error)  # noqa: TRY400 - as above
            return lambda: None
        return lambda: self._core.trim(plan)

    def _history(self) -> HistoryReader:
        if self._reader_connection is None:
            self._reader_connection = HistoryReader(self._journal.path)
        return self._reader_connection

    def _close_reader(self) -> None:
        if self._reader_connection is not None:
            self._reader_connection.close()

    # --- waking and ending --------------------------------------------------------------------------

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full: the loop has a reason to wake up already
            os.write(self._wake_write, b"\0")

    def _quiet_wake(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _announce(self) -> None:
        try:
            home.write_connection(self.connection, self._root)
        except OSError as error:
            file = home.connection_file(self._root)
            hint = "Free some disk space, or look at the folder's rights. Publishers keep their events until then."
            raise JournalError(f"{file} can't be written: {error.strerror}.", hint=hint, file=str(file)) from error

    def _withdraw(self) -> None:
        """Remove the connection file, unless another broker has announced itself in it meanwhile."""
        with suppress(UnreachableError):
            if home.read_connection(self._root).started == self.connection.started:
                home.connection_file(self._root).unlink(missing_ok=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the loop, where it runs in the main thread (only there can signals be handled)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: Any) -> None:
            self._stop.set()
            self._wake()

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

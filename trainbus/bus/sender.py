"""The owner thread of a publisher: everything that may take time happens here.

It looks for events each flush interval while some come, sleeps when none do (the next event wakes it), keeps the spool a segment ahead,
sends through the channel, and drains orphaned spools of this machine once its own backlog is gone. It never dies of an exception.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trainbus.bus import wire
from trainbus.bus.channel import Channel
from trainbus.bus.config import BusConfig
from trainbus.bus.drain import drain_orphans, orphans
from trainbus.bus.events import Command
from trainbus.bus.link import Link, State
from trainbus.bus.outbox import Outbox
from trainbus.bus.spool import Identity
from trainbus.errors import TrainbusError

if TYPE_CHECKING:
    from trainbus.bus.publisher import Publisher

logger = logging.getLogger("trainbus")

NO_BROKER_SECONDS, NO_ANSWER_SECONDS = 0.7, 2.0
"""flush() and close() wait no longer than this where no broker is known (the connection file is looked for each 0.5 s), and where
one is known that does not answer."""
ACTIVE_SECONDS = 1.0
"""A trainer's thread goes on ticking this long after the last event, so that publish() need not wake it at each."""
ACTIVE_TICKS = 5
"""Any other's goes on for this many flush intervals: nobody's training waits in its publish(), and where events come more seldom, a
wake for each costs less than the ticks between them."""
COPY_POLL_SECONDS = 0.002
"""How often copies from an accelerator are looked at while there are any."""
OFFLINE_TICK_SECONDS = 0.05
"""Without a broker the thread only keeps the spool's pages ready: `PREFAULT_BYTES` last a tight loop for longer than this."""
LISTEN_SECONDS = 0.1
"""With a longer flush interval messages are read as they come: commands must not wait for it."""
NO_PIPE = -1
"""In place of a file descriptor."""
FAULT_PAUSE_SECONDS = 0.5
"""Pause after an unexpected exception, so that one that repeats does not burn a core."""


class Sender:
    """The thread, and what other threads ask of it.

    ``asleep`` is True while the thread waits without ticking: whoever publishes then must call `wake`.
    """

    def __init__(
        self,
        publisher: Publisher,
        outbox: Outbox,
        identity: Identity,
        settings: BusConfig,
        *,
        root: Path,
        router: str | None,
        on_command: Callable[[Command], None] | None,
    ) -> None:
        self.asleep = False
        self.problem = ""
        self._publisher = publisher
        self._outbox = outbox
        self._root = root
        self._router = router
        self._tick = max(settings.flush_interval, 0.001)
        self._active = ACTIVE_SECONDS if identity.owner else ACTIVE_TICKS * self._tick
        self._immediate = settings.flush_interval == 0
        self._on_command = on_command
        hello = wire.Hello(
            protocol=wire.PROTOCOL,
            source=identity.source,
            run=identity.run,
            name=identity.name,
            host=identity.host,
            pid=identity.pid,
            owner=identity.owner,
        )
        self._link = Link(hello, outbox, beat=publisher.vitals, heartbeat_interval=settings.heartbeat_interval, on_command=self._deliver)
        self._channel: Channel | None = None
        self._reader = self._writer = NO_PIPE
        self._called = select.poll()
        self._close_pipe: Callable[[], object] = lambda: None
        self._open_pipe()
        self._woken = False
        self._acknowledged = threading.Condition()
        self._flush_asked = False
        self._flushing = 0
        self._leave_by: float | None = None
        self._settled = False
        self._ended = threading.Event()
        self._said_problem = ""
        self._said_dropped = False
        self._stop_draining = threading.Event()
        self._looked_for_orphans = False
        self._backlog: int | None = None
        self._thread = threading.Thread(target=self._run, name=f"trainbus-{identity.source}", daemon=True)
        self._seen_next = 0
        self._active_until = 0.0
        self._flush_at = 0.0

    @property
    def connected(self) -> bool:
        """Whether the broker has welcomed the source."""
        return self._link.state is State.READY

    def start(self) -> None:
        """Start the thread; without one (none can be started at interpreter exit) events still reach the spool."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self._ended.set()
            self.problem = f"no thread can be started: {error}"
            logger.warning("trainbus: %s; events stay in the spool until `trainbus spool drain`.", self.problem)

    def wake(self) -> None:
        """Have the thread look at once. Costs a flag when it is already called for."""
        self.asleep = False
        if not self._woken:
            self._woken = True
            with contextlib.suppress(OSError):  # the pipe is full, or closed
                os.write(self._writer, b"\0")

    def flush(self, timeout: float) -> bool:
        """See `Publisher.flush`."""
        target = self._outbox.next
        started = time.monotonic()
        with self._acknowledged:
            self._flushing += 1
            try:
                return self._wait_for(target, started, timeout)
            finally:
                self._flushing -= 1

    def _wait_for(self, target: int, started: float, timeout: float) -> bool:
        """Wait, holding the condition, until all seqs below ``target`` are acknowledged."""
        while self._outbox.acknowledged < target:
            now = time.monotonic()
            left = started + timeout - now
            if left <= 0 or self._ended.is_set() or (not self.connected and now - started > self._patience()):
                return False
            self._flush_asked = True
            self.wake()
            self._acknowledged.wait(min(left, 0.1))
        return True

    def leave(self, timeout: float) -> None:
        """Have the thread send what is left, for at most ``timeout`` seconds from now, and end."""
        self._leave_by = max(time.monotonic() + timeout, self._leave_by or 0.0)
        self._woken = False
        self.wake()

    def ended(self, timeout: float) -> bool:
        """Wait for the thread, which was told to leave; whether everything is acknowledged."""
        if self._thread is not threading.current_thread():
            self._ended.wait(timeout + NO_ANSWER_SECONDS)
        return self._settled

    def _open_pipe(self) -> None:
        """The pipe that wakes the thread. Without one (no file descriptors are left) it looks by itself, and tries again."""
        try:
            self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        self._called.register(self._reader, select.POLLIN)
        # Not closed with the thread: a late `wake` would write into whatever file gets the number next.
        close = weakref.finalize(self, _close, self._reader, writer)
        close.atexit = False
        self._close_pipe = close
        self._writer = writer

    def disown(self) -> None:
        """In a forked child: let go of what was inherited."""
        self._close_pipe()

    def _run(self) -> None:
        leaving_since: float | None = None
        while True:
            try:
                if self._channel is None:
                    self._channel = Channel(self._link, root=self._root, router=self._router)
                now = time.monotonic()
                if self._leave_by is not None and leaving_since is None:
                    leaving_since = now
                    self._link.leave()
                self._turn(self._channel, now)
                if leaving_since is not None and self._may_end(now, leaving_since):
                    break
                self._rest(self._channel)
            except Exception:
                self._publisher.complain("the sending thread met an unexpected error and goes on", "see the traceback below")
                logger.exception("trainbus: unexpected error")
                if self._leave_by is not None and time.monotonic() > self._leave_by:
                    break
                time.sleep(FAULT_PAUSE_SECONDS)
        self._end()

    def _turn(self, channel: Channel, now: float) -> None:
        outbox = self._outbox
        self.asleep = False
        if self._writer == NO_PIPE:
            self._open_pipe()
        with contextlib.suppress(OSError):  # nobody called, or there is no pipe
            os.read(self._reader, 4096)
            self._flush_at = now  # somebody called: what is there goes out now
        self._woken = False  # after reading: a call that finds it set is one whose event we are about to see
        outbox.prepare(now)
        self._publisher.settle()
        if outbox.next != self._seen_next:
            self._seen_next = outbox.next
            self._active_until = now + self._active
        before = outbox.acknowledged
        flush = self._immediate or self._flush_asked or self._leave_by is not None or now >= self._flush_at
        if flush:
            self._flush_at = now + self._tick
            self._flush_asked = False
        channel.pump(now, flush=flush)
        if outbox.acknowledged != before:
            with self._acknowledged:
                self._acknowledged.notify_all()
        self._speak()
        if not self._looked_for_orphans and self._leave_by is None and self._backlog_is_gone():
            self._looked_for_orphans = True
            self._drain()

    def _backlog_is_gone(self) -> bool:
        """Whether everything that had been published when the broker was first met is committed.

        Not whether everything is: in a busy training some event is on its way at every look.
        """
        if self._backlog is None:
            if not self.connected:
                return False
            self._backlog = self._outbox.next
        return self._outbox.acknowledged >= self._backlog

    def _rest(self, channel: Channel) -> None:
        """Wait for messages, a call, or the next thing that is due."""
        now = time.monotonic()
        until = min(channel.wake_at(), now + 1.0)
        if self._leave_by is not None:
            until = min(until, now + 0.02)
        elif self._publisher.waiting:
            until = min(until, now + COPY_POLL_SECONDS)
        elif not self._immediate and now < self._active_until:
            if self.connected and self._tick <= LISTEN_SECONDS and self._outbox.acknowledged == self._outbox.next:
                self._look_for_events(min(until, self._active_until, now + LISTEN_SECONDS))
                return
            until = min(until, self._flush_at if self.connected else now + max(self._tick, OFFLINE_TICK_SECONDS))
        else:
            self.asleep = True
            if self._outbox.next != self._seen_next:  # published before it could see the flag
                self.asleep = False
                return
        if self._must_listen():
            channel.wait(until - now, (self._reader,) if self._writer != NO_PIPE else ())
        else:
            self._called.poll(max(0, int((until - now) * 1000 + 0.999)))

    def _look_for_events(self, until: float) -> None:
        """Nothing is on its way: look each tick for what is new, and at nothing else. A turn costs ten times that, beside a training."""
        outbox, tick = self._outbox, int(self._tick * 1000 + 0.999)
        settled = outbox.acknowledged
        while not self._called.poll(tick) and outbox.next == settled and time.monotonic() < until:
            pass

    def _must_listen(self) -> bool:
        """Whether a message from the broker is worth waking up for before the next tick.

        Most are acknowledgements, one for each batch: read with the next tick they cost training one turn of this thread less.
        """
        waited_for = self._flushing > 0 or self._leave_by is not None or self._link.crowded
        return self.asleep or self._immediate or waited_for or not self.connected or self._tick > LISTEN_SECONDS

    def _may_end(self, now: float, since: float) -> bool:
        assert self._leave_by is not None
        if self._link.said_bye or now >= self._leave_by:
            return True
        if self.connected:
            return False
        nothing_to_say = self._outbox.acknowledged >= self._outbox.next
        return nothing_to_say or self._channel is None or self._channel.address is None or now - since > self._patience()

    def _patience(self) -> float:
        """Seconds to wait for a broker that has not welcomed us."""
        known = self._channel is not None and self._channel.address is not None
        return NO_ANSWER_SECONDS if known else NO_BROKER_SECONDS

    def _end(self) -> None:
        """Close everything; whoever waits in close() or flush() goes on."""
        self._stop_draining.set()
        try:
            if self._channel is not None:
                self._channel.close()
            self._settled = self._outbox.close()
            if not self._settled:
                left = self._outbox.next - self._outbox.acknowledged
                logger.info("trainbus: %d events of %s stay in %s", left, self._publisher.run, self._outbox.spool.path)
        except FileNotFoundError:
            logger.warning("trainbus: somebody has removed %s, with events of %s in it", self._outbox.spool.path, self._publisher.run)
        except Exception:
            logger.exception("trainbus: closing failed; what was published stays in %s", self._outbox.spool.path)
        finally:
            self._ended.set()
            with self._acknowledged:
                self._acknowledged.notify_all()

    def _deliver(self, command: Command) -> None:
        if self._on_command is None:
            return
        try:
            self._on_command(command)
        except Exception:
            logger.exception("trainbus: on_command failed for %s %s", command.verb, command.id)

    def _speak(self) -> None:
        """Say loudly, once each, what a person should mend."""
        self.problem = self._link.problem
        if self.problem and self.problem != self._said_problem:
            self._said_problem = self.problem
            logger.warning("trainbus: the broker can't be used: %s. Events stay in the spool. Training goes on.", self.problem)
        outbox = self._outbox
        if outbox.problem and outbox.in_memory and not self._said_dropped:
            self._said_dropped = True
            logger.warning(
                "trainbus: events can't be spooled in %s (%s). Training goes on, but new events are only kept in memory: they are"
                " lost when this process is killed, and the oldest are dropped when there are too many. Free space there, or start the"
                " broker with `trainbus up`, or set TRAINBUS_HOME to a disk with room.",
                outbox.spool.path.parent,
                outbox.problem,
            )

    def _drain(self) -> None:
        """Once, when our own backlog is gone: send what dead processes of this machine left, in a thread that ends with it."""

        def work() -> None:
            try:
                drain_orphans(self._root, self._router, stop=self._stop_draining)
            except TrainbusError as error:
                logger.info("trainbus: orphaned spools stay: %s", error.problem)
            except Exception:
                logger.exception("trainbus: draining orphaned spools failed")

        if orphans(self._root):
            threading.Thread(target=work, name="trainbus-drain", daemon=True).start()


def _close(*fds: int) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)

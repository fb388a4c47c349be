"""The publisher: takes events from any thread, keeps them in a spool, and has one thread send them.

What `Publisher.publish` promises: it never blocks, never raises, does no I/O beyond copying into mapped memory, and what it returned
from survives kill -9 of this process. Exceptions to the last part: an event with a value that is still on an accelerator, and those
behind it, wait in memory for that copy; and events that found neither disk nor bound (`BusConfig.spool_bytes`) wait in a ring.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import time_ns
from typing import Any

import msgspec

from trainbus.bus import values, wire
from trainbus.bus.config import BusConfig
from trainbus.bus.events import URGENT, Command, Event, Gap, decode
from trainbus.bus.home import home
from trainbus.bus.outbox import Outbox
from trainbus.bus.segment import HEADER_BYTES, RECORD_BYTES, Allocate
from trainbus.bus.sender import Sender
from trainbus.bus.spool import Identity, Spool

logger = logging.getLogger("trainbus")

MESSAGE_OVERHEAD_BYTES = 1024
"""What a message needs beside the one body that it carries."""
CLOSE_SECONDS = 5.0
"""How long what is left at the end is sent, where nobody says how long."""
URGENT_WAIT_SECONDS = 0.05
"""How long an urgent event, flush or close waits for values on an accelerator before it leaves them to the owner thread."""
COPY_POLL_SECONDS = 0.0005

REMEMBERED_COMPLAINTS = 1_000
"""Kinds of complaints that are told apart, so that each is logged once."""


def _plain(value: Any) -> Any:
    """What msgpack doesn't know: numpy scalars and tensors in other places than metrics become numbers, too."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"it holds a {type(value).__name__}")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_URGENT_TYPES = frozenset(cls for cls in Event.__subclasses__() if cls.__struct_config__.tag in URGENT)
_living: weakref.WeakSet[Publisher] = weakref.WeakSet()


class PublisherStats(msgspec.Struct, frozen=True, kw_only=True):
    """A publisher's figures.

    Args:
        published: Events numbered so far; ``acknowledged`` of them are committed.
        waiting: Events that wait for a value on an accelerator.
        in_memory: Events that only the memory ring holds; ``dropped`` ones it had no room for.
        errors: Events that could not be encoded, bad metric values, and faults of the owner thread.
        connected: Whether the broker has welcomed this source.
        problem: What is wrong now; empty when nothing is.
    """

    source: str
    run: str
    published: int
    acknowledged: int
    waiting: int
    in_memory: int
    spooled_bytes: int
    dropped: int
    errors: int
    connected: bool
    problem: str


class Publisher:
    """One source of events. Thread-safe, also in signal handlers; a forked child's copy does nothing and says so once.

    Args:
        run: The run that events belong to which name none.
        name: A name for people.
        owner: This process trains ``run``: its silence means a lost run, and commands for the run come here.
        root: Where state lives; default `trainbus.bus.home.home`.
        router: The broker's address; without it the connection file in ``root`` is followed, also when it appears or changes later.
        on_command: Called by the owner thread with each command, once.
        allocate: Reserves disk blocks, for tests of a full disk.
    """

    def __init__(
        self,
        run: str,
        *,
        name: str = "",
        owner: bool = False,
        root: Path | None = None,
        router: str | None = None,
        settings: BusConfig | None = None,
        on_command: Callable[[Command], None] | None = None,
        allocate: Allocate = os.posix_fallocate,
    ) -> None:
        settings = settings or BusConfig()
        self.run = run
        self.source = os.urandom(8).hex()
        self.step: int | None = None
        """What the next heartbeat says; `Run.step` sets it without the cost of a call."""
        self._state = ""
        root = root or home()
        identity = Identity(
            source=self.source, run=run, name=name, host=socket.gethostname(), pid=os.getpid(), owner=owner, created=time.time_ns()
        )
        self._outbox = Outbox(
            Spool(root, identity, segment_bytes=settings.spool_segment_bytes, total_bytes=settings.spool_bytes, allocate=allocate),
            memory_events=settings.memory_events,
        )
        self._largest = min(settings.spool_segment_bytes - HEADER_BYTES - RECORD_BYTES, wire.MAX_MESSAGE_BYTES - MESSAGE_OVERHEAD_BYTES)
        self._waiting: deque[tuple[Event, list[values.Copy] | None]] = deque()
        self._waiting_limit = settings.memory_events
        self._lock = threading.RLock()
        self._busy = False
        self._deferred: deque[Event] = deque()
        self._always_wake = settings.flush_interval == 0
        self._closed = self._forked = self._refused_once = False
        self._errors = 0
        self._complained: set[str] = set()
        self._outbox.prepare(time.monotonic())
        self._sender = Sender(self, self._outbox, identity, settings, root=root, router=router, on_command=on_command)
        self._wake = self._sender.wake
        _living.add(self)
        _close_all_in_a_worker()
        self._sender.start()

    def __repr__(self) -> str:
        return f"<Publisher {self.source} of {self.run!r}, {self._outbox.next} published, {self._outbox.acknowledged} acknowledged>"

    @property
    def waiting(self) -> int:
        """Events that wait for a value on an accelerator."""
        return len(self._waiting)

    @property
    def forked(self) -> bool:
        """This is the useless copy in a forked child."""
        return self._forked

    def publish(self, event: Event) -> None:
        """Take an event: fills in run (when it is empty), source, seq and time. Never blocks, never raises.

        An event that can't be encoded, or is larger than a message, is replaced by a gap event that says so.
        """
        try:
            with self._lock:
                if self._closed:
                    self._refuse()
                    return
                if self._busy:  # a signal handler, or a finalizer, within a call of this same thread
                    self._deferred.append(event)
                    return
                self._busy = True
                try:
                    hurry = self._take(event)
                finally:
                    self._busy = False
                while self._deferred:
                    self.publish(self._deferred.popleft())
            if hurry or self._always_wake or self._sender.asleep:
                self._wake()
        except Exception as error:  # noqa: BLE001 - nothing may reach the training loop
            self.complain(f"publishing a {type(event).__name__} event failed", error)

    def beat(self, *, step: int | None = None, state: str = "") -> None:
        """What the next heartbeat says."""
        if step is not None:
            self.step = step
        self._state = state

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything published so far is acknowledged.

        Returns:
            True when it is; False after ``timeout`` seconds, or earlier: after 0.7 s without a known broker, 2 s without an answer.
        """
        if self._closed:
            return self._outbox.acknowledged >= self._outbox.next
        self.settle(time.monotonic() + URGENT_WAIT_SECONDS)
        return self._sender.flush(timeout)

    def leave(self, timeout: float = CLOSE_SECONDS) -> bool:
        """End the source, without waiting: what is left is sent while the program goes on, for at most ``timeout`` seconds.

        The exit of the program waits for that. Where there is none, as after ``os._exit``, the rest stays in the spool.

        Returns:
            Whether everything is acknowledged by now.
        """
        if self._forked:
            return False
        with self._lock:
            self._closed = True
        try:
            self.settle(time.monotonic() + URGENT_WAIT_SECONDS, last=True)
        except Exception as error:  # noqa: BLE001 - a fault here must not end the training that is just done
            self.complain("the last events could not be published", error)
        self._sender.leave(timeout)
        return self._outbox.acknowledged >= self._outbox.next

    def close(self, timeout: float = CLOSE_SECONDS) -> bool:
        """End the source: send what is left for at most ``timeout`` seconds (0.7 without a known broker, 2 without an answer).

        Returns:
            True when everything is acknowledged; otherwise the rest stays in the spool, for `trainbus spool drain` or the next publisher.
        """
        self.leave(timeout)
        return not self._forked and self._sender.ended(timeout)

    def stats(self) -> PublisherStats:
        """The figures of now."""
        outbox = self._outbox
        return PublisherStats(
            source=self.source,
            run=self.run,
            published=outbox.next,
            acknowledged=outbox.acknowledged,
            waiting=self.waiting,
            in_memory=outbox.in_memory,
            spooled_bytes=outbox.spool.bytes,
            dropped=outbox.dropped,
            errors=self._errors,
            connected=self._sender.connected,
            problem=outbox.problem or self._sender.problem,
        )

    # --- called by the owner thread ---

    def settle(self, deadline: float = 0.0, *, last: bool = False) -> None:
        """Publish the events whose values have arrived, and refill the spool from the memory ring.

        Args:
            deadline: Until when to wait for values (monotonic).
            last: After the deadline, publish the events without the values that are not there.
        """
        while self._waiting or self._outbox.in_memory or self._deferred:
            late = time.monotonic() >= deadline
            with self._lock:
                self._busy = True
                try:
                    moved = self._outbox.refill() or self._number_waiting(force=last and late)
                finally:
                    self._busy = False
                while self._deferred:
                    self.publish(self._deferred.popleft())
            if not moved:
                if late or not self._waiting:
                    break
                time.sleep(COPY_POLL_SECONDS)

    def vitals(self) -> wire.Beat:
        """A sign of life."""
        return wire.Beat(source=self.source, step=self.step, rss=_resident_bytes(), state=self._state)

    def complain(self, what: str, detail: object = "") -> None:
        """Count an error, and log it when it is the first of its kind."""
        self._errors += 1
        if what not in self._complained and len(self._complained) < REMEMBERED_COMPLAINTS:
            self._complained.add(what)
            logger.warning("trainbus: %s: %s. (Said once; training goes on.)", what, detail)

    # --- the hot path, under the lock ---

    def _take(self, event: Event) -> bool:
        """Number and keep the event, or queue it. True when the owner thread should act now.

        Between two steps of a model every line of this path is out of the processor's caches, and costs 20 times what it costs in a
        tight loop: what most steps need comes first, and does nothing twice.
        """
        if not event.run:
            event.run = self.run
        event.source = self.source
        event.time = time_ns()
        if self._waiting or not values.settle_step(event):
            return self._take_slowly(event)
        outbox = self._outbox
        event.seq = seq = outbox.next
        try:
            body = _encode(event)
        except Exception:  # noqa: BLE001 - said by `_number`
            return self._number(event, None)
        if len(body) > self._largest:
            return self._number(event, None)
        return outbox.append(seq, body)

    def _take_slowly(self, event: Event) -> bool:
        """Any event, with any values."""
        copies = values.settle(event, self._complain_of_value)
        if copies is None and not self._waiting:
            return self._number(event, None) or type(event) in _URGENT_TYPES
        self._waiting.append((event, copies))
        if type(event) in _URGENT_TYPES:
            deadline = time.monotonic() + URGENT_WAIT_SECONDS
            while self._waiting and (self._number_waiting() or time.monotonic() < deadline):
                if not self._waiting_is_ready():
                    time.sleep(COPY_POLL_SECONDS)
        elif len(self._waiting) > self._waiting_limit:
            self.complain("values on an accelerator don't arrive; events are published without them", f"{len(self._waiting)} events wait")
            self._number(*self._waiting.popleft())
        return True

    def _number(self, event: Event, copies: list[values.Copy] | None) -> bool:
        """Give the event its seq and keep it."""
        for copy in copies or ():
            try:
                if copy.ready():
                    copy.settle()
            except Exception as error:  # noqa: BLE001 - the device may report any fault here
                self.complain("a value on an accelerator can't be read", error)
        outbox = self._outbox
        seq = outbox.next
        event.seq = seq
        try:
            try:
                body = _encode(event)
            except UnicodeEncodeError:
                body = _encode(values.without_surrogates(event))
            decode(body)  # 0.7 us: an event with a field of a wrong type would be unreadable for every reader, for ever
        except Exception as error:  # noqa: BLE001 - user data may raise anything while it is encoded
            return self._replace(event, seq, f"a {type(event).__name__} event can't be encoded: {error}")
        if len(body) > self._largest:
            return self._replace(event, seq, f"a {type(event).__name__} event of {len(body)} bytes is larger than {self._largest}")
        return outbox.append(seq, body)

    def _replace(self, event: Event, seq: int, reason: str) -> bool:
        """Keep a gap event in place of an event that can't be kept."""
        self.complain(f"a {type(event).__name__} event is lost", reason)
        gap = Gap(
            run=self.run,
            source=self.source,
            seq=seq,
            time=event.time,
            missing_source=self.source,
            first_seq=seq,
            last_seq=seq,
            reason=reason,
        )
        return self._outbox.append(seq, _encode(gap))

    def _number_waiting(self, *, force: bool = False) -> bool:
        """Number the first event that waits, if its values are there."""
        if not self._waiting or not (force or self._waiting_is_ready()):
            return False
        self._number(*self._waiting.popleft())
        return True

    def _waiting_is_ready(self) -> bool:
        copies = self._waiting[0][1] if self._waiting else None
        try:
            return copies is None or all(copy.ready() for copy in copies)
        except Exception:  # noqa: BLE001 - a device that reports a fault will not deliver; `_number` says so
            return True

    def _complain_of_value(self, key: str, value: object) -> None:
        self.complain(
            f"metric {key!r} is left out", f"{type(value).__name__} is no number (use a float, an int or a tensor with one element)"
        )

    def _refuse(self) -> None:
        if not self._refused_once:
            self._refused_once = True
            if self._forked:
                why = "a forked process (a DataLoader worker?) inherited this publisher, which does nothing here: make one after the fork"
            else:
                why = "an event was published after close() and is lost: close when training is over"
            logger.warning("trainbus: %s. (Said once.)", why)
        self._errors += 1


def _resident_bytes() -> int | None:
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - each second, and pathlib is not needed for it
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _disown() -> None:
    """In a forked child: every inherited publisher becomes a no-op. Locks and threads of the parent are not touched."""
    for publisher in list(_living):
        publisher._closed = publisher._forked = True
        publisher._busy = False
        publisher._lock = threading.RLock()  # the old one may be held by a thread that does not exist here
        publisher._sender.disown()
    _living.clear()


def await_end(run: str) -> None:
    """Wait for publishers of this process that are leaving the run: what comes next in it must come behind their end."""
    for publisher in list(_living):
        if publisher.run == run and publisher._closed:
            publisher.close()


def _close_all() -> None:
    for publisher in list(_living):
        publisher.close()


def _close_all_in_a_worker() -> None:
    """multiprocessing ends its forked workers without what ``atexit`` holds (before Python 3.13), but not without its own finalizers."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _close_all, exitpriority=0)


os.register_at_fork(after_in_child=_disown)
atexit.register(_close_all)

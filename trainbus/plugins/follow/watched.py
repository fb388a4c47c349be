"""One watched log: what is new in it as events of its run, each published once through any crash.

What was published and how far the log was read can't be committed together: events go through the spool, the place through the state. So
after a crash the place may be older than what was published. The log gives the same events again from there, and those that the journal
has already are left out: they are the first of them, in the same order.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field, structs

from trainbus.bus import events
from trainbus.bus.facts import safe_run_id
from trainbus.hookspecs import Context
from trainbus.sources.feeds import Feed, FeedPlace, Format, feed_of, recognise
from trainbus.sources.patterns import Pattern

KINDS = ("run_started", "run_ended", "step", "eval", "sample", "metric", "phase")
"""What is published here."""


class Memory(Struct, kw_only=True):
    """What survives a restart.

    Args:
        form: What the log turned out to be; empty until it is there.
        place: How far it is read.
        started: The run has begun; ``ended``: and ended.
        step: Its last step.
        mark: An offset before which the journal's events need not be compared.
    """

    form: Format | Literal[""] = ""
    place: FeedPlace = field(default_factory=FeedPlace)
    started: bool = False
    ended: bool = False
    step: int | None = None
    mark: int = -1


class Watched:
    """A log and its run.

    Args:
        path: Of the log.
        form: What it is; None to find out.
        run: Id of the run; empty for one that follows from the path.
        patterns: For lines of output.
        memory: Of an earlier process.
    """

    def __init__(self, path: Path, form: Format | None, run: str, patterns: Sequence[Pattern], memory: Memory) -> None:
        self.path = path
        self.run = run or run_of(path)
        self.memory = memory
        self.recovered = False
        self.problem = ""
        self._form = form
        self._patterns = patterns
        self._feed: Feed | None = None
        self._published: list[bytes] = []
        self._passed = 0

    async def recover(self, context: Context) -> None:
        """Learn what an earlier process has published since the mark. Everything of it must be in the journal: `Context.flush`."""
        self._published = []
        async for event in context.aquery(kinds=KINDS, runs=[self.run], after=self.memory.mark):
            self._published.append(_content(event))
        self.recovered = True

    async def move_mark(self, context: Context) -> None:
        """Everything published so far is in the journal and in the place: nothing before it will be asked for again."""
        async for event in context.aquery(kinds=KINDS, runs=[self.run], after=self.memory.mark):
            self.memory.mark = event.offset

    def look(self) -> list[events.Event]:
        """The events that are new. Blocking.

        Raises:
            OSError: The log can't be read.
            DataError: It is not what it was taken for.
        """
        if self._feed is None:
            form = self._form or recognise(self.path)
            if form is None:
                return []
            if form != self.memory.form:
                self.memory.form, self.memory.place = form, FeedPlace()
            self._feed = feed_of(form, self.path, self.memory.place, self._patterns)
        found = self._feed.look()
        made: list[events.Event] = []
        # An evaluation after the end belongs to it; a step means that the training goes on.
        if found and (not self.memory.started or (self.memory.ended and any(isinstance(event, events.Step) for event in found))):
            made.append(self._beginning())
        made += found
        for event in found:
            self.memory.step = getattr(event, "step", None) or self.memory.step
        if self._feed.place.finished and self.memory.started and not self.memory.ended:
            made.append(self._end("completed", "the log says that the training is complete"))
        return [one for one in made if self._is_new(one)]

    def lost(self, seconds: float) -> list[events.Event]:
        """The end of a run of which nothing has come for so long."""
        if not self.memory.started or self.memory.ended:
            return []
        end = self._end("lost", f"{self.path} has not grown for {seconds:g} s")
        return [end] if self._is_new(end) else []

    def _beginning(self) -> events.RunStarted:
        again = self.memory.started
        self.memory.started, self.memory.ended = True, False
        return events.RunStarted(
            run=self.run,
            name=self.run,
            config={"watched": str(self.path), "format": self.memory.form},
            host=socket.gethostname(),
            resumed_from=self.run if again else None,
            resumed_step=self.memory.step if again else None,
        )

    def _end(self, outcome: events.RunOutcome, reason: str) -> events.RunEnded:
        self.memory.ended = True
        return events.RunEnded(run=self.run, outcome=outcome, step=self.memory.step, reason=reason)

    def _is_new(self, event: events.Event) -> bool:
        """Whether an earlier process has not published it. Of what the log gives again, the first events are those that it has."""
        event.run = self.run
        if not self._published:
            return True
        try:
            self._passed = self._published.index(_content(event), self._passed) + 1
        except ValueError:
            self._published = []
            return True
        return False


def run_of(path: Path) -> str:
    """The run of a path: a name that people know it by, and a part that makes it the only one. Always the same for the same path."""
    plain = path.parent.name if path.name == "trainer_state.json" else path.stem
    return safe_run_id(f"{plain}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}")


def _content(event: events.AnyEvent) -> bytes:
    """What an event says, whoever published it and when."""
    if isinstance(event, events.Event):
        event = structs.replace(event, run="", source="", seq=-1, time=0, offset=-1)
    return hashlib.blake2b(msgspec.msgpack.encode(event), digest_size=12).digest()

"""The daemon: watches the inbox, and trains on one file after the other, each in a worker process, all in one continuous run."""

from __future__ import annotations

import os
import queue as threads
import signal
import sqlite3
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Protocol

import msgspec

from trainbus.bus import events
from trainbus.bus.facts import default_run_id
from trainbus.bus.home import home, private_directory, write_inbox
from trainbus.bus.publisher import Publisher
from trainbus.trainer_node import checkpoints, records
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.dataset.inspection import glance
from trainbus.trainer_node.dataset.reading import reading_of
from trainbus.trainer_node.inbox import messages
from trainbus.trainer_node.inbox.account import Account
from trainbus.trainer_node.inbox.child import Child, Ended
from trainbus.trainer_node.inbox.crash import Inquest, Inquests, PlainInquest
from trainbus.trainer_node.inbox.desk import Desk
from trainbus.trainer_node.inbox.ending import Ending
from trainbus.trainer_node.inbox.fitness import require_endless
from trainbus.trainer_node.inbox.forecast import forecast
from trainbus.trainer_node.inbox.intake import Intake, Taken
from trainbus.trainer_node.inbox.intervals import Intervals
from trainbus.trainer_node.inbox.locks import LOCK, hold
from trainbus.trainer_node.inbox.queue import HELD, PAUSED, SETTINGS, UNFINISHED, WAITING, Job, Queue
from trainbus.trainer_node.inbox.watching import Watch
from trainbus.trainer_node.part import Part
from trainbus.trainer_node.plan import RUNS
from trainbus.trainer_node.room import Room

FORECAST_SECONDS = 30.0
"""The end of the queue is told this often, and whenever a file is done."""
TICK_SECONDS = 0.5
"""The folder and the watchdog are looked at this often; a file-system notification is quicker."""
LOOK_SECONDS = 10.0
"""A worker's processes and memory are looked at this often, so that its death can be explained."""


class Teller(Protocol):
    """Who is told what the daemon does; called from its main thread."""

    def job(self, job: Job, text: str) -> None:
        """A job changed its state."""

    def message(self, message: messages.Message) -> None:
        """The worker says something."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


def queue_file(root: Path | None = None) -> Path:
    """Where the queue is kept."""
    return (root or home()) / "trainer" / "queue.db"


class Daemon:
    """Runs until SIGTERM, SIGINT, the command stop, or (``until_empty``) until nothing waits.

    It owns the run: takes its commands, gives its signs of life, publishes its beginning and its end. Workers only add to it.

    Args:
        config: Its ``inbox`` is the folder.
        teller: Who is told.
        root: The state directory; None for TRAINBUS_HOME.
        unlock: Go on also with settings other than those that the run was begun with.
        inquests: Explain the death of a worker.

    Raises:
        RefusedError: From `run`: another daemon runs in this state directory, on this inbox or in this output.
        DataError, ConfigError, ModelError: From `run`: the folder or the configuration can't be used, whatever the file.
    """

    def __init__(
        self,
        config: TrainerConfig,
        teller: Teller,
        *,
        root: Path | None = None,
        until_empty: bool = False,
        unlock: bool = False,
        inquests: Inquests = PlainInquest,
    ) -> None:
        require_endless(config)
        name = config.name or Path(config.inbox).expanduser().absolute().name
        self._output = Path(config.output).expanduser() if config.output else RUNS / name
        known = checkpoints.read_run_file(self._output)
        self._root = root or home()
        self._folder = private_directory(self._root / "trainer")
        self._config = msgspec.structs.replace(config, name=name, output=str(self._output))
        self._resumes = known is not None
        self._run = known.run if known else default_run_id(name)
        self._teller = teller
        self._until_empty = until_empty
        self._unlock = unlock
        self._inquests = inquests
        self._room = Room(self._output, config.free_disk)
        self._room_at_home = Room(self._folder, config.free_disk)  # for the queue, logs and spools
        self._happened: threads.SimpleQueue[messages.Message | Ended | events.Command | None] = threads.SimpleQueue()
        self._child: Child | None = None
        self._over: int | None = None
        self._inquest: Inquest | None = None
        self._next_look = self._next_forecast = 0.0
        self._announce = True
        self._stopping = ""
        self._not_before = 0.0
        self._waits = ""
        self._fatal: Exception | None = None
        self._told: dict[str, Job] = {}

    def run(self) -> None:
        """Work."""
        with ExitStack() as stack:
            self._hold_locks(stack)
            self._queue = stack.enter_context(Queue(queue_file(self._root)))
            self._intervals = Intervals(self._queue, self._run)
            look = partial(glance, reading=reading_of(self._config))
            self._intake = Intake(Path(self._config.inbox), self._queue, settle=self._config.settle_seconds, glance=look)
            write_inbox(self._intake.folder, self._root)
            publisher = Publisher(self._run, name="inbox", owner=True, root=self._root, on_command=self._happened.put)
            stack.callback(publisher.close)
            self._account = Account(publisher, self._config.name)
            self._desk = Desk(
                self._queue, self._intake, self._account.answer, changed=self._tell, stop=self._stop, newest=self._newest_checkpoint
            )  # fmt: skip
            self._ending = Ending(
                self._queue, self._intake, self._account, self._config, self._tell, lambda record: records.append(record, self._root)
            )
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.callback(signal.signal, number, signal.signal(number, self._on_signal))
            self._begin()
            stack.enter_context(Watch(self._intake.folder, lambda: self._happened.put(None)))
            self._work()
        if self._fatal is not None:
            raise self._fatal

    def _begin(self) -> None:
        if words := self._intervals.words():
            self._config = self._intervals.applied(self._config)
            self._teller.note(words)
        marker = self._newest_marker()
        self._account.begin(msgspec.to_builtins(self._config), resumed=self._resumes, step=marker.step if marker else None)
        self._account.beat(self._waits, marker.step if marker else None)
        for job in (*self._queue.recover(), *self._intake.recover()):
            self._tell(job, "waits again" if job.reason else "waits")
        self._told = {job.id: job for job in self._queue.jobs()}

    def _work(self) -> None:
        outcome: events.RunOutcome = "failed"
        reason = "the trainer broke off"
        try:
            while self._step():
                pass
            outcome, reason = ("stopped" if self._stopping else "completed"), self._stopping
            if self._fatal is not None:
                outcome, reason = "failed", str(self._fatal)
        finally:
            if self._child is not None:  # only when the daemon itself failed
                self._child.release()
            self._account.end(outcome, reason)

    # -- one turn

    def _step(self) -> bool:
        """Look, act, wait for something to happen; False when there is nothing more to do."""
        now = time.monotonic()
        full = self._room_at_home.lacking()
        for taken in () if full else self._intake.look(now):
            self._taken(taken)
        if self._queue.changed_elsewhere():
            self._tell_changes()
        if self._child is None:
            if self._stopping or (self._until_empty and not self._queue.jobs(WAITING) and not self._intake.waiting()):
                return False
            if why := self._why_not(now) or full:
                self._wait(why)
            else:
                self._start()
        elif self._over is None:
            self._watch_over(self._child, now)
        else:
            self._conclude(self._child, self._over)
        with suppress(threads.Empty):
            self._handle(self._happened.get(timeout=TICK_SECONDS))
        return True

    def _why_not(self, now: float) -> str:
        """Why no file begins now; empty when one may."""
        if flag := self._queue.flag(PAUSED):
            return f"paused {flag.since}; `trainbus control resume`"
        if not self._queue.jobs(WAITING):
            skipped = len(self._queue.jobs(("skipped",)))
            return "the inbox is empty" + (f"; `trainbus queue retry` takes up what was skipped ({skipped})" if skipped else "")
        if flag := self._queue.flag(HELD):
            return f"the queue is held {flag.since}; `trainbus control queue-release`"
        if now < self._not_before:
            return "a pause before the next attempt"
        return self._room.lacking()

    def _wait(self, why: str) -> None:
        if why != self._waits:
            self._waits = why
            self._teller.note(f"idle: {why}")
        self._account.idle(why)

    def _start(self) -> None:
        if (job := self._queue.take()) is None:
            return
        self._waits = ""
        self._tell(job, f"training begins (attempt {job.attempts + 1} of {self._config.attempts})")
        self._account.busy()
        unfinished = tuple(other.id for other in self._queue.jobs(UNFINISHED) if other.id != job.id)
        order = messages.Order(
            config=msgspec.structs.replace(self._config, data=str(job.path)),
            part=Part(job=job.id, run=self._run, unfinished=unfinished, rejected=str(self._intake.rejected(job)), unlock=self._unlock),
            lock=str(self._folder / "worker.lock"),
            daemon=os.getpid(),
            announce=self._announce,
        )
        log = private_directory(self._folder / "logs") / f"{job.id}.log"
        self._announce = False
        self._child = Child(job, order, root=self._root, log=log, hang_seconds=self._config.hang_seconds, happened=self._happened.put)
        self._inquest = self._inquests(self._run, self._child.process.pid)
        self._next_look = time.monotonic() + LOOK_SECONDS
        if flag := self._queue.flag(SETTINGS):
            command = events.Command(run=self._run, id=flag.command, verb="set", arguments=flag.settings, requested_by=flag.by)
            self._child.pass_on(command)

    def _watch_over(self, child: Child, now: float) -> None:
        if not child.hang and (problem := child.watchdog.hangs(now)):
            child.end_hanging(problem, now)
            self._teller.note(f"{child.job.name}: {problem}; SIGTERM now, then SIGKILL")
        child.look(now)
        if self._inquest is not None and now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._inquest.look()
        if now >= self._next_forecast:
            self._next_forecast = now + FORECAST_SECONDS
            self._account.forecast(forecast(self._queue, done=child.done), child.left)

    # -- what happens

    def _handle(self, happened: messages.Message | Ended | events.Command | None) -> None:
        child = self._child
        if isinstance(happened, events.Command):
            self._obey(happened)
        elif child is None or happened is None:
            return
        elif isinstance(happened, Ended):
            self._over = happened.code
            self._conclude(child, happened.code)
        else:
            if isinstance(happened, messages.Answer):
                try:
                    self._note_answer(child, happened.result)
                except sqlite3.OperationalError as error:
                    self._teller.note(f"{happened.result.verb} holds for this trainer alone: it can't be written down ({error})")
            child.take(happened, time.monotonic())
            if isinstance(happened, messages.Phase | messages.Step):
                self._account.beat(child.phase, child.step)
            self._teller.message(happened)

    def _obey(self, command: events.Command) -> None:
        try:
            self._act(command)
        except sqlite3.OperationalError as error:  # a full disk: nothing was changed
            self._account.answer(command, "refused", f"it can't be written down: {error}")

    def _act(self, command: events.Command) -> None:
        child = self._child
        if self._desk.edits(command):
            self._desk.edit(command)
        elif self._stopping:
            self._account.answer(command, "refused", "the run is stopping")
        elif child is None:
            self._desk.idle(command)
        elif command.verb in ("stop", "skip") and not child.began and child.interrupted is None:
            self._account.answer(command, "accepted", "it is still being loaded: nothing has to be saved")
            child.interrupt(command)
        elif command.verb == "pause" and not child.phase and child.interrupted is None and self._queue.flag(PAUSED) is None:
            self._queue.set_flag(PAUSED, self._desk.said(command))  # it hears nothing before its libraries are loaded
            child.interrupt(command)
        else:
            child.pass_on(command)

    def _note_answer(self, child: Child, result: events.CommandResult) -> None:
        """What the worker was told by somebody holds for the next worker, too."""
        command = child.asked(result)
        if command is None or result.state == "accepted":
            return
        if (flag := self._queue.flag(SETTINGS)) is not None and flag.command == command.id:
            self._queue.set_flag(SETTINGS, None)
        if result.state != "done":
            return
        if command.verb == "pause":
            self._queue.set_flag(PAUSED, self._desk.said(command))
        elif command.verb in ("resume", "stop"):
            self._queue.set_flag(PAUSED, None)
        elif command.verb == "set":
            kept = self._intervals.keep(self._desk.said(command), result.result.get("now", {}))
            self._config = msgspec.structs.replace(self._config, **kept)

    def _conclude(self, child: Child, code: int) -> None:
        """Settle it, as soon as what becomes of it can be written down; who is stopped leaves that to the next trainer."""
        if full := self._room_at_home.lacking():
            self._wait(full)
            self._child = None if self._stopping else child
            return
        self._over = None
        self._settle(child, code)

    def _settle(self, child: Child, code: int) -> None:
        """A worker is gone: what becomes of its job, of the commands that it left, and of the daemon."""
        assert self._inquest is not None
        self._child, inquest, self._inquest = None, self._inquest, None
        self._queue.worked(child.job, child.worked(time.monotonic()))
        verdict = self._ending.of(child, code, inquest, stopping=self._stopping)
        inquest.close()
        self._stopping = self._stopping or verdict.stop
        self._fatal = self._fatal or verdict.fatal
        self._announce = self._announce or verdict.broke_off
        self._not_before = time.monotonic() + verdict.pause
        self._account.forecast(forecast(self._queue), None)
        self._answer_left(child)

    def _answer_left(self, child: Child) -> None:
        """Commands that the worker took with it."""
        if (asked := child.interrupted) is not None:
            self._account.answer(asked, "done", **self._newest_checkpoint())
        kept = self._queue.flag(SETTINGS)
        for command in child.unanswered():
            if command.verb in ("pause", "resume", "stop"):
                self._desk.idle(command)
            elif kept is None or kept.command != command.id:
                self._account.answer(command, "refused", "the training ended before it could be done")

    # -- telling

    def _taken(self, taken: Taken) -> None:
        if taken.refused:
            self._tell(msgspec.structs.replace(taken.job, state="failed", reason=taken.refused), f"refused: {taken.refused}")
        else:
            self._tell(taken.job, f"waits (priority {taken.job.priority})")

    def _tell(self, job: Job, text: str) -> None:
        self._told[job.id] = job
        self._account.job(job)
        self._teller.job(job, text)

    def _tell_changes(self) -> None:
        """Somebody has edited the queue: `trainbus queue`, for one."""
        now = {job.id: job for job in self._queue.jobs()}
        for job in now.values():
            before = self._told.get(job.id)
            if before is None or (before.state, before.priority) != (job.state, job.priority):
                self._tell(job, f"{job.state} (priority {job.priority})")
        for job in [job for job in self._told.values() if job.id not in now and job.state in WAITING]:
            self._tell(msgspec.structs.replace(job, state="failed", reason="taken out of the queue by hand"), "removed")

    def _newest_marker(self) -> checkpoints.Marker | None:
        for path in reversed(checkpoints.listed(self._output)):
            if (marker := checkpoints.read_marker(path)) is not None:
                return marker
        return None

    def _newest_checkpoint(self) -> dict[str, str]:
        marker = self._newest_marker()
        return {"checkpoint": marker.id, "path": str((self._output / f"checkpoint-{marker.step}").absolute())} if marker else {}

    # -- ending

    def _stop(self, reason: str) -> None:
        self._stopping = self._stopping or reason

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stopping and self._child is not None:
            self._child.process.kill()
        self._stopping = self._stopping or f"signal {signal.Signals(number).name}"
        if self._child is not None:
            self._child.process.terminate()
        self._happened.put(None)

    def _hold_locks(self, stack: ExitStack) -> None:
        hold(stack, self._folder / "daemon.lock", str(self._root))
        hold(stack, Path(self._config.inbox).expanduser() / LOCK, f"the inbox {self._config.inbox}")
        hold(stack, self._output / LOCK, f"the output {self._output}")

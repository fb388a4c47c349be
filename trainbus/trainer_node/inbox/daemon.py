"""The daemon: watches the inbox, and trains on one file after the other, each in a worker process, all in one continuous run."""

from __future__ import annotations

import fcntl
import os
import queue as threads
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

import msgspec

from trainbus.bus import events
from trainbus.bus.facts import default_run_id
from trainbus.bus.home import home, private_directory, write_inbox
from trainbus.bus.publisher import Publisher
from trainbus.errors import ConfigError, DataError, ModelError, RefusedError
from trainbus.trainer_node import checkpoints
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.inbox import messages
from trainbus.trainer_node.inbox.intake import COMPLETED, FAILED, Intake, Taken
from trainbus.trainer_node.inbox.queue import WAITING, Job, Queue
from trainbus.trainer_node.inbox.watchdog import Watchdog
from trainbus.trainer_node.part import Part
from trainbus.trainer_node.plan import RUNS

TICK_SECONDS = 0.5
"""The folder and the watchdog are looked at this often; a file-system notification is quicker."""
KILL_AFTER_SECONDS = 60.0
"""A hanging worker has so long to save after SIGTERM."""
TAIL_LINES = 20


class Teller(Protocol):
    """Who is told what the daemon does; called from its main thread."""

    def job(self, job: Job, text: str) -> None:
        """A job changed its state."""

    def message(self, message: messages.Message) -> None:
        """The worker says something."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


class Ended(msgspec.Struct, frozen=True):
    """A worker is gone. ``code`` as `subprocess` gives it: negative for a signal."""

    code: int


class _Working:
    """One job and its worker."""

    def __init__(self, job: Job, process: subprocess.Popen[bytes], log: Path, watchdog: Watchdog) -> None:
        self.job = job
        self.process = process
        self.log = log
        self.watchdog = watchdog
        self.outcome: messages.Done | messages.Refused | None = None
        self.hang = ""
        self.kill_at: float | None = None


def queue_file(root: Path | None = None) -> Path:
    """Where the queue is kept."""
    return (root or home()) / "trainer" / "queue.db"


class Daemon:
    """Runs until SIGTERM, SIGINT, the command stop, or (``until_empty``) until nothing waits.

    Args:
        config: Its ``inbox`` is the folder.
        teller: Who is told.
        root: The state directory; None for TRAINBUS_HOME.

    Raises:
        RefusedError: From `run`: another daemon runs in this state directory.
        DataError, ConfigError, ModelError: From `run`: the folder or the configuration can't be used, whatever the file.
    """

    def __init__(self, config: TrainerConfig, teller: Teller, *, root: Path | None = None, until_empty: bool = False) -> None:
        _check(config)
        name = config.name or Path(config.inbox).expanduser().absolute().name
        output = Path(config.output).expanduser() if config.output else RUNS / name
        known = checkpoints.read_run_file(output)
        self._root = root or home()
        self._folder = private_directory(self._root / "trainer")
        self._config = msgspec.structs.replace(config, name=name, output=str(output))
        self._run = known.run if known else default_run_id(name)
        self._teller = teller
        self._until_empty = until_empty
        self._happened: threads.SimpleQueue[messages.Message | Ended | None] = threads.SimpleQueue()
        self._working: _Working | None = None
        self._stopping = ""
        self._not_before = 0.0
        self._fatal: Exception | None = None

    def run(self) -> None:
        """Work."""
        with ExitStack() as stack:
            self._lock(stack)
            self._queue = stack.enter_context(Queue(queue_file(self._root)))
            self._intake = Intake(Path(self._config.inbox), self._queue, settle=self._config.settle_seconds)
            write_inbox(self._intake.folder, self._root)
            self._publisher = Publisher(self._run, name="inbox", root=self._root)
            stack.callback(self._publisher.close)
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.callback(signal.signal, number, signal.signal(number, self._on_signal))
            for job in (*self._queue.recover(), *self._intake.recover()):
                self._tell(job, "waits again" if job.reason else "waits")
            stack.enter_context(self._watching())
            try:
                while self._step():
                    pass
            finally:
                self._end_worker()
        if self._fatal is not None:
            raise self._fatal

    # -- one turn

    def _step(self) -> bool:
        """Look, act, wait for something to happen; False when there is nothing more to do."""
        for taken in self._intake.look(time.monotonic()):
            self._taken(taken)
        if self._working is None:
            if self._stopping or (self._until_empty and not self._queue.jobs(WAITING) and not self._intake.waiting()):
                return False
            self._begin()
        elif (problem := self._working.watchdog.hangs(time.monotonic())) and not self._working.hang:
            self._end_hanging(self._working, problem)
        elif self._working.kill_at is not None and time.monotonic() > self._working.kill_at:
            self._working.process.kill()
        with suppress(threads.Empty):
            self._handle(self._happened.get(timeout=TICK_SECONDS))
        return True

    def _begin(self) -> None:
        if time.monotonic() < self._not_before or (job := self._queue.take()) is None:
            return
        self._tell(job, f"training begins (attempt {job.attempts + 1} of {self._config.attempts})")
        log = private_directory(self._folder / "logs") / f"{job.id}.log"
        unfinished = tuple(other.id for other in self._queue.jobs((*WAITING, "processing")) if other.id != job.id)
        order = messages.Order(
            config=msgspec.structs.replace(self._config, data=str(job.path)),
            part=Part(job=job.id, run=self._run, unfinished=unfinished, rejected=str(self._intake.rejected(job))),
            lock=str(self._folder / "worker.lock"),
        )
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainbus.trainer_node.inbox.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for us; the worker hears of it from us
                env={**os.environ, "TRAINBUS_HOME": str(self._root)},
            )
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it died at once: its end will tell
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.flush()
        self._working = _Working(job, process, log, Watchdog(self._config.hang_seconds))
        threading.Thread(target=self._listen, args=(process, process.stdout), name="trainbus-worker", daemon=True).start()

    def _listen(self, process: subprocess.Popen[bytes], stream: IO[bytes]) -> None:
        for line in stream:
            with suppress(msgspec.DecodeError):  # a line that was cut by the worker's death
                self._happened.put(msgspec.json.decode(line, type=messages.Message))
        self._happened.put(Ended(process.wait()))

    def _handle(self, happened: messages.Message | Ended | None) -> None:
        working = self._working
        if working is None or happened is None:
            return
        now = time.monotonic()
        if isinstance(happened, Ended):
            self._working = None
            self._settle(working, happened.code)
            return
        if isinstance(happened, messages.Phase):
            working.watchdog.phase(happened.name, now)
        elif isinstance(happened, messages.Step):
            working.watchdog.step(now)
        elif isinstance(happened, messages.Done | messages.Refused):
            working.outcome = happened
        self._teller.message(happened)

    # -- what becomes of a job

    def _settle(self, working: _Working, code: int) -> None:
        job, outcome = working.job, working.outcome
        if isinstance(outcome, messages.Refused):
            self._refused(job, outcome)
        elif outcome is None or working.hang:
            self._crashed(working, code)
        elif outcome.summary.outcome == "completed":
            summary = outcome.summary
            job = self._queue.complete(job, path=self._intake.file_away(job, COMPLETED), examples=summary.file_examples)
            left_out = f"; {summary.rejected:,} bad lines are in {self._intake.rejected(job)}" if summary.rejected else ""
            self._tell(job, f"completed at step {summary.total_steps}{left_out}")
            working.log.unlink(missing_ok=True)
        elif outcome.summary.outcome == "failed":
            self._give_up(job, outcome.summary.reason)
        elif outcome.summary.skipped:
            self._tell(self._queue.skip(job, outcome.summary.reason), "skipped; it goes on after all others")
        else:
            self._tell(self._queue.put_back(job, outcome.summary.reason), f"stopped: {outcome.summary.reason}")
            self._stopping = self._stopping or outcome.summary.reason

    def _refused(self, job: Job, refused: messages.Refused) -> None:
        """Bad data fail the file; a model that can't be had would fail every file, so that ends the daemon."""
        if refused.kind == DataError.__name__:
            self._give_up(job, f"{refused.problem} {refused.hint}".strip())
        elif refused.trained:
            self._try_again(job, refused.problem)
        else:
            self._tell(self._queue.put_back(job, refused.problem), "waits: no file can be trained on like this")
            kind = {ConfigError.__name__: ConfigError}.get(refused.kind, ModelError)
            self._fatal = kind(refused.problem, hint=refused.hint)
            self._stopping = refused.problem

    def _crashed(self, working: _Working, code: int) -> None:
        if self._stopping and not working.hang:  # it was told to end before it had anything to save
            self._tell(self._queue.put_back(working.job, self._stopping), f"stopped: {self._stopping}")
            return
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        what = working.hang or f"the worker ended with {how}"
        if code == -signal.SIGKILL and not working.hang:
            what += " (perhaps the kernel, for want of memory: see `trainbus doctor`)"
        last = _last_line(working.log)
        self._try_again(working.job, f"{what}{f'; its last words: {last}' if last else ''}. Log: {working.log}")

    def _try_again(self, job: Job, reason: str) -> None:
        if job.attempts + 1 >= self._config.attempts:
            self._give_up(job, f"{reason} ({job.attempts + 1} attempts)")
            return
        job = self._queue.put_back(job, reason, attempted=True)
        self._not_before = time.monotonic() + self._config.retry_seconds
        self._tell(job, f"{reason}; next attempt in {self._config.retry_seconds:g} s")

    def _give_up(self, job: Job, reason: str) -> None:
        self._tell(self._queue.fail(job, reason, path=self._intake.file_away(job, FAILED, reason)), f"failed: {reason}")

    def _taken(self, taken: Taken) -> None:
        if taken.refused:
            self._tell(msgspec.structs.replace(taken.job, state="failed", reason=taken.refused), f"refused: {taken.refused}")
        else:
            self._tell(taken.job, f"waits (priority {taken.job.priority})")

    def _tell(self, job: Job, text: str) -> None:
        self._publisher.publish(
            events.Job(
                id=job.id, file=job.name, state=job.state, priority=job.priority, attempts=job.attempts, bytes=job.bytes,
                examples=job.examples, reason=job.reason,
            )
        )  # fmt: skip
        self._teller.job(job, text)

    # -- ending

    def _end_hanging(self, working: _Working, problem: str) -> None:
        working.hang = problem
        working.kill_at = time.monotonic() + KILL_AFTER_SECONDS
        self._teller.note(f"{working.job.name}: {problem}; SIGTERM now, SIGKILL in {KILL_AFTER_SECONDS:.0f} s")
        working.process.terminate()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stopping and self._working is not None:
            self._working.process.kill()
        self._stopping = self._stopping or f"signal {signal.Signals(number).name}"
        if self._working is not None:
            self._working.process.terminate()
        self._happened.put(None)

    def _end_worker(self) -> None:
        """Only when the daemon itself failed: the worker saves when its standard input ends."""
        if self._working is not None and self._working.process.stdin is not None:
            self._working.process.stdin.close()
            self._working.process.wait()

    def _lock(self, stack: ExitStack) -> None:
        lock = stack.enter_context((self._folder / "daemon.lock").open("a+"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            hint = "Drop files into its inbox, or stop it with SIGTERM; another TRAINBUS_HOME holds another one."
            raise RefusedError(f"A trainer runs already in {self._root} (pid {pid}).", hint=hint, code="running") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()

    def _watching(self) -> _Watch:
        return _Watch(self._intake.folder, lambda: self._happened.put(None))


class _Watch:
    """Calls ``changed`` when something happens in a folder. A network mount tells nothing: there the daemon's own looks have to do."""

    def __init__(self, folder: Path, changed: Callable[[], None]) -> None:
        self._folder = folder
        self._changed = changed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="trainbus-inbox", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        from watchfiles import watch

        with suppress(OSError):  # no notifications here: the daemon looks by itself
            for _ in watch(self._folder, watch_filter=None, stop_event=self._stop, rust_timeout=500, step=50):
                self._changed()


def _check(config: TrainerConfig) -> None:
    if config.scheduler in ("linear", "cosine"):
        raise ConfigError(
            f"scheduler = {config.scheduler!r} needs to know where the training ends, and an inbox has no end.",
            hint="Use auto, constant or constant_with_warmup.",
            key="trainer.scheduler",
            found=config.scheduler,
            allowed="auto, constant, constant_with_warmup",
        )
    if config.max_steps is not None:
        raise ConfigError(
            "max_steps ends a training, and an inbox has no end.",
            hint="Leave it out; `trainbus control stop` ends it.",
            key="trainer.max_steps",
        )


def _last_line(log: Path) -> str:
    """The last words of a worker that a person can use."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")

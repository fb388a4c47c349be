"""What becomes of a job when its worker is gone, and what follows for the daemon."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from trainbus.errors import ConfigError, DataError, ModelError
from trainbus.trainer_node import checkpoints
from trainbus.trainer_node.config import Summary, TrainerConfig
from trainbus.trainer_node.inbox import messages
from trainbus.trainer_node.inbox.account import Account
from trainbus.trainer_node.inbox.child import Child
from trainbus.trainer_node.inbox.crash import DISK_FULL, Crash, Inquest, hanging
from trainbus.trainer_node.inbox.intake import COMPLETED, FAILED, Intake
from trainbus.trainer_node.inbox.queue import Job, Queue
from trainbus.trainer_node.records import RunRecord, of_failure, of_summary
from trainbus.trainer_node.room import is_disk_full


class Next(Struct, frozen=True, kw_only=True):
    """What follows.

    Args:
        stop: Why the daemon ends; empty when it goes on.
        fatal: The error that it ends with.
        pause: Seconds before the next file.
        broke_off: The worker did not come to an end of its own: the next one goes back to the last checkpoint.
    """

    stop: str = ""
    fatal: Exception | None = None
    pause: float = 0.0
    broke_off: bool = False


class Ending:
    """Decides, changes the queue, and tells.

    Args:
        queue: Where the job gets its next state.
        intake: Moves its file.
        account: Tells the bus of deaths.
        config: How many attempts there are, and the pause between them.
        tell: Told of the job, with words.
        record: Told what became of each worker's training.
    """

    def __init__(
        self,
        queue: Queue,
        intake: Intake,
        account: Account,
        config: TrainerConfig,
        tell: Callable[[Job, str], None],
        record: Callable[[RunRecord], None],
    ) -> None:
        self._queue = queue
        self._intake = intake
        self._account = account
        self._config = config
        self._tell = tell
        self._record = record

    def of(self, child: Child, code: int, inquest: Inquest, *, stopping: str) -> Next:
        """The worker is gone with this exit code. ``stopping``: the daemon has told it to end, and why."""
        job, outcome = child.job, child.outcome
        if isinstance(outcome, messages.Refused):
            return self._refused(child, outcome)
        if outcome is None or child.hang:
            return self._died(child, code, inquest, stopping)
        summary = outcome.summary
        self._record(of_summary(self._config, summary, job.name))
        if summary.outcome == "completed":
            return self._completed(child, summary)
        if summary.outcome == "failed":
            self._give_up(job, summary.reason)
            return Next(broke_off=True)
        if summary.skipped or (child.interrupted is not None and child.interrupted.verb == "skip"):
            self._skip(job, summary.reason)
            return Next()
        self._tell(self._queue.put_back(job, summary.reason), f"stopped: {summary.reason}")
        return Next(stop=summary.reason)

    def _completed(self, child: Child, summary: Summary) -> Next:
        job = child.job
        saved = {checkpoints.step_of(Path(path)) for path in summary.checkpoints}
        if summary.steps and summary.total_steps not in saved:  # else the next file would go on from before this one
            return self._try_again(job, "its last checkpoint could not be finished")
        job = self._queue.complete(job, path=self._intake.file_away(job, COMPLETED), examples=summary.file_examples)
        left_out = f"; {summary.rejected:,} bad lines are in {self._intake.rejected(job)}" if summary.rejected else ""
        self._tell(job, f"completed at step {summary.total_steps}{left_out}")
        child.log.unlink(missing_ok=True)
        return Next()

    def _refused(self, child: Child, refused: messages.Refused) -> Next:
        """Bad data fail the file; a model that can't be had would fail every file, so that ends the daemon."""
        job = child.job
        self._note_failure(child, refused.problem)
        if is_disk_full(refused.problem):  # also where data could not be tokenised
            return self._wait_for_room(job, refused.problem)
        if refused.kind == DataError.__name__:
            self._give_up(job, f"{refused.problem} {refused.hint}".strip())
            return Next()
        if refused.trained:
            self._account.crash(job, Crash(kind="refused", reason=refused.problem, advice=refused.hint), (), step=None, log="")
            return self._try_again(job, refused.problem)
        self._tell(self._queue.put_back(job, refused.problem), "waits: no file can be trained on like this")
        kind = {ConfigError.__name__: ConfigError}.get(refused.kind, ModelError)
        return Next(stop=refused.problem, fatal=kind(refused.problem, hint=refused.hint), broke_off=True)

    def _died(self, child: Child, code: int, inquest: Inquest, stopping: str) -> Next:
        job, asked = child.job, child.interrupted
        if asked is not None and not child.hang:
            reason = asked.reason or f"{asked.verb} was asked for by {asked.requested_by or 'a command'}"
            if asked.verb == "skip":
                self._skip(job, reason)
                return Next(broke_off=True)
            if asked.verb == "pause":
                self._tell(self._queue.put_back(job, reason), "waits: paused before it began")
                return Next(broke_off=True)
            stopping = stopping or reason
        if stopping and not child.hang:  # it was told to end before it had anything to save
            self._tell(self._queue.put_back(job, stopping), f"stopped: {stopping}")
            return Next(stop=stopping, broke_off=True)
        lines = child.last_lines()
        crash = hanging(child.hang) if child.hang else inquest.verdict(code, lines)
        self._account.crash(job, crash, lines, step=child.step, log=str(child.log))
        self._note_failure(child, crash.reason)
        reason = f"{crash.reason}. {crash.advice}".removesuffix(". ")
        if crash.kind == DISK_FULL:
            return self._wait_for_room(job, reason)
        return self._try_again(job, f"{reason} Log: {child.log}")

    def _note_failure(self, child: Child, reason: str) -> None:
        self._record(of_failure(self._config, self._account.run, child.job.name, reason, child.worked(time.monotonic())))

    def _wait_for_room(self, job: Job, reason: str) -> Next:
        """No fault of the file, and no attempt: it goes on when there is room."""
        self._tell(self._queue.put_back(job, reason), f"{reason}; it goes on when there is room")
        return Next(pause=self._config.retry_seconds, broke_off=True)

    def _try_again(self, job: Job, reason: str) -> Next:
        if job.attempts + 1 >= self._config.attempts:
            self._give_up(job, f"{reason} ({job.attempts + 1} attempts)")
            return Next(broke_off=True)
        job = self._queue.put_back(job, reason, attempted=True)
        self._tell(job, f"{reason}; next attempt in {self._config.retry_seconds:g} s")
        return Next(pause=self._config.retry_seconds, broke_off=True)

    def _skip(self, job: Job, reason: str) -> None:
        self._tell(self._queue.skip(job, reason), f"skipped; `trainbus queue retry {job.name}` takes it up again")

    def _give_up(self, job: Job, reason: str) -> None:
        self._tell(self._queue.fail(job, reason, path=self._intake.file_away(job, FAILED, reason)), f"failed: {reason}")

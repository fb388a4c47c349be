"""What the daemon does when asked for something that needs no worker: edits of the queue, and everything while nothing is trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from trainbus.bus.events import Command, CommandState
from trainbus.errors import RefusedError, TrainbusError
from trainbus.trainer_node.control import unsettable
from trainbus.trainer_node.inbox.intake import Intake, set_aside
from trainbus.trainer_node.inbox.intervals import SETTABLE
from trainbus.trainer_node.inbox.queue import HELD, PAUSED, PRIORITIES, SETTINGS, Flag, Job, Queue

NOTHING = "no file is being trained on"


class Answer(Protocol):
    """Publishes what becomes of a command."""

    def __call__(self, command: Command, state: CommandState, reason: str = "", **result: Any) -> None:
        """Once ``accepted`` at most, then ``done`` or ``refused``."""


class Desk:
    """Answers commands at once, each to its end.

    Args:
        queue: What is edited.
        intake: Knows where files lie.
        answer: Publishes an answer.
        changed: Told of each job that was changed, and what was done, in words.
        stop: Ends the daemon, for a reason.
        newest: The newest whole checkpoint's id and path; empty when there is none.
    """

    def __init__(
        self,
        queue: Queue,
        intake: Intake,
        answer: Answer,
        *,
        changed: Callable[[Job, str], None],
        stop: Callable[[str], None],
        newest: Callable[[], Mapping[str, str]],
    ) -> None:
        self._queue = queue
        self._intake = intake
        self._answer = answer
        self._changed = changed
        self._stop = stop
        self._newest = newest

    def edits(self, command: Command) -> bool:
        """Whether it is about the queue: such commands are answered here also while a file is trained on."""
        return command.verb in self._EDITS

    def edit(self, command: Command) -> None:
        """Change the queue, or say why not."""
        wanted, edit = self._EDITS[command.verb]
        given = command.arguments
        if set(given) != set(wanted) or not all(isinstance(value, str) for value in given.values()):
            self._answer(command, "refused", f"{command.verb} takes {' and '.join(wanted) or 'no arguments'}, each as text")
            return
        try:
            result = edit(self, command)
        except TrainbusError as error:
            self._answer(command, "refused", f"{error.problem} {error.hint}".strip())
            return
        self._answer(command, "done", **result)

    def idle(self, command: Command) -> None:
        """Do what a run is asked for while nothing is trained on."""
        handler = self._IDLE.get(command.verb)
        if handler is None:
            allowed = ", ".join(sorted((*self._IDLE, *self._EDITS)))
            self._answer(command, "refused", f"unknown verb {command.verb!r}; allowed: {allowed}")
        else:
            handler(self, command)

    def said(self, command: Command) -> Flag:
        """A command as a flag that holds until it is taken back."""
        return Flag(by=command.requested_by, reason=command.reason, time=time.time_ns())

    # -- the queue

    def _priority(self, command: Command) -> dict[str, Any]:
        priority = next((word for word in PRIORITIES if word == command.arguments["priority"]), None)
        if priority is None:
            found = command.arguments["priority"]
            raise RefusedError(f"There is no priority {found!r}.", hint=f"Allowed: {', '.join(PRIORITIES)}.")
        job = self._queue.prioritise(self._queue.find(command.arguments["job"]), priority)
        return self._told(job, f"now {priority}")

    def _move(self, command: Command) -> dict[str, Any]:
        before = self._queue.find(command.arguments["before"])
        return self._told(self._queue.reorder(self._queue.find(command.arguments["job"]), before), f"now before {before.name}")

    def _remove(self, command: Command) -> dict[str, Any]:
        job = self._queue.remove(self._queue.find(command.arguments["job"]))
        path = set_aside(job)
        reason = command.reason or f"taken out of the queue by {command.requested_by or 'a command'}"
        return self._told(Job(id=job.id, name=job.name, path=path, state="failed", bytes=job.bytes, reason=reason), "removed") | {
            "path": str(path)
        }

    def _retry(self, command: Command) -> dict[str, Any]:
        job = self._queue.find(command.arguments["job"])
        self._queue.check_retry(job)
        return self._told(self._queue.retry(job, path=self._intake.bring_back(job)), "waits again")

    def _hold(self, command: Command) -> dict[str, Any]:
        self._queue.set_flag(HELD, self.said(command))
        return {"held": True}

    def _release(self, command: Command) -> dict[str, Any]:
        self._queue.set_flag(HELD, None)
        return {"held": False}

    def _told(self, job: Job, text: str) -> dict[str, Any]:
        self._changed(job, f"{text} (by command)")
        return {"job": job.id, "file": job.name, "priority": job.priority}

    # -- while nothing is trained on

    def _pause(self, command: Command) -> None:
        if self._queue.flag(PAUSED) is not None:
            self._answer(command, "refused", "the run is paused already")
            return
        self._queue.set_flag(PAUSED, self.said(command))
        self._answer(command, "done", "no file begins before `resume`")

    def _resume(self, command: Command) -> None:
        if self._queue.flag(PAUSED) is None:
            self._answer(command, "refused", "the run is not paused")
            return
        self._queue.set_flag(PAUSED, None)
        self._answer(command, "done")

    def _end(self, command: Command) -> None:
        self._queue.set_flag(PAUSED, None)
        self._stop(command.reason or f"stop was asked for by {command.requested_by or 'a command'}")
        self._answer(command, "done", **self._newest())

    def _save(self, command: Command) -> None:
        newest = self._newest()
        if newest:
            self._answer(command, "done", f"{NOTHING}: the newest checkpoint holds everything", **newest)
        else:
            self._answer(command, "refused", f"{NOTHING}, and nothing was learned yet")

    def _nothing(self, command: Command) -> None:
        self._answer(command, "refused", NOTHING)

    def _free_caches(self, command: Command) -> None:
        self._answer(command, "done", f"{NOTHING}: no memory is held")

    def _set(self, command: Command) -> None:
        if reason := unsettable(command.arguments, SETTABLE):
            self._answer(command, "refused", reason)
            return
        before = self._queue.flag(SETTINGS)
        settings = {**(before.settings if before else {}), **command.arguments}
        flag = Flag(by=command.requested_by, reason=command.reason, time=time.time_ns(), settings=settings, command=command.id)
        self._queue.set_flag(SETTINGS, flag)
        self._answer(command, "done", f"{NOTHING}: it holds from the first step of the next one on", now=dict(command.arguments))

    _EDITS: Mapping[str, tuple[tuple[str, ...], Callable[[Desk, Command], dict[str, Any]]]] = {
        "queue_priority": (("job", "priority"), _priority),
        "queue_move": (("job", "before"), _move),
        "queue_remove": (("job",), _remove),
        "queue_retry": (("job",), _retry),
        "queue_hold": ((), _hold),
        "queue_release": ((), _release),
    }
    _IDLE: Mapping[str, Callable[[Desk, Command], None]] = {
        "pause": _pause,
        "resume": _resume,
        "stop": _end,
        "save": _save,
        "evaluate": _nothing,
        "skip": _nothing,
        "free_caches": _free_caches,
        "set": _set,
    }

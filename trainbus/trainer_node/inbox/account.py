"""What the daemon says on the bus. It owns the run: the run lives while the daemon does, also between two files."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from trainbus.bus import events
from trainbus.bus.publisher import Publisher
from trainbus.trainer_node.inbox.crash import Crash
from trainbus.trainer_node.inbox.forecast import MEGABYTE, Forecast
from trainbus.trainer_node.inbox.queue import Job
from trainbus.trainer_node.pace import Left

IDLE = "idle"
"""The phase of a run that waits for a file, for room on the disk, or for somebody to say resume."""


class Account:
    """Publishes for one daemon; used from its main thread, but for `answer`.

    Args:
        publisher: The run's owner.
        name: The run's name.
    """

    def __init__(self, publisher: Publisher, name: str) -> None:
        self._publisher = publisher
        self._name = name
        self._idle: str | None = None
        self._crashes = 0

    @property
    def run(self) -> str:
        """The run's id."""
        return self._publisher.run

    def begin(self, config: Mapping[str, Any], *, resumed: bool, step: int | None) -> None:
        """The daemon has started."""
        self._publisher.publish(
            events.RunStarted(
                name=self._name,
                config=dict(config),
                host=socket.gethostname(),
                pid=os.getpid(),
                resumed_from=self._publisher.run if resumed else None,
                resumed_step=step,
                command=list(sys.argv),
                versions={"python": sys.version.split()[0]},
            )
        )

    def idle(self, why: str) -> None:
        """Nothing is trained on, and why; told once for each reason."""
        if why == self._idle:
            return
        state: events.PhaseState = "started" if self._idle is None else "progress"
        self._idle = why
        self._publisher.publish(events.Phase(name=IDLE, state=state, detail=why))
        self._publisher.beat(state=IDLE)

    def busy(self) -> None:
        """A file is trained on from now."""
        if self._idle is not None:
            self._idle = None
            self._publisher.publish(events.Phase(name=IDLE, state="ended"))

    def beat(self, state: str, step: int | None) -> None:
        """What the next sign of life says."""
        self._publisher.beat(step=step, state=state)

    def job(self, job: Job) -> None:
        """A job changed its state."""
        self._publisher.publish(
            events.Job(
                id=job.id, file=job.name, state=job.state, priority=job.priority, attempts=job.attempts, bytes=job.bytes,
                examples=job.examples, reason=job.reason,
            )
        )  # fmt: skip

    def answer(self, command: events.Command, state: events.CommandState, reason: str = "", **result: Any) -> None:
        """What became of a command."""
        self._publisher.publish(events.CommandResult(command=command.id, verb=command.verb, state=state, reason=reason, result=result))

    def crash(self, job: Job, crash: Crash, lines: Sequence[str], *, step: int | None, log: str) -> None:
        """A worker died."""
        self._crashes += 1
        self._publisher.publish(
            events.Alert(
                id=f"crash:{job.id}:{self._publisher.source}:{self._crashes}",
                rule="crash",
                category="run",
                severity="critical",
                step=step,
                message=f"Training on {job.name} broke off: {crash.reason}.",
                evidence={
                    "kind": crash.kind, "file": job.name, "proof": list(crash.proof), "last_lines": list(lines), "output": log,
                },
                advice=crash.advice,
                plugin="trainer",
            )
        )  # fmt: skip

    def forecast(self, found: Forecast, file: Left | None) -> None:
        """When the queue and the current file will be done: series that the dashboard charts. What is unknown is left out."""
        for of, left in (("file", file), ("queue", found.left)):
            if left is not None:
                self._metric(f"eta/{of}_seconds", left.seconds, "seconds")
                self._metric(f"eta/{of}_low", left.low, "seconds")
                self._metric(f"eta/{of}_high", left.high, "seconds")
        self._metric("queue/files", found.files)
        self._metric("queue/megabytes", found.bytes / MEGABYTE)
        self._metric("queue/megabytes_per_hour", found.megabytes_per_hour)

    def _metric(self, name: str, value: float | None, unit: str = "") -> None:
        if value is not None:
            self._publisher.publish(events.Metric(name=name, value=value, step=self._publisher.step, unit=unit))

    def end(self, outcome: events.RunOutcome, reason: str) -> None:
        """The daemon ends, and the run with it until another one starts."""
        self.busy()
        self._publisher.publish(events.RunEnded(outcome=outcome, step=self._publisher.step, reason=reason))

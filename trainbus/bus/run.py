"""`trainbus.init` and `Run`: what a training loop holds in its hand.

    with trainbus.init("my-run", config={"lr": 1e-4}) as run:
        for step in range(1000):
            run.step(step, loss=loss)

Everything here is as `Publisher.publish`: it never blocks and never raises because of the bus, with or without a broker.

Under torchrun, `init` is called on every rank. Rank 0 is the run; the others share its id and publish steps only (`Step.rank` tells
them apart), so that nothing else arrives several times.

Under `trainbus exec`, `init` without a run id joins the run that is supervised, whose end the supervisor publishes.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import time
import traceback
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from trainbus.bus.config import BusConfig
from trainbus.bus.events import (
    Checkpoint,
    CheckpointState,
    Command,
    CommandResult,
    CommandState,
    Eval,
    Event,
    Metric,
    Phase,
    RunEnded,
    RunOutcome,
    RunStarted,
    Sample,
    Step,
    checkpoint_id,
)
from trainbus.bus.facts import absolute_path, default_run_id, directory_facts, plain, safe_run_id, whole
from trainbus.bus.joining import Joined, join
from trainbus.bus.publisher import Publisher, PublisherStats, await_end
from trainbus.errors import ConfigError

PROGRESS_SECONDS = 0.1
"""Progress events of a phase are published at most this often; the last one (1.0) always."""
LAST_LINES = 10
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy")


def init(
    name: str,
    *,
    config: Any = None,
    run: str | None = None,
    resume: bool = False,
    resumed_step: int | None = None,
    root: Path | str | None = None,
    router: str | None = None,
    settings: BusConfig | None = None,
    leader: Leader | None = None,
) -> Run:
    """Start publishing a training run.

    Args:
        name: For people; the run's id begins with it.
        config: Anything; what msgpack can't hold is sent as its repr.
        run: The run's id; default: name, time and a random part, or the run of the `trainbus exec` that this process is under. Over
            several machines, give all ranks the same one.
        resume: Go on with the run ``run``, which an earlier process began; ``resumed_step`` says from where.
        root: Where state lives; default ``TRAINBUS_HOME``.
        router: The broker's address; default: follow the connection file in ``root``.
        leader: For one of several processes that work on a run one after the other: who owns the run.

    Raises:
        ConfigError: ``resume`` without ``run``.
    """
    if resume and not run:
        raise ConfigError(
            "resume=True needs the id of the run to go on with.", hint="Pass run=...; `trainbus runs list` shows the ids.", key="run"
        )
    joined = join() if not run and root is None else None
    return Run(
        joined.name if joined else name,
        run=joined.run if joined else safe_run_id(run) if run else default_run_id(name),
        joined=joined,
        config=config,
        resume=resume or (joined is not None and joined.resumed),
        resumed_step=resumed_step,
        root=Path(root) if root is not None else None,
        router=router,
        settings=settings,
        leader=leader,
    )


class Leader(Protocol):
    """The process that owns a run on which others work one after the other: it takes the run's commands and publishes its end.

    Attributes:
        pid: Its process id: the run's process tree begins there.
        announce: Whether the run is to be told that a process begins.
    """

    pid: int
    announce: bool

    def commands(self) -> list[Command]:
        """What it has passed on since the last call."""

    def answered(self, result: CommandResult) -> None:
        """The run has published what became of a command."""


class Run:
    """One process's part in a run. Thread-safe. Made by `init`; ends with `close`, the ``with`` block, or the process.

    Attributes:
        id: The run's id.
        rank: This process's rank; other ranks than 0 publish steps only.
    """

    def __init__(
        self,
        name: str,
        *,
        run: str,
        config: Any = None,
        resume: bool = False,
        resumed_step: int | None = None,
        root: Path | None = None,
        router: str | None = None,
        settings: BusConfig | None = None,
        joined: Joined | None = None,
        leader: Leader | None = None,
    ) -> None:
        self.id = run
        self.name = name
        self._joined = joined
        self._leader = leader
        self.rank = int(os.environ.get("RANK") or 0)
        self._commands: deque[Command] = deque()
        self._closed = False
        if resume:
            await_end(run)
        self._publisher = Publisher(
            run,
            name=name,
            owner=self.rank == 0 and leader is None,
            root=root,
            router=router,
            settings=settings,
            on_command=self._commands.append,
        )
        self._error_before = _last_error()
        atexit.register(self._close_at_exit)
        if leader is not None and not leader.announce:
            return
        self.publish(
            RunStarted(
                name=name,
                config=plain(config) if isinstance(config, dict) else {} if config is None else {"config": plain(config)},
                host=socket.gethostname(),
                pid=leader.pid if leader is not None else os.getpid(),
                world_size=int(os.environ.get("WORLD_SIZE") or 1),
                resumed_from=run if resume else None,
                resumed_step=resumed_step,
                command=list(sys.argv),
                versions=_versions(),
            )
        )

    def __repr__(self) -> str:
        return f"<Run {self.id!r}, step {self._publisher.step}>"

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._close_after(error)

    def step(
        self,
        step: int,
        *,
        total_steps: int | None = None,
        epoch: float | None = None,
        examples: int | None = None,
        tokens: int | None = None,
        **metrics: Any,
    ) -> None:
        """One optimizer step. Metric values: numbers, numpy scalars, tensors with one element (on any device)."""
        if type(step) is not int:
            step = whole(step)
        if type(step) is int:
            self._publisher.step = step
        self._publisher.publish(
            Step(step=step, metrics=metrics, total_steps=total_steps, epoch=epoch, examples=examples, tokens=tokens, rank=self.rank)
        )

    def eval(
        self,
        step: int,
        *,
        dataset: str = "",
        checkpoint: str | None = None,
        examples: int | None = None,
        duration: float | None = None,
        **metrics: Any,
    ) -> None:
        """Metrics of a whole evaluation set, of the live model or of the checkpoint with this id."""
        self.publish(Eval(step=step, dataset=dataset, checkpoint=checkpoint, examples=examples, duration=duration, metrics=metrics))

    def sample(
        self,
        step: int,
        *,
        prompt: str,
        expected: str | None = None,
        answer: str | None = None,
        correct: bool | None = None,
        loss: Any = None,
        example: str = "",
        dataset: str = "",
        checkpoint: str | None = None,
    ) -> None:
        """One question with the model's answer; ``loss`` and ``correct`` are those of this example."""
        self.publish(
            Sample(
                step=step,
                prompt=prompt,
                expected=expected,
                answer=answer,
                correct=correct,
                loss=loss,
                example=example,
                dataset=dataset,
                checkpoint=checkpoint,
            )
        )

    def checkpoint(
        self,
        path: str | os.PathLike[str],
        *,
        step: int,
        digest: str | None = None,
        state: CheckpointState = "complete",
        **metrics: Any,
    ) -> str:
        """A checkpoint file or directory changed state. Say "complete" only when it is whole under its final name.

        Args:
            digest: Of its content. Default: of its files' names, sizes and times, which is quick and changes when they do.

        Returns:
            The checkpoint's id: what an evaluation of it names.
        """
        absolute = absolute_path(path)
        size, derived = directory_facts(absolute)
        digest = derived if digest is None else digest
        name = checkpoint_id(self.id, step, digest)
        self.publish(
            Checkpoint(
                id=name,
                step=step,
                path=absolute,
                host=socket.gethostname(),
                state=state,
                bytes=size,
                digest=digest,
                metrics=metrics,
            )
        )
        return name

    def phase(self, name: str) -> PhaseBlock:
        """A ``with`` block around a part of the work: load_data, load_model, train, save, ..."""
        return PhaseBlock(self, name)

    def metric(self, name: str, value: Any, step: int | None = None, *, unit: str = "") -> None:
        """A point of any named series."""
        self.publish(Metric(name=name, value=value, step=step, unit=unit))

    def publish(self, event: Event) -> None:
        """Any other event. Ranks other than 0 publish nothing here."""
        if self.rank == 0:
            self._publisher.publish(event)

    def commands(self) -> list[Command]:
        """What the run was asked to do since the last call. Answer each with `result`. Never waits."""
        if self._leader is not None:
            return self._leader.commands()
        commands = []
        while self._commands:
            commands.append(self._commands.popleft())
        return commands

    def result(self, command: Command, state: CommandState = "done", reason: str = "", **result: Any) -> None:
        """Say what became of a command."""
        answer = CommandResult(command=command.id, verb=command.verb, state=state, reason=reason, result=plain(result))
        self.publish(answer)
        if self._leader is not None:
            self._leader.answered(answer)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything published so far is in the journal; False when it is not."""
        return self._publisher.flush(timeout)

    def stats(self) -> PublisherStats:
        """The publisher's figures."""
        return self._publisher.stats()

    def close(
        self,
        outcome: RunOutcome = "completed",
        *,
        reason: str = "",
        exit_code: int | None = None,
        last_lines: list[str] | None = None,
        timeout: float | None = None,
    ) -> bool:
        """End the run. Only the first call counts; a later one may still wait.

        Training need not: what was published is safe in the spool. It reaches the journal while the program goes on, and the program's
        exit waits for it, for at most 5 s (0.7 without a known broker, 2 without an answer); then the rest stays in the spool.

        Args:
            timeout: Wait here, for at most so many seconds, until everything is in the journal.

        Returns:
            Whether everything is in the journal by now.
        """
        if not self._closed and not self._publisher.forked:
            self._closed = True
            atexit.unregister(self._close_at_exit)
            step = self._publisher.step
            told = self._joined is not None and self.rank == 0 and self._joined.leave(outcome, reason, step)
            if self._leader is None and not told:
                self.publish(RunEnded(outcome=outcome, step=step, exit_code=exit_code, reason=reason, last_lines=last_lines or []))
        return self._publisher.leave() if timeout is None else self._publisher.close(timeout)

    def _close_after(self, error: BaseException) -> None:
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            self.close("stopped", exit_code=code, reason=f"SystemExit: {error.code}")
        elif isinstance(error, KeyboardInterrupt):
            self.close("stopped", reason="KeyboardInterrupt")
        else:
            lines = "".join(traceback.format_exception(error)).splitlines()[-LAST_LINES:]
            self.close("failed", reason=f"{type(error).__name__}: {error}", last_lines=lines)

    def _close_at_exit(self) -> None:
        """The process ends without `close`: say how, as far as it is known."""
        if self._publisher.forked:
            return
        error = _last_error()
        if error is not None and error is not self._error_before:
            self._close_after(error)
        else:
            self.close(reason="the process ended without close()")


class PhaseBlock:
    """A phase of a run; see `Run.phase`."""

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self._name = name
        self._started = self._said = 0.0

    def __enter__(self) -> PhaseBlock:
        self._started = time.monotonic()
        self._run.publish(Phase(name=self._name, state="started"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        detail = "" if error is None else f"{type(error).__name__}: {error}"
        duration = time.monotonic() - self._started
        self._run.publish(Phase(name=self._name, state="ended", progress=1.0 if error is None else None, duration=duration, detail=detail))

    def progress(self, fraction: float, detail: str = "") -> None:
        """How far the phase is, 0 to 1. May be called as often as you like."""
        now = time.monotonic()
        if fraction >= 1 or now - self._said >= PROGRESS_SECONDS:
            self._said = now
            self._run.publish(Phase(name=self._name, state="progress", progress=float(fraction), detail=detail))


def _last_error() -> BaseException | None:
    """The exception that ended the main program, as the interpreter keeps it (``sys.last_exc`` since Python 3.12)."""
    return getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)


def _versions() -> dict[str, str]:
    """Versions of what is loaded already; nothing is imported for it."""
    found = {name: str(version) for name in _LIBRARIES if (version := getattr(sys.modules.get(name), "__version__", None))}
    return {"python": sys.version.split()[0], **found}

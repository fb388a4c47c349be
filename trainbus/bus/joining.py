"""How training processes that `trainbus exec` started become one run with it, and how it learns what became of each.

The supervisor makes a folder with a ledger and names it, the run and itself in environment variables, which reach grandchildren too
(torchrun's workers). The first training that begins takes the supervisor's run, later ones get runs of their own: ``RUN-2``, ``RUN-3``.
Who leaves says how, in the ledger; the supervisor alone publishes the end, because it alone will know the exit code.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from trainbus.bus.events import DECODE_ERRORS

RUN_VARIABLE = "TRAINBUS_EXEC_RUN"
NAME_VARIABLE = "TRAINBUS_EXEC_NAME"
FOLDER_VARIABLE = "TRAINBUS_EXEC_FOLDER"
SUPERVISOR_VARIABLE = "TRAINBUS_EXEC_PID"
VARIABLES = (RUN_VARIABLE, NAME_VARIABLE, FOLDER_VARIABLE, SUPERVISOR_VARIABLE)


class Entry(NamedTuple):
    """A line of the ledger: a process ``opened`` a run, or ``left`` it with an outcome."""

    state: str
    run: str
    pid: int
    parent: int
    outcome: str = ""
    reason: str = ""
    step: int | None = None


class Ledger:
    """What processes said of their runs, in order; written under a lock, by lines that are whole or absent."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger"

    def entries(self) -> list[Entry]:
        """All whole lines so far; none when there is no ledger (any more)."""
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            with suppress(*DECODE_ERRORS):
                found.append(msgspec.json.decode(line, type=Entry))
        return found

    def add(self, entry: Entry) -> None:
        """Append a line.

        Raises:
            OSError: The folder is gone (the supervisor has ended), or the disk is full.
        """
        with open(self._path, "ab", buffering=0) as file:  # noqa: PTH123 - one unbuffered write is one whole line
            file.write(msgspec.json.encode(entry) + b"\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else takes a run meanwhile.

        Raises:
            OSError: As `add`.
        """
        with open(self._path, "ab") as file:  # noqa: PTH123 - the lock needs the open file
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class Joined:
    """This process's part in a supervised run.

    Attributes:
        run: The run's id.
        name: Its name.
        resumed: An earlier process of the same launcher (an elastic restart of torchrun) had this run before.
    """

    def __init__(self, run: str, name: str, ledger: Ledger, supervisor: int, *, resumed: bool) -> None:
        self.run = run
        self.name = name
        self.resumed = resumed
        self._ledger = ledger
        self._supervisor = supervisor

    def leave(self, outcome: str, reason: str, step: int | None) -> bool:
        """Say how this process leaves the run; False when nobody is there to publish the run's end."""
        try:
            os.kill(self._supervisor, 0)
            self._ledger.add(Entry("left", self.run, os.getpid(), os.getppid(), outcome, reason, step))
        except OSError:
            return False
        return True


def join(environment: Any = os.environ) -> Joined | None:
    """Take a run of the supervisor that started this process; None when there is none, or none any more."""
    run, folder, pid = environment.get(RUN_VARIABLE), environment.get(FOLDER_VARIABLE), environment.get(SUPERVISOR_VARIABLE, "")
    if not run or not folder or not pid.isdigit():
        return None
    name = environment.get(NAME_VARIABLE) or run
    ledger = Ledger(Path(folder))
    try:
        os.kill(int(pid), 0)
        if int(environment.get("RANK") or 0) > 0:
            known = [entry for entry in ledger.entries() if entry.state == "opened"]
            return Joined(known[-1].run if known else run, name, ledger, int(pid), resumed=False)
        with ledger.locked():
            chosen, resumed = _choose(run, [entry for entry in ledger.entries() if entry.state == "opened"], environment)
            ledger.add(Entry("opened", chosen, os.getpid(), os.getppid()))
    except (OSError, ValueError):  # another machine's folder, a supervisor that is gone: a run like any other
        return None
    return Joined(chosen, name, ledger, int(pid), resumed=resumed)


def _choose(run: str, opened: list[Entry], environment: Any) -> tuple[str, bool]:
    if not opened:
        return run, False
    last = opened[-1]
    if int(environment.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0 and last.parent == os.getppid() and last.pid != os.getpid():
        return last.run, True
    return f"{run}-{len({entry.run for entry in opened}) + 1}", False

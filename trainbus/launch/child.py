"""Starts the command, with its output in our hands.

It has a process group of its own (a session where there is a terminal), so that a signal can be sent to all of it.
"""

from __future__ import annotations

import difflib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from trainbus.errors import TrainbusError
from trainbus.launch.terminal import Terminal, terminal_of


class CommandNotFoundError(TrainbusError):
    """There is no such command; 127 is what shells say."""

    code = "command"
    exit_code = 127


class CommandNotExecutableError(TrainbusError):
    """The command is there and can't be run; 126 is what shells say."""

    code = "command"
    exit_code = 126


class Stream(NamedTuple):
    """Output: what is read from ``source`` is written to ``sink``."""

    source: int
    sink: int


class Child(NamedTuple):
    """A command that runs. Its pid is also the id of its process group."""

    pid: int
    streams: list[Stream]
    terminal: Terminal | None


def start(command: Sequence[str], *, cwd: Path | None, environment: Mapping[str, str]) -> Child:
    """Start it.

    Each standard stream that is a terminal here is one there, too: a pseudo-terminal. Other output goes through a pipe of its own;
    other input is inherited. Must be called before there are threads.

    Raises:
        CommandNotFoundError: There is no such command.
        CommandNotExecutableError: It can't be run.
    """
    program = _find(command[0], cwd, environment)
    terminal = terminal_of()
    given: list[int | IO[bytes] | None] = [None]
    streams = [] if terminal is None else [Stream(terminal.master, next(fd for fd in (1, 2, 0) if os.isatty(fd)))]
    ours: list[int] = []
    for sink in (1, 2):
        if terminal is not None and os.isatty(sink):
            given.append(terminal.slave)
            continue
        read, write = os.pipe()
        streams.append(Stream(read, sink))
        given.append(write)
        ours.append(write)
    if terminal is not None and os.isatty(0):
        given[0] = terminal.slave

    def prepare() -> None:  # in the child; no thread of ours exists yet
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if terminal is not None:
            terminal.take_control()

    try:
        process = subprocess.Popen(
            [*command],
            executable=program,
            cwd=cwd,
            env=dict(environment),
            stdin=given[0],
            stdout=given[1],
            stderr=given[2],
            start_new_session=terminal is not None,
            process_group=None if terminal is not None else 0,
            preexec_fn=prepare,
        )
    except OSError as error:
        raise _refused(command, error) from error
    for fd in ours:
        os.close(fd)
    if terminal is not None:
        terminal.started()
    process.returncode = 0  # it is waited for elsewhere, with everything else that ends up as our child
    return Child(process.pid, streams, terminal)


def _find(name: str, cwd: Path | None, environment: Mapping[str, str]) -> str:
    path = environment.get("PATH", os.defpath)
    local = os.path.join(cwd, name) if cwd is not None and os.sep in name else name  # noqa: PTH118 - "./x" must keep its dot
    found = shutil.which(local, path=path)
    if found is not None:
        return os.path.abspath(found)  # noqa: PTH100 - the folder that holds it is not to be resolved: a venv's python is a link
    there = Path(local)
    if there.is_dir():
        raise CommandNotExecutableError(f"{name} is a folder, not a command.", hint="Put the program in front of it.", found=name)
    if there.is_file():
        raise CommandNotExecutableError(f"{name} is not executable.", hint=_how(name), found=name)
    near = [] if os.sep in name else difflib.get_close_matches(name, _programs(path), n=3, cutoff=0.75)
    hint = f"Did you mean {' or '.join(near)}?" if near else "Look at its spelling, and whether its environment is active (PATH)."
    raise CommandNotFoundError(f"There is no command {name}.", hint=hint, found=name)


def _programs(path: str) -> list[str]:
    found: list[str] = []
    for folder in path.split(os.pathsep):
        try:
            found += os.listdir(folder or ".")  # noqa: PTH208 - only names are wanted
        except OSError:
            continue
    return found


def _how(name: str) -> str:
    if name.endswith(".py"):
        return f"Run it with Python: trainbus exec -- {Path(sys.executable).name} {name}"
    return f"Make it executable (chmod +x {name}), or put its interpreter in front."


def _refused(command: Sequence[str], error: OSError) -> TrainbusError:
    name = command[0]
    if error.errno == errno.ENOENT:  # the file is there, so the interpreter of its first line isn't
        return CommandNotExecutableError(f"{name} can't be run: the interpreter that its first line names is missing.", hint=_how(name))
    return CommandNotExecutableError(f"{name} can't be run: {error.strerror}.", hint=_how(name), found=name)

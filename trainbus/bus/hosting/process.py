"""Start a child in a session of its own, with a lifeline and a pipe for reports, and end it for certain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence

KILL_MARGIN = 2.0
"""Seconds beyond the child's own limit before it is killed: it kills itself first, and says why."""

OPTIONS_VARIABLE = "TRAINBUS_PLUGIN_OPTIONS"
"""In the environment of a plugin host: its table ``[plugin.NAME]`` as JSON. Arguments would show the secrets in it to every user (`ps`)."""

MAX_REPORT_BYTES = 8 * 1024 * 1024
"""Longest line of a report: a handshake carries the JSON Schema of a plugin's settings."""


class Child:
    """A running child.

    It leads its own session, so that Ctrl-C in the terminal reaches the supervisor alone, which then stops the children in order.
    """

    def __init__(self, process: asyncio.subprocess.Process, lifeline: int, tasks: list[asyncio.Task[None]]) -> None:
        self._process = process
        self._lifeline: int | None = lifeline
        self._tasks = tasks

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its process group."""
        return self._process.pid

    def ask_to_stop(self) -> None:
        """Close the lifeline: the child ends in order, and by force when that takes longer than its limit."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def kill(self) -> None:
        """End it and everything that it started, now. Works on a stopped (SIGSTOP) child too."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for its end and for the last of its output. The exit code, or minus the signal."""
        code = await self._process.wait()
        self.kill()  # what it started and left behind; that also ends their hold on the output pipe
        await asyncio.wait(self._tasks, timeout=KILL_MARGIN)
        for task in self._tasks:
            task.cancel()
        self.ask_to_stop()
        return code

    async def stop(self, limit: float) -> None:
        """Ask it to stop and see to it that it has: at most ``limit`` seconds and a margin. `wait` must be running elsewhere."""
        self.ask_to_stop()
        try:
            await asyncio.wait_for(asyncio.shield(self._process.wait()), limit + KILL_MARGIN)
        except TimeoutError:
            self.kill()
            await self._process.wait()


async def start(
    command: Sequence[str], *, output: Callable[[bytes], None], report: Callable[[bytes], None] | None = None, environment: dict[str, str]
) -> Child:
    """Start ``command`` with ``--lifeline FD`` (and ``--report FD``) added.

    Args:
        output: Gets what it prints (stdout and stderr together), as it comes.
        report: Gets the lines of the report pipe.
    """
    life_read, life_write = os.pipe()  # not inheritable: no other child can hold our end open
    # Not asyncio's own PIPE: its wait() lasts until nobody holds that pipe, and a grandchild may hold it for ever.
    output_read, output_write = os.pipe()
    report_read, report_write = os.pipe()
    extra = ["--lifeline", str(life_read)] + (["--report", str(report_write)] if report is not None else [])
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            *extra,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output_write,
            stderr=output_write,
            pass_fds=[life_read, report_write],
            start_new_session=True,
            env=environment,
        )
    except BaseException:
        for fd in (life_write, output_read, report_read):
            os.close(fd)
        raise
    finally:
        for fd in (life_read, output_write, report_write):
            os.close(fd)
    tasks = [asyncio.create_task(_pump(await _reader(output_read), output))]
    lines = _lines(await _reader(report_read), report or (lambda _: None))
    return Child(process, life_write, [*tasks, asyncio.create_task(lines)])


async def _reader(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=MAX_REPORT_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb"))
    return reader


async def _pump(stream: asyncio.StreamReader, output: Callable[[bytes], None]) -> None:
    while data := await stream.read(65_536):
        output(data)


async def _lines(stream: asyncio.StreamReader, report: Callable[[bytes], None]) -> None:
    while line := await stream.readline():
        report(line)


def describe_exit(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"

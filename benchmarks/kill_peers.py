"""kill -9 of training, and of the logging server, for trainbus and the loggers beside it: how many calls can be read back."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.common import in_a_process
from benchmarks.frame import Bar, Result, Table

SECONDS = 60.0
"""A training whose logger has lost its server is given up after this time."""
_spawn = multiprocessing.get_context("spawn")


def log_and_die(name: str, folder: str, calls: int, returned: Any) -> None:
    """kill -9 of itself right after the last call."""
    call = _started(name, folder).start()
    for step in range(calls):
        call(step)
        returned.value = step + 1
    os.kill(os.getpid(), signal.SIGKILL)


def log_through_a_kill(name: str, folder: str, calls: int, returned: Any, raised: Any, longest: Any, victim: int) -> None:
    """kill -9 of the server in the middle; training goes on, and ends in order."""
    logger = _started(name, folder)
    call = logger.start()
    end = time.monotonic() + SECONDS
    for step in range(calls):
        if step == calls // 2:
            for pid in filter(None, {victim, logger.victim() or 0}):
                kill_tree(pid)
        began = time.perf_counter()
        try:
            call(step)
        except Exception:  # noqa: BLE001 - whatever it raises, a training without a handler ends by it
            raised.value += 1
        longest.value = max(longest.value, time.perf_counter() - began)
        returned.value = step + 1
        if time.monotonic() > end:
            break
    with contextlib.suppress(Exception):
        logger.finish()
    os._exit(0)


def kill_tree(pid: int) -> None:
    """kill -9 of a server and its workers, which would go on without it."""
    import psutil

    with contextlib.suppress(psutil.Error):
        server = psutil.Process(pid)
        for process in (*server.children(recursive=True), server):
            with contextlib.suppress(psutil.Error):
                process.kill()


def _started(name: str, folder: str) -> peers.Logger:
    os.environ["TRAINBUS_HOME"] = folder
    return peers.LOGGERS[name](Path(folder))


def count(name: str, folder: str) -> int:
    """In a process that never wrote."""
    return _started(name, folder).readable()


def killed_training(name: str, calls: int) -> dict[str, Any] | None:
    """None when the logger is not installed."""
    with tempfile.TemporaryDirectory(prefix="bench-kill-", ignore_cleanup_errors=True) as folder:
        returned = _spawn.Value("q", 0)
        with peers.LOGGERS[name](Path(folder)).server():
            process = _spawn.Process(target=log_and_die, args=(name, folder, calls, returned))
            process.start()
            process.join()
        if process.exitcode != -signal.SIGKILL:
            return None
        return {"calls": returned.value, "readable": in_a_process(count, name, folder)}


def killed_server(name: str, calls: int) -> dict[str, Any] | None:
    """None when the logger is not installed, or has no server."""
    logger = peers.LOGGERS[name]
    if logger.server is peers.Logger.server and logger.victim is peers.Logger.victim:
        return None
    with tempfile.TemporaryDirectory(prefix="bench-kill-", ignore_cleanup_errors=True) as folder:
        returned, raised, longest = _spawn.Value("q", 0), _spawn.Value("q", 0), _spawn.Value("d", 0.0)
        with logger(Path(folder)).server() as server:
            victim = server.pid if server is not None else 0
            process = _spawn.Process(target=log_through_a_kill, args=(name, folder, calls, returned, raised, longest, victim))
            process.start()
            process.join(SECONDS * 4)
            if hung := process.is_alive():
                process.kill()
                process.join()
        if process.exitcode and not hung:
            return None
        found = {"calls": returned.value, "raised": raised.value, "longest": longest.value, "hung": hung}
        return found | {"readable": in_a_process(count, name, folder)}


def bench(quick: bool) -> Result:
    rounds = 1 if quick else 3
    names = [name for name in peers.LOGGERS if name != peers.Logger.name]
    trained: dict[str, list[dict[str, Any]]] = {}
    served: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name in names:
            calls = peers.LOGGERS[name].calls // (10 if quick and peers.LOGGERS[name].calls < 5_000 else 1)
            for found, play in ((trained, killed_training), (served, killed_server)):
                if (one := play(name, calls)) is not None:
                    found.setdefault(name, []).append(one)
    rows: list[list[str | float | int]] = [
        [name, ones[0]["calls"], *_spread(ones, "readable"), min(one["readable"] / one["calls"] * 100 for one in ones)]
        for name, ones in trained.items()
    ]
    server_rows: list[list[str | float | int]] = [
        [
            name,
            min(one["calls"] for one in ones),
            max(one["raised"] for one in ones),
            f"{max(one['longest'] for one in ones) * 1e3:,.1f}",
            *_spread(ones, "readable"),
            "yes" if any(one["hung"] for one in ones) else "no",
        ]
        for name, ones in served.items()
    ]
    ours = trained[peers.Trainbus.name] + served[peers.Trainbus.name]
    bars = [Bar("trainbus, readable of those logged", min(one["readable"] / one["calls"] for one in ours) * 100, 100, "%", at_most=False)]
    return Result(
        "kill -9, beside other loggers",
        f"A process makes 5,000 calls with ten metrics each (500 where they take minutes) and kills itself with SIGKILL after the last."
        f" Then the same with kill -9 of the server half-way, training going on for at most {SECONDS:.0f} s. A call counts when all ten"
        f" metrics of its step can be read from the disk by another process, which may drain, sync or index first. {rounds} rounds.",
        [
            Table("kill -9 of training after its last call", ["", "calls", "readable, fewest", "most", "% at least"], rows),
            Table(
                "kill -9 of the logger's server half-way",
                ["", "calls made", "that raised", "longest call, ms", "readable, fewest", "most", "training hung at its end"],
                server_rows,
            ),
        ],
        bars,
        peers.versions(),
        {"training": trained, "server": served},
    )


def _spread(ones: list[dict[str, Any]], key: str) -> list[int]:
    return [min(one[key] for one in ones), max(one[key] for one in ones)]

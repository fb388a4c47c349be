"""A process beside a demo that ends what the demo has started when the demo itself is gone, also by ``kill -9``.

It reads a pipe whose other end only the demo holds. ``done`` says that nothing is left to do; the pipe's end without that word means
that the demo was killed. Run as ``python -m trainbus.demo.guard``, with the demo's TRAINBUS_HOME: whatever lives in that home belongs
to the demo.
"""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

DONE = "done"
GRACE_SECONDS = 10.0
"""To end by oneself after SIGTERM."""


def main() -> None:
    """Wait, and clean up if need be."""
    if sys.stdin.read().strip() == DONE:
        return
    subprocess.run([sys.executable, "-m", "trainbus", "down"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    left = processes(os.environ["TRAINBUS_HOME"])
    for process in left:
        end(process)
    for process in psutil.wait_procs(left, GRACE_SECONDS)[1]:
        end(process, by_force=True)


def processes(home: str) -> list[psutil.Process]:
    """All of this user's that live in a home, but for this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("TRAINBUS_HOME") == home:
                found.append(process)
        except psutil.Error:  # another user's, or gone
            continue
    return found


def end(process: psutil.Process, *, by_force: bool = False) -> None:
    """A signal to exactly that process; none when its number is somebody else's by now."""
    try:
        process.kill() if by_force else process.terminate()
    except psutil.NoSuchProcess:
        return


if __name__ == "__main__":
    main()

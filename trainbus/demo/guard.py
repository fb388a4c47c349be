"""A process beside a demo that ends what the demo has started when the demo itself is gone, also by ``kill -9``.

It reads a pipe whose other end only the demo holds: a number is a process to end, ``done`` says that nothing is left to do. The pipe's
end without that word means that the demo was killed. Run as ``python -m trainbus.demo.guard``, with the demo's TRAINBUS_HOME.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys

DONE = "done"
GRACE_SECONDS = 10.0
"""For each process, to end by itself after SIGTERM."""


def main() -> None:
    """Wait, and clean up if need be."""
    processes: list[int] = []
    for line in sys.stdin:
        if line.strip() == DONE:
            return
        with contextlib.suppress(ProcessLookupError):
            processes.append(os.pidfd_open(int(line)))  # a number could be somebody else's by the time that it is needed
    for process in processes:
        _signal(process, signal.SIGTERM)
    subprocess.run([sys.executable, "-m", "trainbus", "down"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for process in processes:
        if not select.select([process], [], [], GRACE_SECONDS)[0]:
            _signal(process, signal.SIGKILL)


def _signal(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, number)


if __name__ == "__main__":
    main()

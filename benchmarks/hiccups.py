"""What the machine itself does to a program: a loop on each core that only reads the clock, and the gaps that it sees.

    python benchmarks/hiccups.py [--seconds 60]

The fault matrix counts calls of publish() that took longer than 1 ms although the kernel had given their processor to nobody else. This
loop publishes nothing, has no other thread and touches no file: its gaps are those of interrupts and of the hypervisor.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time

GAP_NANOSECONDS = 1_000_000
READINGS = 50
"""Of the clock, between two looks at what the kernel counts."""


def gaps(seconds: float) -> list[float]:
    """Milliseconds of each uninterrupted gap of more than 1 ms."""
    found: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        longest, last = 0, time.perf_counter_ns()
        before = resource.getrusage(resource.RUSAGE_THREAD)
        for _ in range(READINGS):
            now = time.perf_counter_ns()
            longest, last = max(longest, now - last), now
        after = resource.getrusage(resource.RUSAGE_THREAD)
        if longest > GAP_NANOSECONDS and (after.ru_nivcsw, after.ru_nvcsw) == (before.ru_nivcsw, before.ru_nvcsw):
            found.append(longest / 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    seconds = parser.parse_args().seconds
    cores = len(os.sched_getaffinity(0))
    with multiprocessing.Pool(cores) as pool:
        found = [gap for one in pool.map(gaps, [seconds] * cores) for gap in one]
    told = f", the longest {max(found):.1f} ms" if found else ""
    print(f"{len(found)} uninterrupted gaps of more than 1 ms in {seconds * cores:.0f} s of {cores} cores{told}.")


if __name__ == "__main__":
    main()

"""What several tests use: ``from tests.support import wait_for, trainbus``."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], deadline: float = 90.0, *, what: str = "") -> T:
    """Ask again until ``condition()`` is true, and return what it gave; fail after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what or condition}")
        time.sleep(0.01)
    return value


def trainbus(*arguments: str, timeout: float = 120.0, **options) -> subprocess.CompletedProcess[str]:
    """Run ``trainbus ARGUMENTS`` as a process of its own, with text output captured."""
    command = [sys.executable, "-m", "trainbus", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)

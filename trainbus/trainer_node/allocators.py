"""What the allocators of a training hold and what of it is in use: told with a step now and then, so that fragmentation can be judged.

From outside a process only what it holds is seen. Of a GPU's caching allocator PyTorch tells the rest, of the heap the C library.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

PERIOD = 10.0
"""Seconds between two answers."""
SHARE = 0.0005
"""Of the time they may take at most: a heap of millions of pieces is counted piece by piece."""


class _Mallinfo2(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33: sizes of the heap in bytes (mallinfo(3))."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


class Allocators:
    """Asked at each step; answers seldom.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._mallinfo = _heap_function()
        self.due = now() + PERIOD
        """When `read` is to be called again."""

    def read(self) -> dict[str, float]:
        """Bytes: ``heap_used`` and ``heap_free``; ``gpu_peak`` (the most that was ever in use at once) and ``gpu_reserved``.

        What can't be told is missing.
        """
        began = self._now()
        found = {**self._heap(), **_gpu()}
        ended = self._now()
        self.due = ended + max(PERIOD, (ended - began) / SHARE)
        return found

    def _heap(self) -> dict[str, float]:
        if self._mallinfo is None:
            return {}
        info = self._mallinfo()
        return {"heap_used": float(info.uordblks + info.hblkhd), "heap_free": float(info.fordblks)}


def _heap_function() -> Callable[[], _Mallinfo2] | None:
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):  # another C library, or glibc before 2.33
        return None
    function.restype = _Mallinfo2
    return function


def _gpu() -> dict[str, float]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    devices = range(torch.cuda.device_count())
    return {
        "gpu_peak": float(sum(torch.cuda.max_memory_allocated(device) for device in devices)),
        "gpu_reserved": float(sum(torch.cuda.memory_reserved(device) for device in devices)),
    }

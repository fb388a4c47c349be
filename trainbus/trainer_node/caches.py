"""Memory that a training holds without needing it: cycles, cached blocks of the GPU's allocator, free heap."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def free_caches() -> dict[str, int]:
    """Give it back to the system; says how many bytes of this process and of its GPUs that was. Takes up to a second or so.

    The next steps are a little slower, because the allocators fill their caches again.
    """
    resident, reserved = _resident(), _reserved()
    unreachable = gc.collect()
    torch = sys.modules.get("torch")  # not imported for this
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    _trim()
    return {
        "freed_bytes": max(0, resident - _resident()),
        "freed_gpu_bytes": max(0, reserved - _reserved()),
        "unreachable_objects": unreachable,
    }


def _reserved() -> int:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return sum(int(torch.cuda.memory_reserved(device)) for device in range(torch.cuda.device_count()))


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def _trim() -> None:
    """glibc keeps what was freed for later; other C libraries have no such call."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return

"""Memory that a training's allocators hold in pieces that are of no use to it: from what the training tells, and what is seen of it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from trainbus.bus.events import Process, Severity, System
from trainbus.plugins.memory.book import Book
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.levels import Limit
from trainbus.plugins.memory.runs import KEPT_HELD, Held, RunView, members

SHARE = 0.25
"""Memory is in fragments when at least this share of what is held is of no use ..."""
LEAST = 512 << 20
"""... and at least so many bytes: less is what any allocator keeps for later."""
OVER = 0.5
"""It is over when it is down to this share of that."""

HEAP_ADVICE = (
    "The command free-caches gives back what can be given back. If it comes again: MALLOC_ARENA_MAX=2, or jemalloc by LD_PRELOAD, and "
    "fewer threads that allocate."
)
GPU_ADVICE = (
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True keeps blocks in one piece; lengths in a few sizes (padding to a multiple) help too. "
    "The command free-caches gives back whole blocks that are empty."
)


class _Fragments(Struct, frozen=True):
    """What one allocator holds without need, and beside that."""

    where: str
    idle: float
    held: float
    advice: str
    full: bool

    @property
    def share(self) -> float:
        return self.idle / self.held if self.held > 0 else 0.0


def judge_fragments(event: System, process: Process, view: RunView, limits: Sequence[Limit], config: MemoryConfig, book: Book) -> None:
    """Follow the fragments of one training. Advice; a warning where the memory that they lie in is short."""
    found = []
    if len(view.heap) == KEPT_HELD:
        # The heap counts pages as free that were given back, or never touched: only what is resident and not needed is lost.
        own, told = float(members(process)[process.pid]), view.heap[-1]
        idle = max(0.0, min(_idle(view.heap), own - told.needed))
        full = any(limit.percent >= config.host_warning for limit in limits)
        found.append(_Fragments("heap", idle, own, HEAP_ADVICE, full))
    if len(view.gpu) == KEPT_HELD:
        idle = _idle(view.gpu)
        mine = [gpu for gpu in event.gpus if any(one.run == view.run for one in gpu.processes or ())]
        full = any(100 * (gpu.memory_used or 0) >= config.gpu_warning * (gpu.memory_total or 1) for gpu in mine)
        found.append(_Fragments("GPU", idle, view.gpu[-1].needed + idle, GPU_ADVICE, full))
    for one in found:
        _tell(event, view, one, book)


def _idle(told: Sequence[Held]) -> float:
    """What was idle in all the last answers."""
    return max(0.0, min(held.idle for held in told))


def _tell(event: System, view: RunView, found: _Fragments, book: Book) -> None:
    key, name = f"fragments {view.run} {found.where}", view.name or view.run
    if found.idle >= LEAST and found.share >= SHARE:
        severity: Severity = "warning" if found.full else "info"
        message = (
            f"{found.idle / 1e9:.2f} of the {found.held / 1e9:.2f} GB that {name} holds on its {found.where} are fragments: "
            f"held, but of no use to it."
        )
        evidence = {"unit": "%", "idle_bytes": int(found.idle), "held_bytes": int(found.held), "where": found.where}
        book.tell(
            event,
            key,
            "memory_fragmentation",
            severity,
            message,
            run=view.run,
            step=view.step,
            value=100 * found.share,
            evidence=evidence,
            advice=found.advice,
        )
    elif found.idle < OVER * LEAST or found.share < OVER * SHARE:
        book.clear(event, key, f"The {found.where} memory of {name} is in use again.", value=100 * found.share, unit="%")

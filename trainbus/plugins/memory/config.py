"""``[plugin.memory]``: how often it looks, and the levels at which it speaks."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

Percent: TypeAlias = Annotated[float, Meta(gt=0, le=100)]


class MemoryConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.memory]``. Percentages are of the total.

    Args:
        interval: Seconds between two looks while memory is calm.
        fast_interval: Seconds between two looks while it moves fast.
        host_warning: Host memory in use (total less MemAvailable) from which there is a warning.
        host_critical: The same for a critical alert.
        gpu_warning: Memory of one GPU in use from which there is a warning.
        process_warning_bytes: Resident bytes of one training's process tree from which there is a warning; 0 for never.
        hysteresis: A level is left only when usage is this many percentage points below it.
        gpus: False to leave NVML alone.
        paths: Further paths whose disks are watched.
    """

    interval: Annotated[float, Meta(ge=0.1, le=3_600)] = 2.0
    fast_interval: Annotated[float, Meta(ge=0.1, le=3_600)] = 0.2
    host_warning: Percent = 70.0
    host_critical: Percent = 85.0
    gpu_warning: Percent = 90.0
    process_warning_bytes: Annotated[int, Meta(ge=0)] = 0
    hysteresis: Annotated[float, Meta(ge=0, le=50)] = 5.0
    gpus: bool = True
    paths: tuple[Annotated[str, Meta(min_length=1)], ...] = ()

    def __post_init__(self) -> None:
        """Refuse levels and intervals in the wrong order (msgspec turns it into a validation error)."""
        if self.host_warning > self.host_critical:
            raise ValueError(f"host_warning {self.host_warning:g} is above host_critical {self.host_critical:g}")
        if self.fast_interval > self.interval:
            raise ValueError(f"fast_interval {self.fast_interval:g} is longer than interval {self.interval:g}")

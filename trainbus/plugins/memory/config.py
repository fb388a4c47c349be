"""``[plugin.memory]``: how often it looks, the levels at which it speaks, and what it may do."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

Percent: TypeAlias = Annotated[float, Meta(gt=0, le=100)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0.05, le=3_600)]
Bytes: TypeAlias = Annotated[int, Meta(ge=0)]
Action: TypeAlias = Literal["free_caches", "save", "pause", "stop"]

ORDERED = (
    ("host_warning", "host_critical"),
    ("gpu_warning", "gpu_critical"),
    ("pressure_warning", "pressure_critical"),
    ("disk_warning", "disk_critical"),
)


class MemoryConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.memory]``. Percentages are of the total.

    Args:
        interval: Seconds between two looks while memory is calm.
        fast_interval: Seconds between two looks while it moves fast.
        host_warning: Memory of the host, or of a control group with a limit, in use from which there is a warning.
        host_critical: The same for a critical alert.
        gpu_warning: Memory of one GPU in use from which there is a warning.
        gpu_critical: The same for a critical alert.
        process_warning_bytes: Resident bytes of one training's process tree from which there is a warning; 0 for never.
        process_critical_bytes: The same for a critical alert.
        pressure_warning: Percentage of the last 10 s in which all tasks waited for memory, from which there is a warning.
        pressure_critical: The same for a critical alert.
        disk_warning: Space or inodes of a disk in use from which there is a warning.
        disk_critical: The same for a critical alert.
        files_warning: Open files of one process, of its limit, from which there is a warning.
        hysteresis: A level is left only when usage is this many percentage points below it.
        horizon_hours: An end of memory or disk that is further away is not spoken of.
        gpus: False to leave NVML alone.
        paths: Further paths whose disks are watched.
        actions: What may be asked of a training before its memory ends.
        dry_run: True to only say what would be asked.
        safety: Actions begin this many times the time of a save before memory ends.
        save_seconds: The time of a save while none has been seen.
        act_percent: Memory in use at which actions begin without a prediction.
        protect: Ask the kernel to spare this process when it kills (it needs the right to).
        last_resort: Name or id of the one run whose process group may be killed when nothing else helps; empty for none.
        last_resort_percent: Memory in use from which that is done.
        last_resort_grace: Seconds between SIGTERM and SIGKILL.
    """

    interval: Seconds = 2.0
    fast_interval: Seconds = 0.1
    host_warning: Percent = 70.0
    host_critical: Percent = 85.0
    gpu_warning: Percent = 75.0
    gpu_critical: Percent = 90.0
    process_warning_bytes: Bytes = 0
    process_critical_bytes: Bytes = 0
    pressure_warning: Percent = 40.0
    pressure_critical: Percent = 60.0
    disk_warning: Percent = 90.0
    disk_critical: Percent = 97.0
    files_warning: Percent = 80.0
    hysteresis: Annotated[float, Meta(ge=0, le=50)] = 5.0
    horizon_hours: Annotated[float, Meta(gt=0, le=8_760)] = 24.0
    gpus: bool = True
    paths: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    actions: tuple[Action, ...] = ("free_caches", "save")
    dry_run: bool = True
    safety: Annotated[float, Meta(ge=1, le=100)] = 3.0
    save_seconds: Annotated[float, Meta(gt=0, le=36_000)] = 30.0
    act_percent: Percent = 95.0
    protect: bool = True
    last_resort: str = ""
    last_resort_percent: Percent = 98.0
    last_resort_grace: Annotated[float, Meta(ge=0, le=3_600)] = 10.0

    def __post_init__(self) -> None:
        """Refuse levels and intervals in the wrong order (msgspec turns it into a validation error)."""
        for lower, upper in ORDERED:
            if getattr(self, lower) > getattr(self, upper):
                raise ValueError(f"{lower} {getattr(self, lower):g} is above {upper} {getattr(self, upper):g}")
        if 0 < self.process_critical_bytes < self.process_warning_bytes:
            raise ValueError(
                f"process_warning_bytes {self.process_warning_bytes} is above process_critical_bytes {self.process_critical_bytes}"
            )
        if self.fast_interval > self.interval:
            raise ValueError(f"fast_interval {self.fast_interval:g} is longer than interval {self.interval:g}")
        if len(set(self.actions)) < len(self.actions):
            raise ValueError(f"actions names one twice: {', '.join(self.actions)}")

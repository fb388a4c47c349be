"""What the server's machine has: memory, disks, GPUs by NVML, and how much power a GPU may draw."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from msgspec import Struct

from trainbus.errors import RefusedError
from trainbus.machine.gpu import MILLIWATT, Device, LostError
from trainbus.machine.gpus import load_nvml
from trainbus.machine.text import UnknownError
from trainbus.version import __version__


class GpuState(Struct, frozen=True, kw_only=True):
    """One GPU; what it does not tell is None. Memory in bytes, power in watts, temperature in °C, utilisations in percent."""

    index: int
    name: str = ""
    temperature: float | None = None
    utilization: float | None = None
    memory_utilization: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    power: float | None = None
    power_limit: float | None = None
    power_min: float | None = None
    power_max: float | None = None


def free_memory() -> int:
    """Bytes that can be had without swapping."""
    return int(psutil.virtual_memory().available)


def system(store: Path | None) -> dict[str, Any]:
    """Host, load, memory of host and server, disk of the store."""
    memory, own = psutil.virtual_memory(), psutil.Process()
    told = {
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "version": __version__,
        "cpus": os.cpu_count(),
        "load": list(os.getloadavg()),
        "memory_total": memory.total,
        "memory_available": memory.available,
        "memory_percent": memory.percent,
        "swap_used": psutil.swap_memory().used,
        "process": {"pid": own.pid, "memory": own.memory_info().rss, "threads": own.num_threads(), "started": own.create_time()},
        "time": time.time(),
    }
    if store is not None:
        disk = shutil.disk_usage(store)
        told["disk"] = {"total": disk.total, "free": disk.free}
    return told


class Gpus:
    """Asks NVML anew each time: it is asked seldom, and a driver may come and go.

    Args:
        profiles: Watts by name.
        load: Gives the ``pynvml`` module.
    """

    def __init__(self, profiles: Mapping[str, int], load: Callable[[], Any] = load_nvml) -> None:
        self._profiles = dict(profiles)
        self._load = load

    def read(self) -> tuple[list[GpuState], str]:
        """All GPUs, and why there are none if so."""
        try:
            return self._with(lambda library: [_state(library, index) for index in range(library.nvmlDeviceGetCount())]), ""
        except RefusedError as error:
            return [], error.problem

    def power(self) -> dict[str, Any]:
        """The profiles, and each GPU's limit with the profile that it is, if any."""
        gpus, reason = self.read()
        names = {watts: name for name, watts in self._profiles.items()}
        told = [
            {
                "index": gpu.index,
                "power": gpu.power,
                "power_limit": gpu.power_limit,
                "power_min": gpu.power_min,
                "power_max": gpu.power_max,
                "profile": names.get(round(gpu.power_limit)) if gpu.power_limit is not None else None,
            }
            for gpu in gpus
        ]
        return {"profiles": self._profiles, "gpus": told, "reason": reason}

    def set_profile(self, profile: str, index: int | None = None) -> None:
        """Limit the power of one GPU, or of all.

        Raises:
            RefusedError: ``facts["code"]`` is ``value`` for an unknown profile or GPU, or watts that a GPU can't be set to,
                ``forbidden`` without the right, ``unsupported`` without a GPU that can.
        """
        if profile not in self._profiles:
            raise RefusedError(
                f"There is no power profile {profile!r}.", hint=f"There are: {', '.join(self._profiles)}.", code="value", param="profile"
            )
        watts = self._profiles[profile]

        def act(library: Any) -> None:
            count = library.nvmlDeviceGetCount()
            chosen = range(count) if index is None else [index]
            if not count or (index is not None and not 0 <= index < count):
                raise RefusedError(f"There is no GPU {index if count else 'here'}.", hint=f"There are {count}.", code="value", param="gpu")
            handles = {number: library.nvmlDeviceGetHandleByIndex(number) for number in chosen}
            for number, handle in handles.items():  # all are asked before the first is changed
                low, high = library.nvmlDeviceGetPowerManagementLimitConstraints(handle)
                if not low <= watts * MILLIWATT <= high:
                    raise RefusedError(
                        f"GPU {number} can be limited to {low // MILLIWATT} to {high // MILLIWATT} W, and {profile} is {watts} W.",
                        hint="Start the server with --power-profile NAME=WATTS.",
                        code="value",
                        param="profile",
                    )
            for handle in handles.values():
                library.nvmlDeviceSetPowerManagementLimit(handle, watts * MILLIWATT)

        self._with(act)

    def _with(self, act: Callable[[Any], Any]) -> Any:
        try:
            library = self._load()
            library.nvmlInit()
        except ImportError as error:
            raise RefusedError("nvidia-ml-py is not installed.", hint="pip install 'trainbus[serve]'", code="unsupported") from error
        except UnknownError as error:
            raise RefusedError(f"NVML can't be opened: {error}.", code="unsupported") from error
        except Exception as error:
            raise RefusedError(f"NVML can't be opened: {error}.", hint="Is there an NVIDIA driver here?", code="unsupported") from error
        try:
            return act(library)
        except library.NVMLError as error:
            if getattr(error, "value", None) == library.NVML_ERROR_NO_PERMISSION:
                hint = "Setting power needs root (CAP_SYS_ADMIN)."
                raise RefusedError("NVML refuses: no permission.", hint=hint, code="forbidden") from error
            raise RefusedError(f"NVML refuses: {error}.", code="unsupported") from error
        finally:
            library.nvmlShutdown()


def _state(library: Any, index: int) -> GpuState:
    device = Device(library, library.nvmlDeviceGetHandleByIndex(index), index)
    try:
        gpu = device.read({})
        rates = device.ask("utilization", "nvmlDeviceGetUtilizationRates")
        low, high = device.ask("power_range", "nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
    except LostError:
        return GpuState(index=index)
    return GpuState(
        index=index,
        name=gpu.name,
        temperature=gpu.temperature,
        utilization=gpu.utilization,
        memory_utilization=None if rates is None else rates.memory,
        memory_used=gpu.memory_used,
        memory_total=gpu.memory_total,
        power=gpu.power,
        power_limit=gpu.power_limit,
        power_min=None if low is None else low / MILLIWATT,
        power_max=None if high is None else high / MILLIWATT,
    )

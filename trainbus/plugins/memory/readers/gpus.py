"""NVIDIA GPUs through NVML: absent library, absent driver or a lost GPU become "unknown" with a reason, never a zero."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from trainbus.bus.events import Gpu
from trainbus.plugins.memory.readers.proc import UnknownError

RETRY_AFTER = 60.0
"""Seconds until a driver that did not answer is asked again."""
MILLIWATT = 1_000


class GpuReader:
    """Keeps NVML open between looks.

    Args:
        load: Gives the ``pynvml`` module; imported at the first look only.
        now: Monotonic seconds, for trying again.
    """

    def __init__(self, load: Callable[[], ModuleType], now: Callable[[], float]) -> None:
        self._load = load
        self._now = now
        self._library: Any = None
        self._reason = ""
        self._retry_at = 0.0

    def read(self) -> tuple[list[Gpu], dict[str, str]]:
        """All GPUs, and by name why one of them is not known.

        Raises:
            UnknownError: No GPU can be known: no library, no driver, no permission.
        """
        library = self._opened()
        try:
            count = library.nvmlDeviceGetCount()
        except library.NVMLError as error:
            self._fail(f"NVML does not answer: {error}")
        gpus, unknown = [], {}
        for index in range(count):
            try:
                gpus.append(self._one(library, index))
            except library.NVMLError as error:
                unknown[f"gpu{index}"] = str(error)
        return gpus, unknown

    def close(self) -> None:
        """Let NVML go."""
        library, self._library = self._library, None
        if library is not None:
            try:
                library.nvmlShutdown()
            except library.NVMLError:
                return

    def _opened(self) -> Any:
        if self._library is not None:
            return self._library
        if self._reason and self._now() < self._retry_at:
            raise UnknownError(self._reason)
        try:
            library: Any = self._load()
        except ImportError as error:
            self._fail(f"the library is not installed ({error}): pip install 'trainbus[memory]'")
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            self._fail(f"NVML can't be opened: {error}")
        self._library = library
        return library

    def _fail(self, reason: str) -> None:
        self.close()
        self._reason, self._retry_at = reason, self._now() + RETRY_AFTER
        raise UnknownError(reason)

    def _one(self, library: Any, index: int) -> Gpu:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        # What some GPUs don't tell (MIG, consumer cards, no permission) is None; a lost GPU tells nothing and is unknown as a whole.
        lost = getattr(library, "NVML_ERROR_GPU_IS_LOST", None)

        def ask(question: Callable[..., Any], *arguments: Any) -> Any:
            try:
                return question(handle, *arguments)
            except library.NVMLError as error:
                if getattr(error, "value", None) == lost:
                    raise
                return None

        name = ask(library.nvmlDeviceGetName)
        memory = ask(library.nvmlDeviceGetMemoryInfo)
        utilization = ask(library.nvmlDeviceGetUtilizationRates)
        power, limit = ask(library.nvmlDeviceGetPowerUsage), ask(library.nvmlDeviceGetPowerManagementLimit)
        temperature = ask(library.nvmlDeviceGetTemperature, library.NVML_TEMPERATURE_GPU)
        return Gpu(
            index=index,
            name=name.decode() if isinstance(name, bytes) else name or "",
            memory_total=None if memory is None else int(memory.total),
            memory_used=None if memory is None else int(memory.used),
            utilization=None if utilization is None else float(utilization.gpu),
            temperature=None if temperature is None else float(temperature),
            power=None if power is None else power / MILLIWATT,
            power_limit=None if limit is None else limit / MILLIWATT,
        )

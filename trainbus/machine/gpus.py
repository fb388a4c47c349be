"""NVIDIA GPUs through NVML: absent library, absent driver or a lost GPU become "unknown" with a reason, never a zero."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from trainbus.bus.events import Gpu
from trainbus.machine.gpu import Device, LostError
from trainbus.machine.text import UnknownError

RETRY_AFTER = 60.0
"""Seconds until a driver that did not answer is asked again."""


def load_nvml() -> ModuleType:
    """The ``pynvml`` module.

    Raises:
        UnknownError: There is no driver to ask, which is cheaper to find out without the module.
        ImportError: The module is not installed.
    """
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        raise UnknownError("there is no NVIDIA driver here (libnvidia-ml.so.1 can't be loaded)") from None
    return importlib.import_module("pynvml")


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
        self._xids: dict[str, int] = {}

    def fault(self, bus: str, xid: int) -> None:
        """The kernel's log told of a fault of the GPU at this PCI bus id (``0000:3b:00``)."""
        self._xids[bus.partition(".")[0]] = xid

    def read(self) -> tuple[list[Gpu], dict[str, str]]:
        """All GPUs and MIG slices, and by name why something of one of them is not known.

        Raises:
            UnknownError: No GPU can be known: no library, no driver, no permission.
        """
        library = self._opened()
        try:
            count = library.nvmlDeviceGetCount()
        except library.NVMLError as error:
            self._fail(f"NVML does not answer: {error}")
        gpus: list[Gpu] = []
        unknown: dict[str, str] = {}
        for index in range(count):
            try:
                gpus += self._devices(library, index, unknown)
            except (library.NVMLError, LostError) as error:
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

    def _devices(self, library: Any, index: int, unknown: dict[str, str]) -> Iterator[Gpu]:
        device = Device(library, library.nvmlDeviceGetHandleByIndex(index), index)
        gpu = device.read(unknown)
        if self._xids:
            gpu.xid = self._xids.get(device.bus())
        yield gpu
        for number, handle in device.slices(unknown):
            yield Device(library, handle, index, number).read(unknown)

    def _opened(self) -> Any:
        if self._library is not None:
            return self._library
        if self._reason and self._now() < self._retry_at:
            raise UnknownError(self._reason)
        try:
            library: Any = self._load()
        except UnknownError as error:
            self._fail(str(error))
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

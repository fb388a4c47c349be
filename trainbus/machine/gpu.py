"""One GPU, or one MIG slice of it, as NVML tells it: each answer is a value or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainbus.bus.events import Gpu, GpuProcess

MILLIWATT = 1_000

THROTTLING = {
    0x2: "clocks set by an application",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "held to the slowest GPU of a group",
    0x20: "temperature (driver)",
    0x40: "temperature (hardware)",
    0x80: "power brake",
    0x100: "display clock",
}
"""NVML's bits nvmlClocksEventReason*; 0x1 is idleness, which holds nothing down."""


class LostError(Exception):
    """The GPU fell off the bus: nothing that it said just now counts."""


class Device:
    """Asks one device.

    Args:
        library: The ``pynvml`` module.
        handle: The device's, or the slice's.
        index: The GPU's number.
        slice_number: The slice's number on it; None for the GPU itself.
    """

    def __init__(self, library: Any, handle: Any, index: int, slice_number: int | None = None) -> None:
        self._library = library
        self._handle = handle
        self._index = index
        self._slice = slice_number
        self._reasons: dict[str, str] = {}

    def read(self, unknown: dict[str, str]) -> Gpu:
        """What it says; the reasons for what it does not say are added to ``unknown``.

        Raises:
            LostError: It is lost.
        """
        memory = self.ask("memory", "nvmlDeviceGetMemoryInfo")
        gpu = Gpu(index=self._index, slice=self._slice, name=_text(self.ask("name", "nvmlDeviceGetName")))
        gpu.uuid = _text(self.ask("uuid", "nvmlDeviceGetUUID"))
        if memory is not None:
            gpu.memory_total, gpu.memory_used = int(memory.total), int(memory.used)
        gpu.processes = self._processes()
        if self._slice is None:  # a slice tells nothing of these
            self._whole(gpu)
        name = f"gpu{self._index}" if self._slice is None else f"gpu{self._index}.{self._slice}"
        unknown |= {f"{name} {field}": reason for field, reason in self._reasons.items()}
        return gpu

    def slices(self, unknown: dict[str, str]) -> Iterator[tuple[int, Any]]:
        """Number and handle of each MIG slice; none when the GPU is not cut. Why that is not known is added to ``unknown``."""
        mode = self.ask("mig", "nvmlDeviceGetMigMode")
        if mode is None:
            unknown[f"gpu{self._index} mig"] = self._reasons["mig"]
        if mode is None or mode[0] != self._library.NVML_DEVICE_MIG_ENABLE:
            return
        for number in range(self.ask("mig", "nvmlDeviceGetMaxMigDeviceCount") or 0):
            handle = self.ask("slice", "nvmlDeviceGetMigDeviceHandleByIndex", number)  # NOT_FOUND: this place holds none
            if handle is not None:
                yield number, handle

    def _whole(self, gpu: Gpu) -> None:
        library = self._library
        utilization = self.ask("utilization", "nvmlDeviceGetUtilizationRates")
        if utilization is not None:
            gpu.utilization = float(utilization.gpu)
        temperature = self.ask("temperature", "nvmlDeviceGetTemperature", library.NVML_TEMPERATURE_GPU)
        power, limit = self.ask("power", "nvmlDeviceGetPowerUsage"), self.ask("power_limit", "nvmlDeviceGetPowerManagementLimit")
        gpu.temperature = None if temperature is None else float(temperature)
        gpu.power = None if power is None else power / MILLIWATT
        gpu.power_limit = None if limit is None else limit / MILLIWATT
        bits = self.ask("throttling", "nvmlDeviceGetCurrentClocksThrottleReasons")
        gpu.throttling = None if bits is None else [reason for bit, reason in THROTTLING.items() if bits & bit]
        gpu.ecc_corrected = self._ecc("ecc_corrected", library.NVML_MEMORY_ERROR_TYPE_CORRECTED)
        gpu.ecc_uncorrected = self._ecc("ecc_uncorrected", library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED)

    def _ecc(self, field: str, kind: int) -> int | None:
        count = self.ask(field, "nvmlDeviceGetTotalEccErrors", kind, self._library.NVML_VOLATILE_ECC)
        return None if count is None else int(count)

    def _processes(self) -> list[GpuProcess] | None:
        found = self.ask("processes", "nvmlDeviceGetComputeRunningProcesses")
        if found is None:
            return None
        return [GpuProcess(pid=one.pid, memory=None if one.usedGpuMemory is None else int(one.usedGpuMemory)) for one in found]

    def bus(self) -> str:
        """The PCI bus id as in the kernel's log (``0000:3b:00``); empty when it is not known."""
        pci = self.ask("pci", "nvmlDeviceGetPciInfo")
        text = _text(None if pci is None else pci.busId).lower().partition(".")[0]
        domain, colon, rest = text.partition(":")
        return f"{domain[-4:]}:{rest}" if colon else ""

    def ask(self, field: str, question: str, *arguments: Any) -> Any:
        """The answer to one of NVML's questions; None where the device does not tell, and `read` says why under ``field``.

        Raises:
            LostError: It is lost.
        """
        function = getattr(self._library, question, None)
        if function is None:
            self._reasons[field] = f"this nvidia-ml-py has no {question}"
            return None
        try:
            return function(self._handle, *arguments)
        except self._library.NVMLError as error:
            if getattr(error, "value", None) == getattr(self._library, "NVML_ERROR_GPU_IS_LOST", None):
                raise LostError(str(error)) from error
            self._reasons[field] = str(error)
            return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""

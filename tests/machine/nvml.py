"""NVML as recorded from its interface, for machines without a GPU."""

from types import SimpleNamespace

import pynvml


class FakeNvml:
    """NVML with the interface of pynvml: two GPUs, of which calls can be made to fail."""

    NVMLError = pynvml.NVMLError
    NVML_ERROR_NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION
    NVML_ERROR_GPU_IS_LOST = pynvml.NVML_ERROR_GPU_IS_LOST
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    NVML_DEVICE_MIG_ENABLE = pynvml.NVML_DEVICE_MIG_ENABLE
    NVML_VOLATILE_ECC = pynvml.NVML_VOLATILE_ECC
    NVML_MEMORY_ERROR_TYPE_CORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED

    def __init__(self):
        self.fails = {}
        self.opened = 0
        self.cut = False
        self.limits = [700_000, 700_000]

    def _answer(self, name, value, index=None):
        for key in (name, (name, index)):
            if key in self.fails:
                raise pynvml.NVMLError(self.fails[key])
        return value

    def nvmlInit(self):  # noqa: N802 - NVML's name, and so below
        self._answer("nvmlInit", None)
        self.opened += 1

    def nvmlShutdown(self):  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return self._answer("nvmlDeviceGetCount", 2)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return self._answer("nvmlDeviceGetHandleByIndex", index, index)

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return self._answer("nvmlDeviceGetName", "NVIDIA H100", handle)

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return self._answer("nvmlDeviceGetMemoryInfo", SimpleNamespace(total=80 << 30, used=20 << 30, free=60 << 30), handle)

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        return self._answer("nvmlDeviceGetUtilizationRates", SimpleNamespace(gpu=97, memory=40), handle)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        return self._answer("nvmlDeviceGetPowerUsage", 350_500, handle)

    def nvmlDeviceGetPowerManagementLimit(self, handle):  # noqa: N802
        return self._answer("nvmlDeviceGetPowerManagementLimit", self.limits[handle], handle)

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._answer("nvmlDeviceGetTemperature", 61, handle)

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return self._answer("nvmlDeviceGetUUID", f"GPU-{handle}", handle)

    def nvmlDeviceGetPciInfo(self, handle):  # noqa: N802
        return self._answer("nvmlDeviceGetPciInfo", SimpleNamespace(busId=f"00000000:{0x3B + handle:02X}:00.0"), handle)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        found = [SimpleNamespace(pid=42, usedGpuMemory=19 << 30), SimpleNamespace(pid=43, usedGpuMemory=None)]
        return self._answer("nvmlDeviceGetComputeRunningProcesses", found, handle)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):  # noqa: N802
        bits = (
            pynvml.nvmlClocksThrottleReasonGpuIdle
            | pynvml.nvmlClocksThrottleReasonSwPowerCap
            | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
        )
        return self._answer("nvmlDeviceGetCurrentClocksThrottleReasons", bits, handle)

    def nvmlDeviceGetTotalEccErrors(self, handle, errorType, counterType):  # noqa: N802, N803
        assert counterType == pynvml.NVML_VOLATILE_ECC
        return self._answer("nvmlDeviceGetTotalEccErrors", {0: 5, 1: 1}[errorType], handle)

    def nvmlDeviceGetMigMode(self, device):  # noqa: N802
        return self._answer("nvmlDeviceGetMigMode", [int(self.cut), int(self.cut)], device)

    def nvmlDeviceGetMaxMigDeviceCount(self, device):  # noqa: N802
        return self._answer("nvmlDeviceGetMaxMigDeviceCount", 7, device)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device, index):  # noqa: N802
        if index >= 2:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self._answer("nvmlDeviceGetMigDeviceHandleByIndex", f"slice{device}.{index}", device)

    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle):  # noqa: N802
        return self._answer("nvmlDeviceGetPowerManagementLimitConstraints", [200_000, 700_000], handle)

    def nvmlDeviceSetPowerManagementLimit(self, handle, limit):  # noqa: N802
        self._answer("nvmlDeviceSetPowerManagementLimit", None, handle)
        self.limits[handle] = limit

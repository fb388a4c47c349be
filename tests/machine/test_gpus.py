"""NVML through a fake library that speaks its real interface: whatever fails is unknown with a reason, never a crash or a zero."""

import contextlib
import inspect
import time

import pynvml
import pytest

from tests.machine.nvml import FakeNvml
from trainbus.bus.events import GpuProcess
from trainbus.machine.gpus import GpuReader, load_nvml
from trainbus.machine.text import UnknownError


def test_the_fake_has_only_what_the_real_library_has():
    """Otherwise its tests would show nothing."""
    for name, mine in vars(FakeNvml).items():
        if name.startswith("nvml"):
            real = inspect.signature(getattr(pynvml, name)).parameters
            needed = [one for one in real.values() if one.default is one.empty]
            assert len(needed) <= len(inspect.signature(mine).parameters) - 1 <= len(real), name
        elif not name.startswith("_"):
            assert getattr(pynvml, name) == mine or name == "NVMLError"


def test_a_gpu_is_read_in_bytes_percent_degrees_and_watts():
    """Milliwatts become watts."""
    gpus, unknown = GpuReader(FakeNvml, time.monotonic).read()
    assert unknown == {}
    assert [gpu.index for gpu in gpus] == [0, 1]
    gpu = gpus[0]
    assert (gpu.name, gpu.memory_total, gpu.memory_used) == ("NVIDIA H100", 80 << 30, 20 << 30)
    assert (gpu.utilization, gpu.temperature, gpu.power, gpu.power_limit) == (97.0, 61.0, 350.5, 700.0)
    assert (gpu.uuid, gpu.slice, gpu.ecc_corrected, gpu.ecc_uncorrected) == ("GPU-0", None, 5, 1)
    assert gpu.throttling == ["power cap", "temperature (hardware)"]
    assert gpu.processes == [GpuProcess(pid=42, memory=19 << 30), GpuProcess(pid=43)]


def test_what_a_gpu_does_not_tell_is_none_with_its_reason():
    """Consumer cards leave things out, and a container may not see processes."""
    nvml = FakeNvml()
    nvml.fails = {
        "nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NO_PERMISSION,
        "nvmlDeviceGetComputeRunningProcesses": pynvml.NVML_ERROR_NO_PERMISSION,
        "nvmlDeviceGetTotalEccErrors": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetMigMode": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetCurrentClocksThrottleReasons": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    }
    gpus, unknown = GpuReader(lambda: nvml, time.monotonic).read()
    gpu = gpus[0]
    assert (gpu.utilization, gpu.memory_used, gpu.memory_total, gpu.processes, gpu.throttling) == (None,) * 5
    assert (gpu.ecc_corrected, gpu.ecc_uncorrected, gpu.power) == (None, None, 350.5)
    assert unknown["gpu0 memory"] == "Insufficient Permissions"
    assert unknown["gpu1 utilization"] == "Not Supported"
    assert {"gpu0 processes", "gpu0 ecc_corrected", "gpu0 mig", "gpu0 throttling"} <= set(unknown)


def test_a_library_without_a_question_says_which():
    """An older nvidia-ml-py."""

    class Older(FakeNvml):
        nvmlDeviceGetTotalEccErrors = None  # noqa: N815 - NVML's name

    gpus, unknown = GpuReader(Older, time.monotonic).read()
    assert gpus[0].ecc_corrected is None
    assert unknown["gpu0 ecc_corrected"] == "this nvidia-ml-py has no nvmlDeviceGetTotalEccErrors"


def test_a_gpu_that_is_cut_into_slices_tells_each():
    """Places that hold no slice are left out; a slice tells nothing of power, and nothing is claimed of it."""
    nvml = FakeNvml()
    nvml.cut = True
    nvml.fails = {"nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED}
    gpus, unknown = GpuReader(lambda: nvml, time.monotonic).read()
    assert [(gpu.index, gpu.slice) for gpu in gpus[:3]] == [(0, None), (0, 0), (0, 1)]
    assert gpus[1].memory_total == 80 << 30
    assert (gpus[1].power, gpus[1].utilization) == (None, None)
    assert len(gpus) == 6
    assert "gpu0 utilization" in unknown


def test_a_fault_in_the_kernels_log_is_told_of_its_gpu():
    """NVML itself does not tell it afterwards."""
    reader = GpuReader(FakeNvml, time.monotonic)
    reader.fault("0000:3c:00", 79)
    assert [gpu.xid for gpu in reader.read()[0]] == [None, 79]


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo"])
def test_a_lost_gpu_is_unknown_and_the_others_are_still_read(call):
    """It fell off the bus."""
    nvml = FakeNvml()
    nvml.fails = {(call, 0): pynvml.NVML_ERROR_GPU_IS_LOST}
    gpus, unknown = GpuReader(lambda: nvml, time.monotonic).read()
    assert [gpu.index for gpu in gpus] == [1]
    assert "lost" in unknown["gpu0"].lower()


def test_an_absent_driver_is_unknown_and_asked_again_after_a_minute():
    """A driver that is loaded later is found."""
    nvml, now = FakeNvml(), [0.0]
    reader = GpuReader(lambda: nvml, lambda: now[0])
    nvml.fails = {"nvmlInit": pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
    with pytest.raises(UnknownError, match="Driver Not Loaded"):
        reader.read()
    nvml.fails = {}
    now[0] = 59.0
    with pytest.raises(UnknownError, match="Driver Not Loaded"):
        reader.read()
    now[0] = 60.0
    assert len(reader.read()[0]) == 2


def test_without_a_driver_the_library_is_not_even_loaded():
    """It would be a twentieth of the watcher's memory."""

    def load():
        raise UnknownError("there is no NVIDIA driver here")

    with pytest.raises(UnknownError, match="no NVIDIA driver"):
        GpuReader(load, time.monotonic).read()
    with contextlib.suppress(UnknownError):  # where there is no driver
        assert load_nvml() is pynvml


def test_a_driver_that_dies_is_let_go_and_opened_anew_later():
    """NVML is not left open."""
    nvml, now = FakeNvml(), [0.0]
    reader = GpuReader(lambda: nvml, lambda: now[0])
    reader.read()
    nvml.fails = {"nvmlDeviceGetCount": pynvml.NVML_ERROR_UNKNOWN}
    with pytest.raises(UnknownError):
        reader.read()
    assert nvml.opened == 0
    nvml.fails, now[0] = {}, 60.0
    assert len(reader.read()[0]) == 2
    reader.close()
    assert nvml.opened == 0


def test_a_missing_library_is_unknown_and_says_what_to_install():
    """It is optional."""

    def load():
        raise ImportError("No module named 'pynvml'")

    with pytest.raises(UnknownError, match=r"trainbus\[memory\]"):
        GpuReader(load, time.monotonic).read()

"""Readers on recorded files, real processes and a fake NVML: what is not known is said with its reason."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pynvml
import pytest

from trainbus.bus.events import Pressure
from trainbus.plugins.memory.readers import GpuReader, UnknownError, read_disks, read_memory, read_pressure, read_tree
from trainbus.plugins.memory.training import Training

MEMINFO_6_8 = """MemTotal:       16318220 kB
MemFree:         1203344 kB
MemAvailable:    8159110 kB
Buffers:          413208 kB
SwapCached:        10536 kB
SwapTotal:       2097148 kB
SwapFree:        1048572 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""
MEMINFO_2_6_32 = """MemTotal:        2058696 kB
MemFree:          120536 kB
Buffers:           86620 kB
SwapTotal:             0 kB
SwapFree:              0 kB
"""
PRESSURE_6_8 = """some avg10=12.34 avg60=5.00 avg300=1.20 total=123456
full avg10=3.50 avg60=1.00 avg300=0.20 total=65432
"""


def recorded(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_host_memory_in_use_is_what_is_not_available(tmp_path):
    """Free memory alone would alarm wherever the page cache is warm."""
    memory, swap = read_memory(recorded(tmp_path, meminfo=MEMINFO_6_8))
    assert (memory.total, memory.available) == (16318220 * 1024, 8159110 * 1024)
    assert memory.used == memory.total - memory.available
    assert (swap.total, swap.used) == (2097148 * 1024, 1048576 * 1024)


def test_a_kernel_without_memavailable_or_a_machine_without_proc_is_unknown_and_not_zero(tmp_path):
    """The reason names file and field."""
    with pytest.raises(UnknownError, match="MemAvailable"):
        read_memory(recorded(tmp_path, meminfo=MEMINFO_2_6_32))
    with pytest.raises(UnknownError, match="No such file"):
        read_memory(tmp_path / "nowhere")


@pytest.mark.parametrize("torn", ["", "MemTot", "MemTotal:", "MemTotal: x kB\nMemAvailable: 1 kB"])
def test_a_torn_meminfo_is_unknown(tmp_path, torn):
    """Never a crash."""
    with pytest.raises(UnknownError):
        read_memory(recorded(tmp_path, meminfo=torn))


def test_pressure_is_the_last_ten_seconds(tmp_path):
    """Some and full."""
    assert read_pressure(recorded(tmp_path, pressure__memory=PRESSURE_6_8)) == Pressure(some=12.34, full=3.5)


@pytest.mark.parametrize("content", [None, "", "some avg10=high\n"])
def test_a_kernel_without_pressure_says_so(tmp_path, content):
    """Before 4.20, switched off, or not understood."""
    if content is not None:
        recorded(tmp_path, pressure__memory=content)
    with pytest.raises(UnknownError):
        read_pressure(tmp_path)


GROWN = """
import subprocess, sys
held = bytearray(b"x") * (40 << 20)
child = subprocess.Popen([sys.executable, "-c", "held = bytearray(b'x') * (40 << 20); print('ready', flush=True); input()"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", flush=True)
input()
"""


def test_the_memory_of_a_training_is_that_of_its_whole_tree_and_a_dead_one_is_gone():
    """A DataLoader worker's memory counts."""
    process = subprocess.Popen([sys.executable, "-c", GROWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    training = Training("r", process.pid, time.time_ns(), "tuning")
    try:
        assert process.stdout.readline() == b"ready\n"
        tree = read_tree(training)
        assert (tree.pid, tree.run, tree.name, tree.processes) == (process.pid, "r", "tuning", 2)
        assert tree.rss > 80 << 20
    finally:
        process.communicate(b"\n\n")
    assert read_tree(training) is None


def test_a_process_that_is_younger_than_its_run_is_another_one_with_the_same_number():
    """Process numbers are used again."""
    long_ago = Training("r", os.getpid(), 10**9)
    assert read_tree(long_ago) is None
    assert read_tree(Training("r", os.getpid(), time.time_ns())).pid == os.getpid()


def test_each_disk_is_told_once_and_a_missing_path_is_unknown(tmp_path):
    """Two folders of one file system are one disk."""
    (tmp_path / "a").mkdir()
    disks, unknown = read_disks([tmp_path, tmp_path / "a", tmp_path / "missing"])
    assert [disk.path for disk in disks] == [str(tmp_path)]
    assert 0 < disks[0].free <= disks[0].total
    assert list(unknown) == [str(tmp_path / "missing")]


class FakeNvml:
    """NVML with the interface of pynvml: two GPUs, of which calls can be made to fail."""

    NVMLError = pynvml.NVMLError
    NVML_ERROR_GPU_IS_LOST = pynvml.NVML_ERROR_GPU_IS_LOST
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self):
        self.fails = {}
        self.opened = 0

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
        return self._answer("nvmlDeviceGetPowerManagementLimit", 700_000, handle)

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._answer("nvmlDeviceGetTemperature", 61, handle)


def test_the_fake_has_only_what_the_real_library_has():
    """Otherwise its tests would show nothing."""
    assert all(hasattr(pynvml, name) for name in vars(FakeNvml) if not name.startswith("_"))


def test_a_gpu_is_read_in_bytes_percent_degrees_and_watts():
    """Milliwatts become watts."""
    gpus, unknown = GpuReader(FakeNvml, time.monotonic).read()
    assert unknown == {}
    assert [gpu.index for gpu in gpus] == [0, 1]
    gpu = gpus[0]
    assert (gpu.name, gpu.memory_total, gpu.memory_used) == ("NVIDIA H100", 80 << 30, 20 << 30)
    assert (gpu.utilization, gpu.temperature, gpu.power, gpu.power_limit) == (97.0, 61.0, 350.5, 700.0)


def test_what_a_gpu_does_not_tell_is_none():
    """MIG and consumer cards leave things out."""
    nvml = FakeNvml()
    nvml.fails = {
        "nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NO_PERMISSION,
    }
    gpus, _ = GpuReader(lambda: nvml, time.monotonic).read()
    assert (gpus[0].utilization, gpus[0].memory_used, gpus[0].memory_total) == (None, None, None)
    assert gpus[0].power == 350.5


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

"""Recorded texts of /proc from several kernels: what is not known is said with its reason, and is never a zero."""

import pytest

from trainbus.bus.events import Pressure
from trainbus.machine.proc import PAGE, read_cpu, read_load, read_memory, read_pressure, read_vm
from trainbus.machine.text import UnknownError

MEMINFO_6_8 = """MemTotal:       16318220 kB
MemFree:         1203344 kB
MemAvailable:    8159110 kB
Buffers:          413208 kB
SwapCached:        10536 kB
Zswap:                 0 kB
SwapTotal:       2097148 kB
SwapFree:        1048572 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
DirectMap4k:      515968 kB
"""
MEMINFO_4_18 = """MemTotal:       32780340 kB
MemFree:        21463712 kB
MemAvailable:   29370308 kB
SwapTotal:             0 kB
SwapFree:              0 kB
HardwareCorrupted:     0 kB
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
CPU_PRESSURE_4_20 = "some avg10=2.00 avg60=1.00 avg300=0.50 total=1\n"
VMSTAT_6_8 = "nr_free_pages 300836\npswpin 10\npswpout 25\noom_kill 3\npgmajfault 22971\n"
VMSTAT_4_4 = "nr_free_pages 300836\npswpin 10\npswpout 25\n"
STAT_6_8 = "cpu  1000 20 300 8000 500 0 30 50 7 0\ncpu0 500 10 150 4000 250 0 15 25 3 0\nbtime 1763596800\n"
STAT_2_4 = "cpu  1000 20 300 8000\nbtime 1763596800\n"


def recorded(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("text", "total", "available", "swap", "swapped"),
    [(MEMINFO_6_8, 16318220, 8159110, 2097148, 1048576), (MEMINFO_4_18, 32780340, 29370308, 0, 0)],
)
def test_host_memory_in_use_is_what_is_not_available(tmp_path, text, total, available, swap, swapped):
    """Free memory alone would alarm wherever the page cache is warm."""
    memory, swap_memory = read_memory(recorded(tmp_path, meminfo=text))
    assert (memory.total, memory.available, memory.used) == (total * 1024, available * 1024, (total - available) * 1024)
    assert (swap_memory.total, swap_memory.used) == (swap * 1024, swapped * 1024)


def test_a_kernel_without_memavailable_or_a_machine_without_proc_is_unknown_and_not_zero(tmp_path):
    """The reason names file and field."""
    with pytest.raises(UnknownError, match="MemAvailable"):
        read_memory(recorded(tmp_path, meminfo=MEMINFO_2_6_32))
    with pytest.raises(UnknownError, match="No such file"):
        read_memory(tmp_path / "nowhere")


@pytest.mark.parametrize("torn", ["", "MemTot", "MemTotal:", "MemTotal: x kB\nMemAvailable: 1 kB", "\0\0\0", "MemTotal: 1 kB MemAvailable"])
def test_a_torn_meminfo_is_unknown(tmp_path, torn):
    """Never a crash."""
    with pytest.raises(UnknownError):
        read_memory(recorded(tmp_path, meminfo=torn))


def test_pressure_is_told_over_ten_seconds_a_minute_and_five(tmp_path):
    """Some and full; before 5.13 the CPU had no full."""
    recorded(tmp_path, pressure__memory=PRESSURE_6_8, pressure__cpu=CPU_PRESSURE_4_20)
    assert read_pressure(tmp_path) == Pressure(some=12.34, full=3.5, some60=5.0, full60=1.0, some300=1.2, full300=0.2)
    assert read_pressure(tmp_path, "cpu") == Pressure(some=2.0, some60=1.0, some300=0.5)


@pytest.mark.parametrize("content", [None, "", "\n", "some avg10=high\n", "whole avg10=1.0\n"])
def test_a_kernel_without_pressure_says_so(tmp_path, content):
    """Before 4.20, switched off, or not understood."""
    if content is not None:
        recorded(tmp_path, pressure__memory=content)
    with pytest.raises(UnknownError):
        read_pressure(tmp_path)


def test_swap_traffic_and_kills_are_counted_where_the_kernel_counts_them(tmp_path):
    """Kills since 4.13: before that they are unknown."""
    vm = read_vm(recorded(tmp_path, vmstat=VMSTAT_6_8))
    assert (vm.swapped_in, vm.swapped_out, vm.oom_kills) == (10 * PAGE, 25 * PAGE, 3)
    assert read_vm(recorded(tmp_path, vmstat=VMSTAT_4_4)).oom_kills is None
    with pytest.raises(UnknownError, match="pswpin"):
        read_vm(recorded(tmp_path, vmstat="nr_free_pages 1\n"))


def test_a_cpu_that_waits_for_a_disk_is_not_busy(tmp_path):
    """Busy is everything but idle and waiting; guests are counted with the users already."""
    assert read_cpu(recorded(tmp_path, stat=STAT_6_8)) == (1400, 9900)
    assert read_cpu(recorded(tmp_path, stat=STAT_2_4)) == (1320, 9320)
    with pytest.raises(UnknownError):
        read_cpu(recorded(tmp_path, stat="cpu x\n"))


def test_load_has_three_averages(tmp_path):
    """And a torn file is unknown."""
    assert read_load(recorded(tmp_path, loadavg="3.21 2.92 3.75 2/210 16601\n")) == [3.21, 2.92, 3.75]
    with pytest.raises(UnknownError):
        read_load(recorded(tmp_path, loadavg="3.21 2.9\n"))

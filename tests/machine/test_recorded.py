"""Whole files of a machine with Linux 6.18, as its kernel wrote them: a busy host without swap, control groups of both versions."""

from pathlib import Path

import pytest

from trainbus.machine.cgroups import locate
from trainbus.machine.proc import read_cpu, read_load, read_memory, read_pressure, read_vm
from trainbus.machine.processes import TICKS, Tree
from trainbus.machine.text import UnknownError
from trainbus.machine.training import Training

PROC = Path(__file__).with_name("recorded") / "linux-6.18"
BOOTED = next(int(line.split()[1]) for line in (PROC / "stat").read_text().splitlines() if line.startswith("btime"))
KIB = 1024


def test_the_host_is_read_from_whole_files():
    """Dozens of lines that nobody asked for stand between those that count."""
    memory, swap = read_memory(PROC)
    assert (memory.total, memory.available, swap.total, swap.used) == (24684084 * KIB, 17668504 * KIB, 0, 0)
    assert read_vm(PROC).oom_kills == 93
    assert read_load(PROC) == [25.32, 18.45, 12.84]
    assert read_cpu(PROC) == (1532357 + 205913 + 231122 + 11209 + 18755, 1532357 + 205913 + 231122 + 1241701 + 12152 + 11209 + 18755)
    cpu, io, memory_pressure = (read_pressure(PROC, name) for name in ("cpu", "io", "memory"))
    assert (cpu.some, cpu.full, io.some, memory_pressure.some60, memory_pressure.full) == (99.0, 0.0, 2.07, 0.05, 0.0)


def test_a_process_is_read_from_whole_files():
    """Resident, anonymous and proportional bytes of one that has just begun; version 1 accounts its memory, though version 2 is mounted."""
    started = int((PROC / "7" / "stat").read_text().rpartition(")")[2].split()[19])
    tree = Tree(Training("r", 7, int((BOOTED + started / TICKS) * 1e9)), PROC, lambda: 0.0)
    process = tree.read()
    assert (process.name, process.rss, process.anon, process.swap) == ("sleep", 1892 * KIB, 112 * KIB, 0)
    assert (process.pss, process.shared, process.processes) == (174 * KIB, 1744 * KIB, 1)
    assert tree.address_space is None
    place = locate(PROC, 7)
    assert (place.version, place.mount) == (1, Path("/sys/fs/cgroup/memory"))


@pytest.mark.parametrize("name", ["meminfo", "vmstat", "stat", "loadavg", "pressure/memory"])
def test_a_whole_file_that_is_cut_anywhere_is_read_or_unknown(tmp_path, name):
    """A short read never crashes."""
    whole = (PROC / name).read_text()
    read = {"meminfo": read_memory, "vmstat": read_vm, "stat": read_cpu, "loadavg": read_load, "pressure/memory": read_pressure}[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    outcomes = set()
    for end in range(0, len(whole), max(1, len(whole) // 200)):
        (tmp_path / name).write_text(whole[:end])
        try:
            read(tmp_path)
            outcomes.add("read")
        except UnknownError:
            outcomes.add("unknown")
    assert "unknown" in outcomes

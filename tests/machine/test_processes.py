"""Process trees: recorded lines, and real processes of this machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support import wait_for
from trainbus.machine import portable
from trainbus.machine.disks import read_disks, read_shm
from trainbus.machine.processes import DEAR_PERIOD, MEMBERS_PERIOD, Tree, parse_stat
from trainbus.machine.text import UnknownError
from trainbus.machine.training import Training

STAT = "4242 (a (b) c) S 17 4242 17 34817 4242 4194304 1 2 3 4 150 50 0 0 20 0 9 0 123456 1000000 250 18446744073709551615 1 1\n"


def test_a_process_may_have_spaces_and_brackets_in_its_name():
    """Fields are counted from the last bracket."""
    stat = parse_stat(STAT)
    assert (stat.name, stat.state, stat.parent, stat.ticks, stat.started) == ("a (b) c", "S", 17, 200, 123456)


@pytest.mark.parametrize("torn", ["", "4242 (python", "4242 (python) S 1"])
def test_a_torn_line_is_unknown(torn):
    """Never a crash."""
    with pytest.raises(UnknownError):
        parse_stat(torn)


GROWN = """
import os, sys
held = bytearray(b"x") * (40 << 20)
read, write = os.pipe()
if os.fork() == 0:
    os.close(write)
    mine = bytearray(b"y") * (40 << 20)
    print("child", flush=True)
    os.read(read, 1)
    os._exit(0)
print("parent", flush=True)
input()
"""


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def forked():
    """A process with a forked child, which shares 40 MiB with it and has 40 MiB of its own."""
    process = subprocess.Popen([sys.executable, "-c", GROWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert {process.stdout.readline(), process.stdout.readline()} == {b"parent\n", b"child\n"}
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_the_memory_of_a_training_is_that_of_its_whole_tree(forked):
    """Resident bytes match psutil's; shared pages count once in the proportional size; the forked worker has its name."""
    tree = Tree(Training("r", forked.pid, time.time_ns(), "tuning"), Path("/proc"), Clock()).read()
    children = psutil.Process(forked.pid).children(recursive=True)
    expected = sum(one.memory_info().rss for one in (psutil.Process(forked.pid), *children))
    assert tree.rss == pytest.approx(expected, rel=0.02)
    assert (tree.pid, tree.run, tree.name, tree.processes) == (forked.pid, "r", "tuning", 2)
    (worker,) = tree.workers
    assert (worker.pid, worker.role) == (children[0].pid, "dataloader")
    assert worker.anon > 80 << 20
    assert tree.pss < tree.rss - (30 << 20)
    assert tree.files >= 6
    assert 0 < tree.files_percent < 100


def test_a_training_that_ended_is_gone(forked):
    """Also while it is a zombie that its parent has not looked at."""
    tree = Tree(Training("r", forked.pid, time.time_ns()), Path("/proc"), Clock())
    assert tree.read() is not None
    forked.kill()
    wait_for(lambda: tree.read() is None, what="the tree's end")


def test_a_process_that_is_younger_than_its_run_is_another_one_with_the_same_number():
    """Process numbers are used again."""
    assert Tree(Training("r", os.getpid(), 10**9), Path("/proc"), Clock()).read() is None
    assert Tree(Training("r", os.getpid(), time.time_ns()), Path("/proc"), Clock()).read().pid == os.getpid()


def test_new_descendants_are_found_soon_and_dear_numbers_are_read_seldom(forked):
    """A look ten times a second must not scan all processes and all pages each time."""
    clock = Clock()
    tree = Tree(Training("r", os.getpid(), time.time_ns()), Path("/proc"), clock)
    before = tree.read()
    assert forked.pid in {worker.pid for worker in before.workers}
    files = [Path("/dev/null").open() for _ in range(20)]  # noqa: SIM115 - what is counted
    late = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert (tree.read().files, tree.read().processes) == (before.files, before.processes)
    clock.now += MEMBERS_PERIOD + 0.01
    assert tree.read().processes == before.processes + 1
    clock.now += DEAR_PERIOD + 100.0
    assert tree.read().files >= before.files + 20
    late.communicate(b"\n")
    for file in files:
        file.close()


def test_a_limit_of_the_address_space_is_told_where_there_is_one(forked):
    """The process is refused memory at it, long before the machine is full."""
    tree = Tree(Training("r", forked.pid, time.time_ns()), Path("/proc"), Clock())
    tree.read()
    assert tree.address_space is None
    psutil.Process(forked.pid).rlimit(psutil.RLIMIT_AS, (1 << 30, 1 << 30))
    tree = Tree(Training("r", forked.pid, time.time_ns()), Path("/proc"), Clock())
    tree.read()
    assert tree.address_space.limit == 1 << 30
    assert 40 << 20 < tree.address_space.used < 1 << 30


LOADER = """
import torch
from torch.utils.data import DataLoader
loader = iter(DataLoader(torch.zeros(1000, 4), batch_size=1, num_workers=2))
next(loader)
print("ready", flush=True)
input()
"""


@pytest.mark.slow
def test_the_workers_of_a_real_dataloader_are_named():
    """By the name that torch gives them, or by the trainer's command line."""
    pytest.importorskip("torch")
    process = subprocess.Popen([sys.executable, "-c", LOADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    tree = Tree(Training("r", process.pid, time.time_ns()), Path("/proc"), Clock()).read()
    process.communicate("\n", timeout=60)
    assert [worker.role for worker in tree.workers].count("dataloader") == 2


def test_where_there_is_no_proc_psutil_tells_the_sizes(forked):
    """Enough for levels."""
    tree = portable.read_tree(Training("r", forked.pid, time.time_ns(), "tuning"))
    assert (tree.processes, tree.name) == (2, "tuning")
    assert tree.rss > 80 << 20
    assert portable.read_tree(Training("r", forked.pid, 10**9)) is None
    memory, _ = portable.read_memory()
    assert 0 < memory.available <= memory.total


def test_each_disk_is_told_once_with_its_inodes_and_a_missing_path_is_unknown(tmp_path):
    """Two folders of one file system are one disk."""
    (tmp_path / "a").mkdir()
    disks, unknown = read_disks([tmp_path, tmp_path / "a", tmp_path / "missing"])
    assert [disk.path for disk in disks] == [str(tmp_path)]
    assert 0 < disks[0].free <= disks[0].total
    assert disks[0].inodes is None or 0 < disks[0].inodes_free <= disks[0].inodes
    assert list(unknown) == [str(tmp_path / "missing")]


def test_segments_of_shared_memory_are_counted(tmp_path):
    """DataLoader workers leave them behind when they are killed."""
    (tmp_path / "torch_1").write_bytes(b"x")
    (tmp_path / "torch_2").write_bytes(b"x")
    shm = read_shm(tmp_path)
    assert shm.segments == 2
    assert 0 < shm.used < shm.total
    with pytest.raises(UnknownError):
        read_shm(tmp_path / "none")

"""Recorded control groups: version 2 on a plain machine and in containers, version 1, both mixed, and none."""

import pytest

from trainbus.machine.cgroups import locate, read_group
from trainbus.machine.text import UnknownError

MIB = 1 << 20
STAT_2 = (
    "anon 600000000\nfile 300000000\nkernel 30000000\nshmem 0\ninactive_file 200000000\nactive_file 90000000\nslab_reclaimable 10000000\n"
)
STAT_1 = (
    "cache 300000000\nrss 600000000\ninactive_file 1\nactive_file 1\nhierarchical_memory_limit 1073741824\n"
    "total_cache 300000000\ntotal_rss 600000000\ntotal_inactive_file 200000000\ntotal_active_file 90000000\n"
)
PRESSURE = "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1\n"


class Machine:
    """A /proc and a /sys of files."""

    def __init__(self, root):
        self.proc, self.sys = root / "proc", root / "sys"
        self.sys.mkdir()

    def process(self, cgroup, mountinfo, pid=7):
        folder = self.proc / str(pid)
        folder.mkdir(parents=True)
        (folder / "cgroup").write_text(cgroup)
        (folder / "mountinfo").write_text(mountinfo.replace("SYS", str(self.sys)))

    def group(self, path, **files):
        folder = self.sys / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(str(content))

    def two(self, path, limit, used="900000000"):
        files = {"memory__max": f"{limit}\n", "memory__current": f"{used}\n", "memory__stat": STAT_2}
        self.group(path, **files, memory__events="low 0\nhigh 0\nmax 5\noom 2\noom_kill 2\noom_group_kill 0\n", memory__pressure=PRESSURE)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


UNIFIED = "29 23 0:26 / SYS rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_version_2_tells_limit_use_kills_and_pressure(machine):
    """In use is what the kernel can't take back: the page cache is not."""
    machine.process("0::/user.slice/train.scope\n", UNIFIED)
    machine.two("user.slice/train.scope", 1 << 30)
    group = read_group(locate(machine.proc, 7))
    assert (group.version, group.limit, group.used, group.cache) == (2, 1 << 30, 600_000_000, 300_000_000)
    assert (group.oom_kills, group.pressure.full, group.peak) == (2, 0.5, None)
    assert group.path == str(machine.sys / "user.slice/train.scope")


def test_the_tightest_of_several_limits_counts(machine):
    """A job without a limit of its own lives under its slice's; what has least room kills first."""
    machine.process("0::/pod/container/app\n", UNIFIED)
    machine.two("pod/container/app", "max")
    machine.two("pod/container", 4 << 30)
    machine.two("pod", 2 << 30, used="1500000000")
    assert read_group(locate(machine.proc, 7)).path == str(machine.sys / "pod")


def test_a_container_sees_its_own_group_as_the_root(machine):
    """With a namespace of its own the path is /, without one it is the host's, which is not mounted."""
    machine.two(".", 512 * MIB)
    machine.process("0::/\n", UNIFIED)
    machine.process("0::/docker/4f1c\n", UNIFIED, pid=8)
    machine.process("0::/docker/4f1c\n", UNIFIED.replace(" / SYS", " /docker/4f1c SYS"), pid=9)
    for pid in (7, 8, 9):
        assert read_group(locate(machine.proc, pid)).limit == 512 * MIB


def test_version_1_tells_the_same(machine):
    """Its numbers below the group are the ones that begin with total_."""
    lines = "5:memory:/job\n4:cpu,cpuacct:/job\n0::/job\n"
    machine.process(lines, "35 31 0:32 / SYS rw - cgroup cgroup rw,memory\n36 31 0:30 / SYS/cpu rw - cgroup cgroup rw,cpu,cpuacct\n")
    oom = "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"
    usage = {"memory__usage_in_bytes": 900_000_000, "memory__max_usage_in_bytes": 950_000_000, "memory__memsw__usage_in_bytes": 910_000_000}
    machine.group("job", memory__limit_in_bytes=1 << 30, memory__stat=STAT_1, memory__oom_control=oom, **usage)
    machine.group(".", memory__limit_in_bytes=9223372036854771712)
    group = read_group(locate(machine.proc, 7))
    assert (group.version, group.limit, group.used, group.peak) == (1, 1 << 30, 610_000_000, 950_000_000)
    assert (group.oom_kills, group.swap, group.pressure) == (1, 10_000_000, None)


def test_where_both_versions_are_mounted_the_one_with_the_memory_controller_counts(machine):
    """Systemd's hybrid mode; and the other way round, version 2 with version 1 for devices."""
    both = "35 31 0:32 / SYS/memory rw - cgroup cgroup rw,memory\n41 31 0:38 / SYS/unified rw - cgroup2 cgroup2 rw\n"
    machine.process("4:memory:/a\n0::/a\n", both)
    machine.process("4:devices:/a\n0::/a\n", both.replace("rw,memory", "rw,devices"), pid=8)
    (machine.sys / "memory/a").mkdir(parents=True)
    (machine.sys / "unified/a").mkdir(parents=True)
    assert (locate(machine.proc, 7).version, locate(machine.proc, 8).version) == (1, 2)


def test_no_limit_is_none_and_not_an_enormous_number(machine):
    """Version 1 writes it as the greatest multiple of a page, version 2 as max."""
    machine.process("0::/free\n", UNIFIED)
    machine.two("free", "max")
    assert read_group(locate(machine.proc, 7)) is None
    machine.process("4:memory:/free\n", "35 31 0:32 / SYS rw - cgroup cgroup rw,memory\n", pid=8)
    machine.group("free", memory__limit_in_bytes=9223372036854771712)
    assert read_group(locate(machine.proc, 8)) is None


@pytest.mark.parametrize("cgroup", ["", "0::/gone\n", "nonsense", "4:cpu:/a\n"])
def test_a_kernel_without_control_groups_or_a_torn_file_is_unknown(machine, cgroup):
    """Never a crash."""
    machine.process(cgroup, "31 23 0:28 / SYS rw - tmpfs tmpfs rw\nshort line\n")
    with pytest.raises(UnknownError, match="no memory control group"):
        locate(machine.proc, 7)


def test_a_group_whose_files_are_torn_or_gone_is_unknown(machine):
    """It was removed between two reads."""
    machine.process("0::/half\n", UNIFIED)
    machine.group("half", memory__max=1 << 30)
    with pytest.raises(UnknownError, match="stat can't be read"):
        read_group(locate(machine.proc, 7))
    machine.group("half", memory__stat=STAT_2, memory__current="many")
    with pytest.raises(UnknownError, match="does not say what is in use"):
        read_group(locate(machine.proc, 7))
